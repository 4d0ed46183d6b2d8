"""Writes tests/parity/golden/rl/: TRL's GRPO loss over rollouts that are off policy, and 50 steps of training every weight.

Run after make_golden.py in the environment of setup.sh. The files are committed. TRL 1.16 has no PPO trainer any more: make_ppo.py has the
last one.
"""
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

torch.set_num_threads(1)
GOLDEN = Path(__file__).parent / "golden"
BASE = GOLDEN / "llama-gqa"
PLACE = GOLDEN / "rl"
PROMPTS, ANSWERS = [5, 5, 9, 9, 3, 3], [7, 12, 4, 12, 1, 9]
REWARDS = [1.0, 0.0, 0.25, 0.75, 0.5, 0.5]
# what an answer may have: more than any has, since `dr_grpo` divides by it
LONGEST = 16


def plain():
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)


def grpo(**settings):
    """TRL's loss and what it is made of; `settings` of the trainer."""
    model = PeftModel.from_pretrained(plain(), BASE / "adapter", is_trainable=True)
    tokenizer = AutoTokenizer.from_pretrained(BASE, padding_side="left")
    generator = torch.Generator().manual_seed(11)
    rows, longest, most = len(PROMPTS), max(PROMPTS), max(ANSWERS)
    prompt, prompt_mask = torch.zeros(rows, longest, dtype=torch.int64), torch.zeros(rows, longest, dtype=torch.int64)
    answer, answer_mask = torch.zeros(rows, most, dtype=torch.int64), torch.zeros(rows, most, dtype=torch.int64)
    ids = torch.zeros(rows, longest + most, dtype=torch.int64)
    for i, (p, n) in enumerate(zip(PROMPTS, ANSWERS)):
        row = torch.randint(3, 320, (p + n,), generator=generator)
        ids[i, :p + n] = row
        prompt[i, longest - p:], prompt_mask[i, longest - p:] = row[:p], 1
        answer[i, :n], answer_mask[i, :n] = row[p:], 1
    out = {"ids": ids, "prompts": torch.tensor(PROMPTS), "answers": torch.tensor(ANSWERS),
           "rewards": torch.tensor(REWARDS, dtype=torch.float64)}
    with tempfile.TemporaryDirectory() as tmp:
        settings = {"loss_type": "bnpo", "beta": 0.05, "entropy_coef": 0.01, **settings}
        args = GRPOConfig(output_dir=tmp, per_device_train_batch_size=6, num_generations=2, epsilon=0.2, temperature=0.7,
                          use_bias_correction_kl=False,  # ours is the plain k3 term
                          use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
                          max_completion_length=LONGEST, seed=0, **settings)
        trainer = GRPOTrainer(model=model, reward_funcs=lambda completions, **_: [0.0] * len(completions), args=args,
                              train_dataset=Dataset.from_list([{"prompt": "x"}] * 6), processing_class=tokenizer)
        trainer.current_gradient_accumulation_steps = 1
        model.train()
        both, masks = torch.cat([prompt, answer], 1), torch.cat([prompt_mask, answer_mask], 1)

        def measured():
            found = trainer._get_per_token_logps_and_entropies(model, both, masks, most, compute_entropy=True)
            return found[0].detach(), found[1].detach()

        logprobs, entropies = measured()
        with model.disable_adapter():
            reference, _ = measured()
        # as if from an older policy, far enough for ratios on both sides of the clip
        old = logprobs + 0.3 * torch.randn(logprobs.shape, generator=generator)
        rewards = torch.tensor(REWARDS).view(-1, 2)
        advantages = ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)).flatten()
        loss = trainer._compute_loss(model, {
            "prompt_ids": prompt, "prompt_mask": prompt_mask, "completion_ids": answer, "completion_mask": answer_mask,
            "advantages": advantages, "old_per_token_logps": old, "ref_per_token_logps": reference,
            "num_items_in_batch": answer_mask.sum()})
        loss.backward()
        # without their terms the trainer reports neither
        metrics = {"kl": 0.0, "policy_loss": loss.item()} | {name: values[-1] for name, values in trainer._metrics["train"].items() if values}
    mask = answer_mask.bool()
    out |= {"logprobs": logprobs[mask], "entropies": entropies[mask], "reference": reference[mask], "old": old[mask],
            "advantages": advantages.double(), "loss": loss.detach().double(), "kl": torch.tensor(metrics["kl"]).double(),
            "policy_loss": torch.tensor(metrics["policy_loss"]).double(),
            "clipped": torch.tensor(metrics["clip_ratio/region_mean"]).double()}
    for name, p in model.named_parameters():
        if p.requires_grad:
            out["grad." + name.replace(".default", "")] = p.grad
    return out


def reductions():
    """The loss alone under each way of adding tokens up, with and without the KL term."""
    out = {"longest": torch.tensor(LONGEST)}
    for loss_type in ("grpo", "bnpo", "dr_grpo", "dapo"):
        for beta in (0.0, 0.05):
            out[f"loss.{loss_type}.{beta}"] = grpo(loss_type=loss_type, beta=beta, entropy_coef=0.0)["loss"]
    return out


def whole():
    """Every weight, on the batches of make_golden.py."""
    model = plain()
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    losses = []
    for batch in load_file(BASE / "golden.safetensors")["curve_rows"]:
        optimizer.zero_grad()
        labels = batch.clone()
        labels[:, :8] = -100
        loss = model(input_ids=batch, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return {"whole.curve": torch.tensor(losses, dtype=torch.float64)}


def main():
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir()
    save_file({k: v.contiguous() for k, v in {**grpo(), **reductions(), **whole()}.items()}, PLACE / "golden.safetensors")
    print("parity: reinforcement learning written")


if __name__ == "__main__":
    sys.exit(main())
