#!/bin/bash
# Makes the Python environment of the parity tests in .venv-parity/: transformers, PEFT and the same PyTorch as ours.
# About 4 GB to download and 8 GB on disk; only `make parity` needs it. BESSEMER_WHEELS may name a directory with wheels.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
venv=$root/.venv-parity
if [ -x "$venv/bin/python" ] && "$venv/bin/python" "$root/tests/parity/check.py" 2>/dev/null; then
    echo "parity: $venv is in place"
else
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --disable-pip-version-check ${BESSEMER_WHEELS:+--find-links "$BESSEMER_WHEELS"} \
        -r "$root/tests/parity/requirements.txt"
    "$venv/bin/python" "$root/tests/parity/check.py"
fi

# .venv-parity-ppo/: the last TRL that has a PPO trainer (make_ppo.py), over the packages of the first environment.
ppo=$root/.venv-parity-ppo
want=1.12.0
have=$("$ppo/bin/python" -c 'from importlib.metadata import version; print(version("trl"))' 2>/dev/null || echo none)
if [ "$have" = "$want" ]; then
    echo "parity: $ppo is in place"
    exit 0
fi
python3 -m venv "$ppo"
"$ppo/bin/python" -m pip install --disable-pip-version-check ${BESSEMER_WHEELS:+--find-links "$BESSEMER_WHEELS"} --no-deps "trl==$want"
site='import sysconfig; print(sysconfig.get_paths()["purelib"])'
# its own packages come first
"$venv/bin/python" -c "$site" > "$("$ppo/bin/python" -c "$site")/parity.pth"
