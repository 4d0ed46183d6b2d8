"""exchange.py DIR: for each DIR/NAME with `base` and `adapter`, PEFT reads the adapter that our program wrote over the model that it
wrote; prints {NAME: logits of fixed ids} as JSON."""
import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
out = {}
for place in sorted(Path(sys.argv[1]).iterdir()):
    model = AutoModelForCausalLM.from_pretrained(place / "base", dtype=torch.float32, attn_implementation="eager")
    model = PeftModel.from_pretrained(model, place / "adapter").eval()
    with torch.no_grad():
        out[place.name] = model(input_ids=torch.arange(3, 33).view(1, -1)).logits.flatten().tolist()
print(json.dumps(out))
