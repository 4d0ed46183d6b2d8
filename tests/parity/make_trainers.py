"""Writes tests/parity/golden/trainers/: what TRL's SFTTrainer and a 4-bit base of bitsandbytes under PEFT do with the llama-gqa model.

Run by `make parity` after make_golden.py. The files are committed.
"""
import shutil
import sys
import tempfile
from pathlib import Path

import bitsandbytes.functional as bnb
import torch
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, LlamaConfig
from trl import SFTConfig, SFTTrainer

import make_golden

torch.set_num_threads(1)
GOLDEN = Path(__file__).parent / "golden"
BASE = GOLDEN / "llama-gqa"


PLACE = GOLDEN / "trainers"


def with_adapter(base, **kwargs):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, **kwargs)
    return PeftModel.from_pretrained(model, base / "adapter", is_trainable=True)


def trl():
    """50 steps on completions, two rows of unequal length a step."""
    torch.manual_seed(5)
    lengths = torch.randint(12, 25, (100,))
    prompts = torch.randint(3, 9, (100,))
    ids = torch.zeros(100, 24, dtype=torch.int64)
    rows = []
    for i in range(100):
        n, p = int(lengths[i]), int(prompts[i])
        ids[i, :n] = torch.randint(3, 320, (n,))
        rows.append({"input_ids": ids[i, :n].tolist(), "completion_mask": [0] * p + [1] * (n - p)})
    losses = []

    class Heard(SFTTrainer):
        def compute_loss(self, *args, **kwargs):
            out = super().compute_loss(*args, **kwargs)
            losses.append((out[0] if isinstance(out, tuple) else out).item())
            return out

    with tempfile.TemporaryDirectory() as tmp:
        args = SFTConfig(output_dir=tmp, per_device_train_batch_size=2, max_steps=50, learning_rate=5e-3, weight_decay=0.01,
                         max_grad_norm=1.0, lr_scheduler_type="constant", optim="adamw_torch", bf16=False, use_cpu=True,
                         gradient_checkpointing=False, train_sampling_strategy="sequential", report_to="none", packing=False,
                         max_length=None, completion_only_loss=True, save_strategy="no", dataloader_num_workers=0, seed=0)
        Heard(model=with_adapter(BASE), args=args, train_dataset=Dataset.from_list(rows),
              processing_class=AutoTokenizer.from_pretrained(BASE)).train()
    assert len(losses) == 50, len(losses)
    return {"trl.ids": ids, "trl.lengths": lengths, "trl.prompts": prompts, "trl.curve": torch.tensor(losses, dtype=torch.float64)}


def nf4():
    """A packed weight, and 50 steps of an adapter over a 4-bit base, on the batches of make_golden.py.

    Rows are whole blocks of 64: bitsandbytes 0.50.2 unpacks others wrongly on a CPU (quantize_4bit of a [16, 32] weight is right,
    dequantize_4bit of it is not), which is why this model is not llama-gqa.
    """
    base = PLACE / "base"
    torch.manual_seed(6)
    config = LlamaConfig(**{**make_golden.COMMON, "hidden_size": 64, "intermediate_size": 64}, num_key_value_heads=2,
                         tie_word_embeddings=True)
    plain = AutoModelForCausalLM.from_config(config).float()
    plain.save_pretrained(base)
    make_golden.lora(plain, 7).save_pretrained(base / "adapter")
    (base / "adapter" / "README.md").unlink(missing_ok=True)
    weight = torch.randn(24, 64) * torch.rand(24, 1)
    packed, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=False)
    out = {"nf4.weight": weight, "nf4.unpacked": bnb.dequantize_4bit(packed, state),
           "nf4.packed": packed.view(torch.uint8).flatten(), "nf4.scale": state.absmax}
    model = with_adapter(base, quantization_config=BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32), device_map="cpu")
    golden = load_file(BASE / "golden.safetensors")
    model.train()  # its kernels for inference on a CPU want rows of whole blocks; there is no dropout
    out["nf4.logits"] = model(input_ids=golden["ids"]).logits.detach()
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=5e-3, weight_decay=0.01)
    losses = []
    for batch in golden["curve_rows"]:
        optimizer.zero_grad()
        labels = batch.clone()
        labels[:, :8] = -100
        logits = model(input_ids=batch).logits.float()
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1),
                                                 ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        losses.append(loss.item())
    out["nf4.curve"] = torch.tensor(losses, dtype=torch.float64)
    return out


def main():
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir()
    save_file({k: v.contiguous() for k, v in {**trl(), **nf4()}.items()}, PLACE / "golden.safetensors")
    print("parity: trainers written")


if __name__ == "__main__":
    sys.exit(main())
