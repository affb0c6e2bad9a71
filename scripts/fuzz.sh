#!/usr/bin/env bash
# Builds a fuzz target with libFuzzer on the stable toolchain and runs it: scripts/fuzz.sh NAME [SECONDS] [libFuzzer options…]
# NAME `all` runs every target for that long, `build` only builds them. New inputs stay in fuzz/target; a crash is written
# to fuzz/artifacts/NAME and ends with exit code 1. Committed seeds are in fuzz/corpus.
set -euo pipefail
name=${1:?usage: fuzz.sh NAME|all|build [SECONDS] [libFuzzer options]}
seconds=${2:-30}
shift $(($# < 2 ? $# : 2))
cd "$(dirname "$0")/../fuzz"

host=$(rustc -vV | sed -n 's/^host: //p')
# What `cargo fuzz --sanitizer none` passes. Giving --target keeps build scripts out of it.
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares"
out=${CARGO_TARGET_DIR:-target}
# Not --locked: the product's crates change their dependencies without looking here; the lock file keeps all the others.
build() { cargo build --quiet --release --target "$host" "$@"; }

run_one() {
    local target=$1
    shift
    [ -f "fuzz_targets/$target.rs" ] || { echo "no fuzz target '$target'; known: $(known | tr '\n' ' ')" >&2; return 2; }
    build --bin "$target"
    mkdir -p "$out/corpus/$target" "artifacts/$target" "corpus/$target"
    "$out/$host/release/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=4096 -verbosity=0 -print_final_stats=1 \
        -artifact_prefix="artifacts/$target/" "$@" "$out/corpus/$target" "corpus/$target" $(more_seeds "$target")
}

# Files of the product that make good inputs too; read, never written.
more_seeds() {
    case $1 in
        study) echo ../examples ;;
        site) echo ../examples/sites ;;
        records) echo ../crates/servelab-store/tests/fixtures ;;
    esac
}

known() { for file in fuzz_targets/*.rs; do basename "$file" .rs; done; }

case $name in
    build) build --bins ;;
    all)
        build --bins
        for target in $(known); do
            echo "== $target, $seconds s"
            run_one "$target" "$@"
        done
        ;;
    *) run_one "$name" "$@" ;;
esac
