#!/bin/bash
# Makes the Python environment of the parity tests in .venv-parity/: transformers, PEFT and the same PyTorch as ours.
# About 4 GB to download and 8 GB on disk; only `make parity` needs it. BESSEMER_WHEELS may name a directory with wheels.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
venv=$root/.venv-parity

# The last TRL with a PPO trainer, for make_ppo.py: in an environment that has it alone, and finds the rest in the other.
older() {
    local ppo=$root/.venv-parity-ppo
    if ! "$ppo/bin/python" -c 'import importlib.metadata as m; assert m.version("trl") == "1.12.0"' 2>/dev/null; then
        python3 -m venv "$ppo"
        "$ppo/bin/python" -m pip install --disable-pip-version-check --no-deps \
            ${BESSEMER_WHEELS:+--find-links "$BESSEMER_WHEELS"} trl==1.12.0
        "$venv/bin/python" -c 'import site; print(site.getsitepackages()[0])' \
            >"$("$ppo/bin/python" -c 'import site; print(site.getsitepackages()[0])')/parity.pth"
    fi
    echo "parity: $ppo has TRL 1.12.0"
}

if [ -x "$venv/bin/python" ] && "$venv/bin/python" "$root/tests/parity/check.py" 2>/dev/null; then
    echo "parity: $venv is in place"
    older
    exit 0
fi
python3 -m venv "$venv"
"$venv/bin/python" -m pip install --disable-pip-version-check ${BESSEMER_WHEELS:+--find-links "$BESSEMER_WHEELS"} \
    -r "$root/tests/parity/requirements.txt"
"$venv/bin/python" "$root/tests/parity/check.py"
older
