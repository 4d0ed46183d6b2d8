#!/bin/bash
# Renders a sweep's report as the README's picture: scripts/report-picture.sh runs/quickstart/report.html
set -euo pipefail
html=$(realpath "${1:?which report.html?}")
out=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/docs/img/report.png
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
mkdir -p "$(dirname "$out")"
chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
    --disable-component-update --disable-sync --hide-scrollbars --user-data-dir="$profile" \
    --window-size="1240,${2:-1500}" --screenshot="$out" "file://$html" 2>/dev/null
ls -l "$out"
