"""Make stand-ins for the CUDA libraries that a CUDA build of torch links to, so that it loads on a CPU-only machine.

Every stub symbol is a function that returns 0. Libraries that a wheel brought are left alone. Run it with the Python of
the environment that holds torch.
"""

import glob
import os
import re
import subprocess
import sysconfig

LINKED = re.compile(r"NEEDED.*\[(lib(?:cu|nccl|nvshmem|nvrtc|nvToolsExt|cupti)[^\]]*)\]")
STUBBED = re.compile(
    r"^(cublas|cudnn|cufft|cusparse|cusolver|curand|cufile|cuFile|nccl|p?nccl|nvrtc|nvshmem|nvJitLink|cusparseLt)"
)
TORCH_LIBRARIES = (
    "libtorch_cuda.so",
    "libtorch_python.so",
    "libc10_cuda.so",
    "libtorch_nvshmem.so",
    "libtorch_cuda_linalg.so",
    "libtorch_cpu.so",
    "libtorch_global_deps.so",
)


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main():
    site = sysconfig.get_path("purelib")
    folder = f"{site}/torch/lib"
    libraries = [path for name in TORCH_LIBRARIES if os.path.exists(path := f"{folder}/{name}")]
    if not libraries:
        raise SystemExit(f"no torch libraries in {folder}")
    present = {os.path.basename(path) for path in glob.glob(f"{site}/nvidia/*/lib/*.so*")}
    needed, undefined, defined = set(), set(), set()
    for library in libraries:
        needed |= set(LINKED.findall(output("readelf", "-dW", library)))
        for line in output("nm", "-D", library).splitlines():
            parts = line.split()
            (undefined if len(parts) == 2 else defined).add(parts[-1].split("@")[0])
    missing = sorted(needed - present)
    symbols = sorted(symbol for symbol in undefined - defined if STUBBED.match(symbol))

    source = f"{folder}/_stub.c"
    with open(source, "w") as file:
        file.write("\n".join(f"long {symbol}(void){{return 0;}}" for symbol in symbols) + "\n")
    empty = f"{folder}/_empty.c"
    open(empty, "w").close()
    compiler = ("cc", "-shared", "-fPIC")
    subprocess.check_call(
        [*compiler, "-O1", "-w", "-Wno-builtin-declaration-mismatch", "-Wl,-soname,libcudastub_all.so", "-o",
         f"{folder}/libcudastub_all.so", source]
    )
    for name in missing:
        subprocess.check_call(
            [*compiler, f"-Wl,-soname,{name}", "-Wl,-rpath,$ORIGIN", "-Wl,--no-as-needed", "-o", f"{folder}/{name}", empty,
             f"-L{folder}", "-lcudastub_all"]
        )
    print(f"stubs: {len(missing)} libraries, {len(symbols)} symbols")


if __name__ == "__main__":
    main()
