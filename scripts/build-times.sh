#!/usr/bin/env bash
# Builds everything from nothing in a folder of its own and fails when the release build takes longer than the budget:
# build-times.sh [BUDGET_SECONDS]
set -euo pipefail
budget=${1:-600}
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cargo fetch --locked
start=$SECONDS
CARGO_TARGET_DIR="$folder" cargo build --release --locked --offline --workspace --timings
took=$((SECONDS - start))
mkdir -p target/cargo-timings
cp "$folder"/cargo-timings/cargo-timing.html target/cargo-timings/
echo "clean release build: $took s on $(nproc) cores (budget $budget s); details in target/cargo-timings/cargo-timing.html"
[ "$took" -le "$budget" ]
