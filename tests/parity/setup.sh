#!/bin/bash
# Makes the Python environment of the parity tests in .venv-parity/: transformers, PEFT and the same PyTorch as ours.
# About 4 GB to download and 8 GB on disk; only `make parity` needs it. BESSEMER_WHEELS may name a directory with wheels.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
venv=$root/.venv-parity
if [ -x "$venv/bin/python" ] && "$venv/bin/python" "$root/tests/parity/check.py" 2>/dev/null; then
    echo "parity: $venv is in place"
    exit 0
fi
python3 -m venv "$venv"
"$venv/bin/python" -m pip install --disable-pip-version-check ${BESSEMER_WHEELS:+--find-links "$BESSEMER_WHEELS"} \
    -r "$root/tests/parity/requirements.txt"
"$venv/bin/python" "$root/tests/parity/check.py"
