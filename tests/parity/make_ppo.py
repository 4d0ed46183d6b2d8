"""Writes tests/parity/golden/ppo/: what TRL's PPO trainer computes from rollouts that are off policy.

TRL 1.12 is the last that has a PPO trainer (`trl.experimental.ppo`): it runs in an environment of its own (setup.sh). Its arithmetic
stands in the middle of `train()`. That runs here unchanged on a tiny model; only where rollouts, values and scores come from is
replaced, and what it computes is read off its variables. The files are committed.
"""
import inspect
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

torch.set_num_threads(1)
GOLDEN = Path(__file__).parent / "golden"
BASE = GOLDEN / "llama-gqa"
PLACE = GOLDEN / "ppo"
PROMPTS, ANSWERS = [5, 5, 9, 9, 3, 3], [7, 12, 4, 12, 1, 9]
SCORES = [1.0, 0.0, 0.25, 0.75, 0.5, 0.5]
TEMPERATURE, GAMMA, LAMBDA = 0.7, 0.98, 0.9


class Enough(Exception):
    """The trainer has done what is looked at."""


def rollouts(pad):
    """Prompts padded on the left, answers on the right."""
    generator = torch.Generator().manual_seed(12)
    longest, most = max(PROMPTS), max(ANSWERS)
    queries = torch.full((len(PROMPTS), longest), pad)
    answers = torch.full((len(PROMPTS), most), pad)
    ids = torch.zeros(len(PROMPTS), longest + most, dtype=torch.int64)
    for i, (p, n) in enumerate(zip(PROMPTS, ANSWERS)):
        row = torch.randint(3, 320, (p + n,), generator=generator)
        queries[i, longest - p:], answers[i, :n], ids[i, :p + n] = row[:p], row[p:], row
    return queries, answers, ids, generator


def run(estimator, kl_coef):
    """One update of TRL's trainer; what it said about every token of every row."""
    tokenizer = AutoTokenizer.from_pretrained(BASE, padding_side="left")
    pad = tokenizer.pad_token_id
    queries, answers, ids, generator = rollouts(pad)
    both = torch.cat([queries, answers], 1)
    noise = 0.3 * torch.randn(*answers.shape, 320, generator=generator)
    values = 0.5 + 0.4 * torch.randn(*both.shape, 1, generator=generator)
    weight = 0.2 * torch.randn(1, 32, generator=generator)
    policy = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32), BASE / "adapter", is_trainable=True)
    critic = AutoModelForSequenceClassification.from_pretrained(BASE, num_labels=1, dtype=torch.float32)
    # as ours: a head that reads the policy's trunk and does not train it
    critic.model.load_state_dict(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32), BASE / "adapter")
                                 .merge_and_unload().model.state_dict())
    critic.model.requires_grad_(False)
    critic.score.weight.data.copy_(weight)
    rewarder = AutoModelForSequenceClassification.from_pretrained(BASE, num_labels=1, dtype=torch.float32)
    out, calls = {}, []

    def generated(model, given, *_):
        # as if from an older policy, far enough for ratios on both sides of the clip
        assert torch.equal(given, queries), "the loader has changed the order of the rows"
        logits = ppo_trainer.forward(policy, both, pad).logits[:, queries.shape[1] - 1:-1] / TEMPERATURE
        return both, logits + noise

    def judged(model, *_):
        return (values, None, None) if model is not rewarder else (None, torch.tensor(SCORES), None)

    def whitened(given, mask, shift_mean=True, _original=ppo_trainer.masked_whiten):
        found = _original(given, mask, shift_mean)
        at = inspect.currentframe().f_back.f_locals
        out.update({name: at[name].clone() for name in ("logprobs", "ref_logprobs", "values", "kl", "rewards", "returns", "padding_mask",
                                                        "padding_mask_p1", "scores")})
        out.update({"raw_advantages": given.clone(), "advantages": found.clone()})
        return found

    def averaged(given, mask, axis=None, _original=ppo_trainer.masked_mean):
        found = _original(given, mask, axis)
        at = inspect.currentframe().f_back.f_locals
        if "vpred" in at:  # within the update: value loss, its clipped share, policy loss, its clipped share
            calls.append(found.detach().clone())
        if len(calls) == 1 and at["vpred"].requires_grad:
            at["vpred"].retain_grad()
        if len(calls) == 4:
            back = torch.as_tensor(at["micro_batch_inds"]).argsort()
            out.update({name: at[name].detach()[back] for name in ("new_logprobs", "vpred", "vf_loss_max", "pg_loss_max")})
            out.update({name: at[name].detach().clone() for name in ("vf_loss", "pg_loss", "loss")})
            out.update({"clipped": calls[3], "grad_vpred": at["vpred"].grad[back]})
            raise Enough
        return found

    class Kept(torch.optim.SGD):
        """Keeps the gradients of the one step and takes none."""

        def step(self, closure=None):
            for name, p in policy.named_parameters():
                if p.requires_grad:
                    out["grad." + name.replace(".default", "")] = p.grad.clone()

    trainable = [p for p in [*policy.parameters(), critic.score.weight] if p.requires_grad]
    optimizer = Kept(trainable, lr=1.0)
    replaced = {"batch_generation": generated, "get_reward": judged, "masked_whiten": whitened, "masked_mean": averaged,
                "unwrap_model_for_generation": lambda model, *_, **__: Whole(model)}
    originals = {name: getattr(ppo_trainer, name) for name in replaced}
    with tempfile.TemporaryDirectory() as tmp:
        args = PPOConfig(output_dir=tmp, per_device_train_batch_size=6, num_ppo_epochs=1, num_mini_batches=1, total_episodes=6,
                         kl_estimator=estimator, kl_coef=kl_coef, cliprange=0.2, cliprange_value=0.2, vf_coef=0.5, gamma=GAMMA, lam=LAMBDA,
                         temperature=TEMPERATURE, response_length=max(ANSWERS), num_sample_generations=0, use_cpu=True, bf16=False,
                         gradient_checkpointing=False, report_to="none", seed=0)
        trainer = PPOTrainer(args=args, processing_class=tokenizer, model=policy, ref_model=None, reward_model=rewarder, value_model=critic,
                             train_dataset=Dataset.from_list([{"input_ids": q.tolist()} for q in queries]),
                             data_collator=lambda _: {"input_ids": queries.clone()},
                             optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)))
        for name, function in replaced.items():
            setattr(ppo_trainer, name, function)
        np.random.seed(0)  # the update shuffles the rows
        try:
            trainer.train()
            raise AssertionError("the trainer did not get to its loss")
        except Enough:
            pass
        finally:
            for name, function in originals.items():
                setattr(ppo_trainer, name, function)
    out |= {"ids": ids, "value_weight": weight}
    return out


class Whole:
    """In place of a context in which the model is unwrapped."""

    def __init__(self, model):
        self.model = model

    def __enter__(self):
        return self.model

    def __exit__(self, *_):
        return False


def main():
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir()
    out = {"prompts": torch.tensor(PROMPTS), "answers": torch.tensor(ANSWERS)}
    for estimator in ("k1", "k3"):
        found = run(estimator, 0.05)
        if estimator == "k3":  # what does not depend on the rewards is written once
            for name in ("kl", "rewards", "raw_advantages", "advantages", "returns"):
                out[f"k3.{name}"] = found[name]
            continue
        out |= found
    save_file({k: (v.double() if v.is_floating_point() and v.dim() == 0 else v).contiguous() for k, v in out.items()},
              PLACE / "golden.safetensors")
    print("parity: PPO written")


if __name__ == "__main__":
    sys.exit(main())
