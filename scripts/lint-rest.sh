#!/bin/bash
# What rustfmt and clippy do not look at: shell scripts, file sizes, which crate may use which, licences.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bad=0
complain() { echo "lint: $*" >&2; bad=1; }

# (templates/ are no scripts before they are rendered: the tests of `cluster` check the rendered ones)
if command -v shellcheck >/dev/null; then
    mapfile -t scripts < <(git ls-files -- ':!templates' | while read -r f; do
        [ -f "$f" ] && head -c 64 "$f" | head -n 1 | grep -qE '^#!.*\b(ba)?sh\b' && echo "$f"; done || true)
    shellcheck -S warning "${scripts[@]}" || bad=1
else
    echo "lint: shellcheck is not installed, shell scripts were not checked" >&2
fi

# A file is one room.
while read -r f; do
    lines=$(wc -l <"$f")
    [ "$lines" -le 700 ] || complain "$f has $lines lines: split it (700 is the limit)"
done < <(git ls-files 'src/*.rs' 'tests/*.rs')

# "Arrows point down only": the planner side must build without libtorch.
tree=$(cargo tree -p bessemer -e normal --prefix none --offline 2>/dev/null || cargo tree -p bessemer -e normal --prefix none)
if grep -qE '^(tch|torch-sys) ' <<<"$tree"; then complain "the planner (crate bessemer) links libtorch"; fi

if cargo deny --version >/dev/null 2>&1; then
    cargo deny --log-level error check licenses bans sources || bad=1
fi
exit "$bad"
