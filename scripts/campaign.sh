#!/bin/bash
# Kill the planner at random moments, many times: against the fake Slurm (tests/crash) and a real one (tests/slurm).
# BESSEMER_KILLS (default 500) and BESSEMER_CRASH_KILLS (default 60) set the numbers; BESSEMER_SEED another beginning.
set -euo pipefail
cd "$(dirname "$0")/.."
export BESSEMER_KILLS=${BESSEMER_KILLS:-500} BESSEMER_CRASH_KILLS=${BESSEMER_CRASH_KILLS:-60}
export BESSEMER_INTERLEAVINGS=${BESSEMER_INTERLEAVINGS:-1000}
cargo=${CARGO:-cargo}
"$cargo" test -p bessemer-ledger --test interleave -- --nocapture
"$cargo" test -p bessemer-crash --test campaign -- --nocapture
"$cargo" test -p bessemer --test slurm crash -- --nocapture
