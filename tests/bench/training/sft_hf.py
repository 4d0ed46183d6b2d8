"""A plain loop over transformers + PEFT: what a careful user writes."""

import time

import torch
from common import ACCUMULATION, DIR, DTYPE, LORA, ROWS, SET, STEPS, report
from peft import get_peft_model
from transformers import AutoModelForCausalLM

torch.manual_seed(0)
model = get_peft_model(AutoModelForCausalLM.from_pretrained(f"{DIR}/model", dtype=DTYPE), LORA)
model.config.use_cache = False
model.train()
params = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(params, lr=1e-4, weight_decay=0.01, fused=True)
ends, losses = [], []
for step in range(STEPS):
    at = 0 if SET == "padded" else step * 16
    rows = ROWS[at:at + 4 * ACCUMULATION]
    trained = sum(len(r["ids"]) - r["prompt"] for r in rows)
    total = 0.0
    for k in range(ACCUMULATION):
        part = rows[4 * k:4 * k + 4]
        length = max(len(r["ids"]) for r in part)
        ids = torch.zeros(4, length, dtype=torch.long)
        mask = torch.zeros(4, length, dtype=torch.long)
        labels = torch.full((4, length), -100)
        for i, r in enumerate(part):
            n = len(r["ids"])
            ids[i, :n] = torch.tensor(r["ids"])
            mask[i, :n] = 1
            labels[i, r["prompt"]:n] = ids[i, r["prompt"]:n]
        # without padding the mask only costs
        out = model(input_ids=ids, attention_mask=None if SET == "padded" else mask, labels=labels,
                    num_items_in_batch=trained)
        out.loss.backward()
        total += out.loss.item()
    torch.nn.utils.clip_grad_norm_(params, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    ends.append(time.perf_counter())
    losses.append(total)
report("hf", ends, losses)
