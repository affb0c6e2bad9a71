#!/usr/bin/env bash
# A real vLLM and tiny models for it: prepare.sh DIR makes DIR/venv and DIR/models.
set -euo pipefail
dir=${1:?usage: prepare.sh DIR}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$dir"
"$here/install.sh" "$dir/venv"
"$dir/venv/bin/python" "$here/make_models.py" "$dir/models"
