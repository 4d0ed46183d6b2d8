"""exchange.py MODEL_DIR ADAPTER_DIR: PEFT reads an adapter that our program wrote; prints the logits of fixed ids as JSON."""
import json
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32, attn_implementation="eager")
model = PeftModel.from_pretrained(model, sys.argv[2]).eval()
with torch.no_grad():
    logits = model(input_ids=torch.arange(3, 33).view(1, -1)).logits
print(json.dumps(logits.flatten().tolist()))
