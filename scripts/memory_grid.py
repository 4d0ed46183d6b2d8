#!/usr/bin/env python3
"""Measure the peak resident memory of real tasks (sft, rl, serve with sample, eval) on random models, for docs/MEMORY.md.

    scripts/memory_grid.py WORKER DIRECTORY [NAME...] > grid.jsonl
    cargo run -p bessemer-plan --example memory < grid.jsonl

Needs numpy; writes models of 32 to 130 M weights below DIRECTORY. NAME: only rows whose name begins so.
"""
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys

import numpy as np

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "parity", "golden", "llama-gqa")
# tokens of a prompt, as the planner takes them to have, and of an answer
PROMPT, NEW = 1024, 64


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


def corpus(root, tokens, problems):
    """Problems whose prompts have `tokens` tokens each: one for the beginning, and letters that no merge of the tokenizer has."""
    where = os.path.join(root, f"corpus-{tokens}-{problems}")
    os.makedirs(where, exist_ok=True)
    draw = random.Random(2)
    for split in ("train", "validation", "held-out"):
        with open(os.path.join(where, f"problems.{split}.jsonl"), "w") as f:
            for i in range(problems):
                problem = {
                    "id": f"{split}/{i}", "family": "grid", "split": split, "reference": "print(1)",
                    "prompt": "".join(draw.choice("ABCDEFGHIJKLMNOQSTUVWXYZ") for _ in range(tokens - 1)),
                    "tests": [{"stdin": "", "expected": "1"}],
                }
                f.write(json.dumps(problem) + "\n")
    return where


class Attempt:
    """One attempt of the worker. `sources`: role -> path; `services`: role -> attempt."""

    def __init__(self, worker, root, name, kind, params, sources, services=None):
        self.task = os.path.join(root, f"task-{name}")
        shutil.rmtree(self.task, ignore_errors=True)
        self.dir = os.path.join(self.task, "attempt-1")
        os.makedirs(self.dir)
        spec = {
            "format": 1, "sweep": "grid", "phase": kind, "labels": {}, "key": "k" * 20, "attempt": 1, "token": "bs-abcdefghijkl",
            "kind": kind, "params": params, "inputs": {}, "consumers": [],
            "services": {r: {"phase": "serve", "key": "k" * 20, "task_dir": s.task} for r, s in (services or {}).items()},
            "sources": {r: [{"reference": r, "identity": "random", "path": p}] for r, p in sources.items()},
            "resources": {"cpus": 2, "gpus": 0, "memory_mb": 16000, "walltime_s": 3600},
            "task_dir": self.task, "attempt_dir": self.dir, "margin_s": 10,
        }
        with open(os.path.join(self.dir, "task.json"), "w") as f:
            json.dump(spec, f)
        with open(os.path.join(self.dir, "err"), "w") as err:
            self.process = subprocess.Popen([worker, "run", os.path.join(self.dir, "task.json")], stderr=err)

    def end(self):
        """Waits; peak resident bytes and the outcome."""
        _, _, usage = os.wait4(self.process.pid, 0)
        try:
            with open(os.path.join(self.dir, "outcome.json")) as f:
                outcome = json.load(f)
        except FileNotFoundError:
            with open(os.path.join(self.dir, "err")) as f:
                outcome = {"status": "failed", "message": f.read()}
        shutil.rmtree(os.path.join(self.dir, "out"), ignore_errors=True)
        return usage.ru_maxrss * 1024, outcome


def serving(worker, root, name, model_dir, params, problems, load):
    """A server under the load of a `sample` task that keeps it full; peaks and outcomes of both."""
    server = Attempt(worker, root, name, "serve", params, {"model": model_dir})
    # the server binds loopback outside of batch jobs; the sampler waits for its lease
    sampler = Attempt(worker, root, name + "-sample", "sample", load, {"corpus": problems}, {"generator": server})
    drawn = sampler.end()
    os.kill(server.process.pid, signal.SIGTERM)
    return server.end(), drawn


