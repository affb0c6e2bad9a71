#!/usr/bin/env bash
# The example studies through a real Slurm: a private one of eight nodes with eight fake GPUs each, the simulated engine, every
# configuration, few requests. Prints for each study how long it took and what became of its cells.
#   scripts/slurm/examples.sh [OUT_DIR] [STUDY…]      default: all five, results under target/slurm-examples
# Exit code 1 when a study did not come to its end.
# Needs the packages that start-slurm.sh names. SERVELAB names another binary than target/release/servelab, AT_ONCE the jobs in
# flight (8).
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-target/slurm-examples}
shift $(($# > 0 ? 1 : 0))
studies=("$@")
[ ${#studies[@]} -gt 0 ] || studies=(glm46-focused glm46-phases glm46-ablation pd-gptoss profiling-llama8b)
servelab=${SERVELAB:-$PWD/target/release/servelab}
[ -x "$servelab" ] || cargo build --release --locked -p servelab
mkdir -p "$out"
slurm=$(mktemp -d)
trap 'scripts/slurm/stop-slurm.sh "$slurm"; rm -rf "$slurm"' EXIT
NODES=8 GPUS=8 BASE_PORT=${BASE_PORT:-19000} scripts/slurm/start-slurm.sh "$slurm"
. "$slurm/env.sh"
# All nodes are this machine: as many jobs at once as it has cores measure nothing useful, but come to their end.
sed -e 's/nodes: 2/nodes: 8/' -e 's/H100-SXM5-80GB/H200-SXM-141GB/' -e 's/^site: .*/site: slurm-test-8/' examples/sites/slurm-test.yaml >"$out/site.yaml"
# The simulator reads no model; the studies name a folder of them.
echo 'paths: {models: /models}' >>"$out/site.yaml"
failed=0
for study in "${studies[@]}"; do
    started=$SECONDS
    words=("examples/$study.yaml" --site "$out/site.yaml" --root "$out/results" --engine sim --max-requests 4
        --set engine.speedup=100 --set repeats.n=1 --set budget.walltime=00:10:00 --set "budget.max_jobs=${AT_ONCE:-8}")
    "$servelab" --quiet submit "${words[@]}" --wait >"$out/$study.txt" 2>&1 || failed=1
    echo "$study: $((SECONDS - started)) s"
    "$servelab" status "${words[@]}" --json | sed -n '/"cells"/,/}/p'
done
exit "$failed"
