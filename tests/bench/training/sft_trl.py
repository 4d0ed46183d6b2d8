"""TRL's SFTTrainer with its usual settings, less logging, saving and recomputation."""

import time

import torch
from common import ACCUMULATION, DIR, DTYPE, LORA, ROWS, SET, STEPS, report
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

model = AutoModelForCausalLM.from_pretrained(f"{DIR}/model", dtype=DTYPE)
tokenizer = AutoTokenizer.from_pretrained(f"{DIR}/model")
rows = ROWS * STEPS if SET == "padded" else ROWS
data = Dataset.from_list([
    {"input_ids": r["ids"], "completion_mask": [0] * r["prompt"] + [1] * (len(r["ids"]) - r["prompt"])} for r in rows
])
ends, losses = [], []


class Clock(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        ends.append(time.perf_counter())

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            losses.append(float(logs["loss"]))


args = SFTConfig(
    output_dir=f"{DIR}/trl", per_device_train_batch_size=4, gradient_accumulation_steps=ACCUMULATION, max_steps=STEPS,
    learning_rate=1e-4, weight_decay=0.01, lr_scheduler_type="constant", optim="adamw_torch_fused", max_grad_norm=1.0,
    use_cpu=True, bf16=False, gradient_checkpointing=False, logging_steps=1, save_strategy="no", report_to="none",
    disable_tqdm=True, max_length=None, completion_only_loss=True, dataloader_num_workers=0,
)
trainer = SFTTrainer(model=model, args=args, train_dataset=data, processing_class=tokenizer, peft_config=LORA,
                     callbacks=[Clock()])
trainer.train()
report("trl", ends, losses)
