"""Exit status 0 when this Python has exactly the packages of requirements.txt."""
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

wrong = []
for line in (Path(__file__).parent / "requirements.txt").read_text().splitlines():
    if "==" not in line:
        continue
    name, want = line.split("==")
    try:
        have = version(name).split("+")[0]
    except PackageNotFoundError:
        have = "nothing"
    if have != want:
        wrong.append(f"{name}: have {have}, want {want}")
sys.exit("\n".join(wrong) or 0)
