#!/usr/bin/env python3
"""Measure the peak resident memory of real fine-tuning tasks on random models, for docs/MEMORY.md.

    scripts/memory_grid.py WORKER DIRECTORY [NAME...] > grid.jsonl
    cargo run -p bessemer-plan --example memory < grid.jsonl

Needs numpy; writes models of 32 to 130 M weights below DIRECTORY. NAME: only rows whose name begins so.
"""
import json
import os
import random
import shutil
import struct
import subprocess
import sys

import numpy as np

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "parity", "golden", "llama-gqa")


def model(root, name, vocab, hidden, intermediate, layers, heads, kv_heads):
    """A random Llama in Hugging Face's layout, fp32."""
    where = os.path.join(root, name)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocab, "hidden_size": hidden,
        "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "tie_word_embeddings": False, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32",
    }
    if os.path.exists(os.path.join(where, "config.json")):
        return where, config
    os.makedirs(where, exist_ok=True)
    width = hidden // heads
    tensors = {"model.embed_tokens.weight": (vocab, hidden), "lm_head.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    for i in range(layers):
        at = f"model.layers.{i}."
        for part, shape in {
            "self_attn.q_proj": (heads * width, hidden), "self_attn.k_proj": (kv_heads * width, hidden),
            "self_attn.v_proj": (kv_heads * width, hidden), "self_attn.o_proj": (hidden, heads * width),
            "mlp.gate_proj": (intermediate, hidden), "mlp.up_proj": (intermediate, hidden),
            "mlp.down_proj": (hidden, intermediate), "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
        }.items():
            tensors[f"{at}{part}.weight"] = shape
    head, offset = {}, 0
    for name, shape in tensors.items():
        size = 4 * int(np.prod(shape))
        head[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    draw = np.random.default_rng(1)
    with open(os.path.join(where, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for shape in tensors.values():
            ones = len(shape) == 1
            f.write((np.ones(shape, np.float32) if ones else draw.standard_normal(shape, dtype=np.float32) * 0.02).tobytes())
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(GOLDEN, file), where)
    with open(os.path.join(where, "config.json"), "w") as f:
        json.dump(config, f)
    return where, config


def rows(root, tokens):
    """Rows that are longer than `tokens`, so that every one is cut to it."""
    path = os.path.join(root, f"rows-{tokens}.jsonl")
    draw = random.Random(1)
    with open(path, "w") as f:
        for _ in range(8):
            text = "".join(draw.choice("abcdefghijklmnopqrstuvwxyz ") for _ in range(8 * tokens))
            f.write(json.dumps({"prompt": "q", "completion": text}) + "\n")
    return path


def peak(worker, root, name, model_dir, params, data):
    """Runs one attempt of kind sft; peak resident bytes and its outcome."""
    task = os.path.join(root, f"task-{name}")
    shutil.rmtree(task, ignore_errors=True)
    attempt = os.path.join(task, "attempt-1")
    os.makedirs(attempt)
    spec = {
        "format": 1, "sweep": "grid", "phase": "sft", "labels": {}, "key": "k" * 20, "attempt": 1, "token": "bs-abcdefghijkl",
        "kind": "sft", "params": params, "inputs": {}, "services": {}, "consumers": [],
        "sources": {
            "model": [{"reference": name, "identity": "random", "path": model_dir}],
            "data": [{"reference": "rows", "identity": "random", "path": data}],
        },
        "resources": {"cpus": 2, "gpus": 0, "memory_mb": 16000, "walltime_s": 3600},
        "task_dir": task, "attempt_dir": attempt, "margin_s": 10,
    }
    with open(os.path.join(attempt, "task.json"), "w") as f:
        json.dump(spec, f)
    with open(os.path.join(attempt, "err"), "w") as err:
        process = subprocess.Popen([worker, "run", os.path.join(attempt, "task.json")], stderr=err)
    _, _, usage = os.wait4(process.pid, 0)
    try:
        with open(os.path.join(attempt, "outcome.json")) as f:
            outcome = json.load(f)
    except FileNotFoundError:
        with open(os.path.join(attempt, "err")) as f:
            outcome = {"status": "failed", "message": f.read()}
    shutil.rmtree(os.path.join(attempt, "out"), ignore_errors=True)
    return usage.ru_maxrss * 1024, outcome


def main():
    worker, root, only = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2]), sys.argv[3:]
    os.makedirs(root, exist_ok=True)
    a = model(root, "a", 8000, 512, 1408, 8, 8, 4)
    b = model(root, "b", 32000, 256, 704, 4, 4, 4)
    c = model(root, "c", 32000, 768, 2048, 12, 12, 12)
    lora = {"r": 16, "alpha": 32.0, "dropout": 0.0}
    grid = [
        ("a-lora-2x512", a, {"batch": 2, "max_tokens": 512, "lora": lora}),
        ("a-lora-4x512", a, {"batch": 4, "max_tokens": 512, "lora": lora}),
        ("a-lora-8x512", a, {"batch": 8, "max_tokens": 512, "lora": lora}),
        ("a-lora-2x2048", a, {"batch": 2, "max_tokens": 2048, "lora": lora}),
        ("a-lora-dropout-4x512", a, {"batch": 4, "max_tokens": 512, "lora": {**lora, "dropout": 0.1}}),
        ("a-lora-bf16-4x512", a, {"batch": 4, "max_tokens": 512, "lora": lora, "precision": "bf16"}),
        ("a-lora-recompute-4x512", a, {"batch": 4, "max_tokens": 512, "lora": lora, "recompute": True}),
        ("a-full-1x256", a, {"batch": 1, "max_tokens": 256, "lora": None}),
        ("a-full-4x512", a, {"batch": 4, "max_tokens": 512, "lora": None}),
        ("a-full-2x2x512", a, {"batch": 2, "accumulation": 2, "max_tokens": 512, "lora": None}),
        ("b-lora-4x512", b, {"batch": 4, "max_tokens": 512, "lora": lora}),
        ("b-full-4x512", b, {"batch": 4, "max_tokens": 512, "lora": None}),
        ("c-lora-1x512", c, {"batch": 1, "max_tokens": 512, "lora": lora}),
        ("c-lora-4x512", c, {"batch": 4, "max_tokens": 512, "lora": lora}),
        ("c-full-1x512", c, {"batch": 1, "max_tokens": 512, "lora": None}),
    ]
    for name, (where, config), params in grid:
        if only and not any(name.startswith(o) for o in only):
            continue
        params = {"epochs": 1, "max_steps": 2, "accumulation": 1, "checkpoint_every": 0, **params}
        found, outcome = peak(worker, root, name, where, params, rows(root, params["max_tokens"]))
        if outcome["status"] != "ok":
            print(f"{name}: {outcome['message']}", file=sys.stderr)
            continue
        print(json.dumps({"name": name, "peak_mb": round(found / 1e6), "params": params, "config": config}), flush=True)


main()
