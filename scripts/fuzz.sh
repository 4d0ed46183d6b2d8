#!/bin/bash
# Fuzzes the formats that come from outside: scripts/fuzz.sh [SECONDS [TARGET...]]. libFuzzer, with the compiler that builds
# everything else: coverage instrumentation is a flag of LLVM, no nightly compiler and no cargo-fuzz is needed (with them,
# `cargo +nightly fuzz run --fuzz-dir tests/fuzz TARGET` adds the address sanitizer). What is found lies in tests/fuzz/findings.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../tests/fuzz"
seconds=${1:-600}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(slot_protocol values service_json sarif bandit)
triple=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/../../target}/fuzz
RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Ccodegen-units=1" \
    cargo build --release --target "$triple"
for target in "${targets[@]}"; do
    program=$CARGO_TARGET_DIR/$triple/release/$target
    work=$CARGO_TARGET_DIR/corpus/$target
    mkdir -p "$work" findings "corpus/$target"
    nice -n 19 "$program" -max_total_time="$seconds" -max_len=4096 -rss_limit_mb=2048 -timeout=10 \
        -artifact_prefix="findings/$target-" -print_final_stats=1 -verbosity=1 "$work" "corpus/$target"
    # What is kept: inputs that reach something that the others do not, short ones only, and no more than 150 of each.
    minimal=$(mktemp -d)
    "$program" -merge=1 -max_len=512 "$minimal" "corpus/$target" "$work" 2>/dev/null
    find "$minimal" -type f -printf '%s %p\n' | sort -n | head -n 150 | while read -r _ file; do
        cp "$file" "corpus/$target/"
    done
    rm -rf "$minimal"
done