def main():
    worker, root, only = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2]), sys.argv[3:]
    os.makedirs(root, exist_ok=True)
    a = model(root, "a", 8000, 512, 1408, 8, 8, 4)
    b = model(root, "b", 32000, 256, 704, 4, 4, 4)
    c = model(root, "c", 32000, 768, 2048, 12, 12, 12)
    lora = {"r": 16, "alpha": 32.0, "dropout": 0.0}
    nf4 = {"lora": lora, "quantization": "nf4"}
    sft = [
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
        ("a-nf4-4x512", a, {"batch": 4, "max_tokens": 512, **nf4}),
        ("a-nf4-recompute-4x512", a, {"batch": 4, "max_tokens": 512, **nf4, "recompute": True}),
        ("a-nf4-bf16-4x512", a, {"batch": 4, "max_tokens": 512, **nf4, "precision": "bf16"}),
        ("a-nf4-bf16-recompute-4x512", a, {"batch": 4, "max_tokens": 512, **nf4, "precision": "bf16", "recompute": True}),
        ("c-nf4-1x512", c, {"batch": 1, "max_tokens": 512, **nf4}),
        ("c-nf4-4x512", c, {"batch": 4, "max_tokens": 512, **nf4}),
        ("c-nf4-recompute-4x512", c, {"batch": 4, "max_tokens": 512, **nf4, "recompute": True}),
        ("c-nf4-bf16-4x512", c, {"batch": 4, "max_tokens": 512, **nf4, "precision": "bf16"}),
        ("c-nf4-bf16-recompute-4x512", c, {"batch": 4, "max_tokens": 512, **nf4, "precision": "bf16", "recompute": True}),
    ]
    small = {"prompts": 2, "rollouts": 8, "minibatch": 4}
    wide = {"prompts": 4, "rollouts": 16, "minibatch": 2}
    grpo, ppo, bf16 = {"algorithm": "grpo"}, {"algorithm": "ppo"}, {"precision": "bf16"}
    rl = [
        ("a-grpo-2x8-4", a, {**grpo, **small}),
        ("a-grpo-4x16-2", a, {**grpo, **wide}),
        ("a-grpo-bf16-2x8-4", a, {**grpo, **small, **bf16}),
        ("a-grpo-bf16-4x16-2", a, {**grpo, **wide, **bf16}),
        ("a-grpo-recompute-2x8-4", a, {**grpo, **small, "recompute": True}),
        ("a-grpo-nf4-2x8-4", a, {**grpo, **small, **nf4}),
        ("a-grpo-nf4-4x16-1", a, {**grpo, **wide, **nf4, "minibatch": 1, "recompute": True}),
        ("a-grpo-full-2x8-4", a, {**grpo, **small, "lora": None}),
        ("a-ppo-2x8-4", a, {**ppo, **small}),
        ("a-ppo-bf16-4x16-2", a, {**ppo, **wide, **bf16}),
        ("b-ppo-4x16-2", b, {**ppo, **wide}),
        ("c-grpo-2x4-1", c, {**grpo, "prompts": 2, "rollouts": 4, "minibatch": 1}),
        ("c-ppo-bf16-2x4-2", c, {**ppo, "prompts": 2, "rollouts": 4, "minibatch": 2, **bf16}),
        ("c-grpo-recompute-8x8-1", c, {**grpo, "prompts": 8, "rollouts": 8, "minibatch": 1, "recompute": True}),
    ]
    halves = {**bf16, "kv_precision": "bf16"}
    serve = [
        ("a-serve-8", a, 8, {}), ("a-serve-32", a, 32, {}), ("b-serve-16", b, 16, {}), ("c-serve-4", c, 4, {}),
        ("c-serve-16", c, 16, {}), ("c-serve-1", c, 1, {}), ("c-serve-bf16-1", c, 1, bf16), ("c-serve-bf16-16", c, 16, bf16),
        ("c-serve-bf16-pages-16", c, 16, halves), ("c-serve-nf4-bf16-4", c, 4, {"quantization": "nf4", **bf16}),
        # pages for six of the sixteen
        ("c-serve-limit-16", c, 16, {"kv_bytes": 512_000_000}),
    ]
    measure = [
        ("a-eval-4", a, 4, {}), ("b-eval-1", b, 1, {}), ("c-eval-8", c, 8, {}), ("c-eval-bf16-8", c, 8, bf16),
        ("c-eval-8-batch-16", c, 8, {"max_batch": 16}),
    ]

    def wanted(name):
        return not only or any(name.startswith(o) for o in only)

    def say(name, kind, config, params, found):
        peak, outcome = found
        # a server is told to leave, which is no failure of its own
        if outcome["status"] not in ("ok", "checkpointed"):
            print(f"{name}: {outcome['message']}", file=sys.stderr)
            return
        row = {"name": name, "kind": kind, "peak_mb": round(peak / 1e6), "params": params, "config": config}
        print(json.dumps(row), flush=True)

    for name, (where, config), params in sft:
        if wanted(name):
            params = {"epochs": 1, "max_steps": 2, "accumulation": 1, "checkpoint_every": 0, **params}
            sources = {"model": where, "data": rows(root, params["max_tokens"])}
            say(name, "sft", config, params, Attempt(worker, root, name, "sft", params, sources).end())
    for name, (where, config), params in rl:
        if wanted(name):
            params = {"episodes": 2, "epochs": 1, "max_new_tokens": NEW, "validate_every": 0, "checkpoint_every": 0, **params}
            sources = {"model": where, "corpus": corpus(root, PROMPT, 16)}
            say(name, "rl", config, params, Attempt(worker, root, name, "rl", params, sources).end())
    for name, (where, config), streams, more in serve:
        if wanted(name):
            params = {"max_batch": streams, "max_new_tokens": NEW, **more}
            load = {"n": 1, "max_new_tokens": NEW, "concurrency": streams, "keep": "all"}
            problems = corpus(root, PROMPT, 2 * streams)
            server, sampler = serving(worker, root, name, where, params, problems, load)
            say(name, "serve", config, params, server)
            say(name + "-sample", "sample", config, load, sampler)
    for name, (where, config), samples, more in measure:
        if wanted(name):
            params = {"samples": samples, "max_new_tokens": NEW, "bootstrap": 100, **more}
            # two full batches of 64 sequences
            sources = {"model": where, "corpus": corpus(root, PROMPT, 128 // samples)}
            say(name, "eval", config, params, Attempt(worker, root, name, "eval", params, sources).end())


main()
