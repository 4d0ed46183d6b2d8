#!/bin/bash
# Makes an interpreter for the sandbox's profiles `numpy` and `pytest`: .venv-profiles/ in the checkout. Safe to run again.
# Then: export BESSEMER_NUMPY_PYTHON=$PWD/.venv-profiles/bin/python BESSEMER_PYTEST_PYTHON=$PWD/.venv-profiles/bin/python
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=.venv-profiles
"$venv/bin/python" -c 'import numpy, pytest' 2>/dev/null && exit 0
python3 -m venv "$venv" || {
    echo "profiles.sh: python3 -m venv failed. Debian: apt-get install python3-venv" >&2
    exit 1
}
"$venv/bin/pip" install --quiet --disable-pip-version-check numpy pytest
echo "numpy and pytest are in $venv"
