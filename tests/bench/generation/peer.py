#!/usr/bin/env python3
"""The peer of the generation benchmark: transformers' generate on the same libtorch build.

peer.py make DIR                 writes a random model of the benchmark's shape to DIR
peer.py serve DIR float32|bfloat16   answers one JSON request per line on standard input with one JSON line
"""

import json
import os
import pathlib
import sys
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM, StoppingCriteria, StoppingCriteriaList


def make(where):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000, hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=2048, tie_word_embeddings=False, rms_norm_eps=1e-6,
        bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(where)
    golden = pathlib.Path(__file__).resolve().parents[2] / "parity" / "golden" / "llama-gqa" / "tokenizer.json"
    (pathlib.Path(where) / "tokenizer.json").write_bytes(golden.read_bytes())


class Lengths(StoppingCriteria):
    """Ends every row at its own length, as an end-of-sequence token would."""

    def __init__(self, prompt, lengths):
        self.ends = torch.tensor([prompt + n for n in lengths])

    def __call__(self, ids, scores, **_):
        return ids.shape[1] >= self.ends


def status(name):
    for line in open("/proc/self/status"):
        if line.startswith(name):
            return int(line.split()[1]) // 1024


def answer(model, ask):
    ids = torch.tensor(ask["ids"])
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    more = {}
    if "lengths" in ask:
        rows = [n for prompt in ask["lengths"] for n in prompt]
        more = {"stopping_criteria": StoppingCriteriaList([Lengths(ids.shape[1], rows)]), "pad_token_id": 0,
                "do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0,
                "num_return_sequences": len(ask["lengths"][0])}
        tokens = sum(rows)
    else:
        more = {"do_sample": False}
        tokens = ids.shape[0] * ask["new"]
    start = time.perf_counter()
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=ask["new"], **more)
    seconds = time.perf_counter() - start
    result = {"seconds": seconds, "tokens": tokens, "peak_mb": status("VmHWM")}
    if "lengths" not in ask:
        result["out"] = out[:, ids.shape[1]:].tolist()
    return result


def serve(where, dtype):
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = LlamaForCausalLM.from_pretrained(where, dtype=getattr(torch, dtype)).eval()
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads()}), flush=True)
    with torch.inference_mode():
        for line in sys.stdin:
            print(json.dumps(answer(model, json.loads(line))), flush=True)


if __name__ == "__main__":
    make(sys.argv[2]) if sys.argv[1] == "make" else serve(sys.argv[2], sys.argv[3])
