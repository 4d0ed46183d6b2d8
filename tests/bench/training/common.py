"""What the peers share: the rows, and the line that the bench reads."""

import json
import resource
import sys

import torch
from peft import LoraConfig

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
DIR, PRECISION, SET = sys.argv[1:4]
DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16}[PRECISION]
ROWS = json.load(open(f"{DIR}/rows.json"))[SET]
# micro-batches per step, steps
ACCUMULATION, STEPS = (1, 6) if SET == "padded" else (4, 5)
LORA = LoraConfig(r=16, lora_alpha=32, target_modules=TARGETS, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM")


def report(engine, ends, losses):
    """`ends`: when each step ended."""
    seconds = ends[-1] - ends[0]
    tokens = sum(len(r["ids"]) for r in ROWS)
    per_step = tokens if SET == "padded" else tokens / STEPS
    print(json.dumps({
        "engine": engine, "precision": PRECISION, "set": SET, "tokens_per_s": per_step * (STEPS - 1) / seconds,
        "seconds_per_step": seconds / (STEPS - 1),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, "losses": losses,
    }), flush=True)
