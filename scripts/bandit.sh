#!/bin/bash
# Makes the private Python environment of the real Bandit: .venv-bandit/ in the checkout. Safe to run again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VERSION=1.9.4
venv=.venv-bandit
if [ "$("$venv/bin/python" -c 'import importlib.metadata as m; print(m.version("bandit"))' 2>/dev/null)" = "$VERSION" ]; then
    exit 0
fi
python3 -m venv "$venv" || {
    echo "bandit.sh: python3 -m venv failed. Debian: apt-get install python3-venv" >&2
    exit 1
}
"$venv/bin/pip" install --quiet --disable-pip-version-check "bandit==$VERSION"
echo "bandit $VERSION is in $venv"
