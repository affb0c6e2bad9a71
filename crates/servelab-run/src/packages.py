# Prints versions as one line of JSON, without importing what they are versions of.
import importlib.metadata
import importlib.util
import json
import os
import platform
import re

found = {}
for dist in importlib.metadata.distributions():
    name = (dist.metadata["Name"] or "").lower()
    if re.match(
        r"(vllm|sglang|sgl-kernel|torch|transformers|triton|flashinfer.*|flash.attn.*|nvidia-nccl.*|nvidia-cuda-runtime.*"
        r"|nvidia-cudnn.*|rccl.*|nixl.*|lmcache|deep.?ep|deep.?gemm|ray|xgrammar|numpy|tokenizers|compressed-tensors)$",
        name,
    ):
        found[name] = dist.version


def read(package, file):
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        try:
            with open(os.path.join(folder, file)) as text:
                return text.read()
        except OSError:
            pass
    return ""


def match(pattern, text):
    hit = re.search(pattern, text, re.M)
    return hit.group(1) if hit else None


version = read("torch", "version.py")
print(
    json.dumps(
        {
            "packages": found,
            "python": platform.python_version(),
            "cuda": match(r"^cuda.*= '([^']+)'", version),
            "hip": match(r"^hip.*= '([^']+)'", version),
            "torch_commit": match(r"^git_version = '([^']+)'", version),
            "vllm_commit": match(r"commit_id = '([^']+)'\s*$", read("vllm", "_version.py")),
        }
    )
)
