"""Writes tests/parity/golden/: tiny random models, and what transformers and PEFT compute with them.

Run by `make parity` in the environment of setup.sh; names of models as arguments make only those. The files are committed:
the Rust tests read them and need no Python.
"""
import json
import shutil
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (AutoModelForCausalLM, Gemma2Config, LlamaConfig, MistralConfig, PreTrainedTokenizerFast, Qwen2Config,
                          Starcoder2Config)

import templates

torch.set_num_threads(1)

GOLDEN = Path(__file__).parent / "golden"
TEXTS = [
    "Read n integers. Print how many are greater than 7.",
    "def solve(xs):\n    return sum(x * x for x in xs if x % 2 == 0)\n",
    "print(sum(map(int, input().split())))",
    "Ünïcödé, 漢字 and 🙂 in one line; tabs\tand  two  blanks",
    "for i in range(10):\n\tprint(i, end=' ')",
    "<|bos|>already framed<|eos|>",
    "",
]


def tokenizer():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    specials = ["<|pad|>", "<|bos|>", "<|eos|>"]
    t.train_from_iterator(TEXTS * 4, trainers.BpeTrainer(
        vocab_size=320, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    t.post_processor = processors.TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=t, pad_token="<|pad|>", bos_token="<|bos|>", eos_token="<|eos|>")


COMMON = dict(hidden_size=32, intermediate_size=88, num_hidden_layers=2, num_attention_heads=4, vocab_size=320,
              max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=0,
              initializer_range=0.2, attn_implementation="eager")
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32, rope_theta=10000.0)
MODELS = {
    "llama-gqa": LlamaConfig(**COMMON, num_key_value_heads=2, tie_word_embeddings=False),
    "llama-bias": LlamaConfig(**COMMON, num_key_value_heads=1, attention_bias=True, tie_word_embeddings=False),
    "deepseek-coder": LlamaConfig(**COMMON, num_key_value_heads=4, tie_word_embeddings=False,
                                  rope_parameters=dict(rope_type="linear", factor=4.0, rope_theta=100000.0)),
    "llama3": LlamaConfig(**COMMON, num_key_value_heads=2, tie_word_embeddings=True, rope_parameters=LLAMA3),
    "qwen2": Qwen2Config(**COMMON, num_key_value_heads=2, tie_word_embeddings=True),
    # windows shorter than the 16 tokens of the prompts below, so that prefill and cache both meet their edge
    "qwen2-windows": Qwen2Config(**COMMON, num_key_value_heads=2, tie_word_embeddings=False, use_sliding_window=True,
                                 sliding_window=9, max_window_layers=1),
    "mistral": MistralConfig(**COMMON, num_key_value_heads=2, sliding_window=12, head_dim=12),
    # caps low enough to bend the scores and logits that such a model has
    "gemma2": Gemma2Config(**COMMON, num_key_value_heads=2, head_dim=12, query_pre_attn_scalar=20, sliding_window=7,
                           attn_logit_softcapping=2.0, final_logit_softcapping=3.0, tie_word_embeddings=True),
    "starcoder2": Starcoder2Config(**COMMON, num_key_value_heads=2, sliding_window=12, tie_word_embeddings=True,
                                   hidden_act="gelu_pytorch_tanh"),
}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WIDE = ["q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj"]
# of these the norms' weights are drawn too: fresh ones (all 1 or all 0) hide mistakes
DRAWN_NORMS = {"qwen2-windows", "mistral", "gemma2", "starcoder2"}


def lora(model, seed):
    """A PEFT model whose B matrices are not zero."""
    torch.manual_seed(seed)
    targets = WIDE if model.config.model_type == "starcoder2" else TARGETS
    peft = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=targets,
                                            task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, p in peft.named_parameters():
            if "lora_" in name:
                p.normal_(0, 0.05)
    return peft


def ce(model, ids, prompt):
    """Mean loss of the tokens after `prompt`."""
    labels = ids.clone()
    labels[:, :prompt] = -100
    logits = model(input_ids=ids).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]).float(),
                                             labels[:, 1:].reshape(-1), ignore_index=-100)


def make(name, config, seed):
    out = GOLDEN / name
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():  # biases are zero in a fresh model: a mistake with them would not show
        for n, p in model.named_parameters():
            if n.endswith("bias"):
                p.normal_(0, 0.3)
            elif name in DRAWN_NORMS and "norm" in n:
                p.add_(torch.randn_like(p) * 0.3)
    model.save_pretrained(out, max_shard_size="60KB" if name == "llama-gqa" else "5GB")
    tokenizer().save_pretrained(out)
    if name == "deepseek-coder":  # the spelling before transformers 5
        doc = json.loads((out / "config.json").read_text())
        rope = doc.pop("rope_parameters")
        doc["rope_theta"] = rope["rope_theta"]
        doc["rope_scaling"] = {"type": "linear", "factor": rope["factor"]}
        (out / "config.json").write_text(json.dumps(doc, indent=2))
    torch.manual_seed(seed + 1)
    ids = torch.randint(3, 320, (3, 40))
    golden = {"ids": ids}
    with torch.no_grad():
        golden["logits"] = model(input_ids=ids).logits
        # greedy, without stopping: 24 tokens after 16
        golden["greedy"] = model.generate(ids[:, :16], attention_mask=torch.ones(3, 16, dtype=torch.long),
                                          do_sample=False, max_new_tokens=24, min_new_tokens=24)[:, 16:]
    peft = lora(model, seed + 2)
    peft.save_pretrained(out / "adapter")
    with torch.no_grad():
        golden["lora_logits"] = peft(input_ids=ids).logits
    loss = ce(peft, ids, 10)
    loss.backward()
    golden["lora_loss"] = loss.detach()
    for n, p in peft.named_parameters():
        if p.grad is not None:
            golden["grad." + n.replace(".default", "")] = p.grad.clone()
    # 50 steps of AdamW with clipping on fixed batches
    params = [p for p in peft.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=5e-3, weight_decay=0.01)
    torch.manual_seed(seed + 3)
    rows = torch.randint(3, 320, (50, 2, 24))
    losses = []
    for batch in rows:
        optimizer.zero_grad()
        loss = ce(peft, batch, 8)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        losses.append(loss.item())
    golden["curve_rows"] = rows
    golden["curve"] = torch.tensor(losses, dtype=torch.float64)
    save_file({k: v.contiguous() for k, v in golden.items()}, out / "golden.safetensors")
    for extra in ["adapter/README.md"]:
        (out / extra).unlink(missing_ok=True)


def main():
    only = sys.argv[1:]
    GOLDEN.mkdir(exist_ok=True)
    for i, (name, config) in enumerate(MODELS.items()):
        if not only or name in only:
            shutil.rmtree(GOLDEN / name, ignore_errors=True)
            make(name, config, 100 * i)
            print("parity:", name, "written")
    if only:
        return
    t = tokenizer()
    cases = [{"text": x, "ids": t(x)["input_ids"], "decoded": t.decode(t(x)["input_ids"], skip_special_tokens=True)}
             for x in TEXTS]
    (GOLDEN / "tokenizer.json").write_text(json.dumps(cases, ensure_ascii=False, indent=1))
    (GOLDEN / "chat.json").write_text(json.dumps(templates.cases(t), ensure_ascii=False, indent=1))


if __name__ == "__main__":
    sys.exit(main())
