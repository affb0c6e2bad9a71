#!/usr/bin/env python3
"""Writes the small traces in crates/servelab-trace/tests/data/classes: one for each way in which engines communicate, in the
form in which profilers write them, with round times so that every expected number can be worked out by hand. The numbers
themselves are in crates/servelab-trace/tests/classes.rs, not here.

    scripts/trace-fixtures.py
"""

import gzip
import json
import os

HERE = os.path.dirname(os.path.abspath(__file__))
FOLDER = os.path.join(HERE, "..", "crates", "servelab-trace", "tests", "data", "classes")
H100 = {"id": 0, "name": "NVIDIA H100 80GB HBM3", "totalGlobalMem": 85024112640, "computeMajor": 9, "computeMinor": 0, "numSms": 132}
MULTIMEM = (
    "void (anonymous namespace)::multimem_all_reduce_kernel<c10::BFloat16, 16>"
    "(c10::BFloat16*, unsigned long, unsigned int**, unsigned long, unsigned long)"
)
TWO_SHOT = "void (anonymous namespace)::two_shot_all_reduce_kernel<c10::BFloat16, 16, 8>(c10::BFloat16**, unsigned long)"
FLASH3 = (
    "void cutlass::device_kernel<flash::FlashAttnFwdSm90<flash::CollectiveMainloopFwdSm90<2, "
    "cute::tuple<cute::C<1>, cute::C<1>, cute::C<1>>>>>(flash::Params)"
)
NORM = "void vllm::fused_add_rms_norm_kernel<c10::BFloat16, 8>(c10::BFloat16*, long, c10::BFloat16*)"
GEMM = "nvjet_tst_192x192_64x4_2x1_v_bz_coopB_TNN"


class Trace:
    """One rank's trace; times are microseconds from the beginning."""

    BASE = 5_000_000_000_000

    def __init__(self, rank, world, devices=(H100,), backend="nccl", **facts):
        self.head = {
            "schemaVersion": 1,
            "deviceProperties": list(devices),
            "distributedInfo": {"backend": backend, "rank": rank, "world_size": world, "pg_count": 1, "nccl_version": "2.27.3"},
            **facts,
        }
        self.events = [
            {"name": "process_name", "ph": "M", "ts": self.BASE, "pid": 900 + rank, "tid": 0, "args": {"name": "VLLM::Worker"}}
        ]
        self.rank = rank
        self.correlation = 1000

    def add(self, category, name, ts, dur, pid, tid, **args):
        event = {"ph": "X", "cat": category, "name": name, "pid": pid, "tid": tid, "ts": f"{self.BASE + ts}.000", "dur": f"{dur}.000"}
        self.events.append({**event, "args": args})

    def mark(self, name, ts, dur, on_device=None):
        self.add("user_annotation", name, ts, dur, 900 + self.rank, 900)
        if on_device:
            # The profiler moves these by a nanosecond or two so that they nest.
            start, length = on_device
            self.add("gpu_user_annotation", name, start, length, 0, 7)

    def launch(self, ts, call="cudaLaunchKernel", dur=5):
        self.correlation += 1
        self.add("cuda_runtime", call, ts, dur, 900 + self.rank, 900, cbid=211, correlation=self.correlation)
        flow = {"ph": "s", "id": self.correlation, "pid": 900 + self.rank, "tid": 900, "ts": self.BASE + ts, "cat": "ac2g", "name": "ac2g"}
        self.events.append(flow)
        return self.correlation

    def kernel(self, name, ts, dur, correlation, stream=7, grid=(132, 1, 1), **args):
        common = {"queued": 0, "device": 0, "context": 1, "stream": stream, "correlation": correlation, "grid": list(grid), "block": [256, 1, 1]}
        self.add("kernel", name, ts, dur, 0, stream, **common, **args)

    def save(self, name, packed=False):
        # Times are written as decimal numbers with three digits, as the profiler does; json would drop the zeros.
        lines = [json.dumps(event, ensure_ascii=False) for event in self.events]
        for key in ("ts", "dur"):
            lines = [self.plain(line, key) for line in lines]
        head = json.dumps(self.head, ensure_ascii=False)[:-1]
        text = head + ', "baseTimeNanoseconds": 1790857026000000000, "traceEvents": [\n' + ",\n".join(lines) + "\n]}\n"
        path = os.path.join(FOLDER, name)
        if packed:
            with open(path, "wb") as file, gzip.GzipFile(fileobj=file, mode="wb", mtime=0, filename="") as out:
                out.write(text.encode())
        else:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)

    @staticmethod
    def plain(line, key):
        before, found, after = line.partition(f'"{key}": "')
        if not found:
            return line
        number, _, rest = after.partition('"')
        return f'{before}"{key}": {number}{rest}'


def vllm_symmetric_memory():
    """vLLM, tensor parallel 8, all-reduce over symmetric memory, decode steps as CUDA graphs; ranks 0 and 3 of 8. Rank 3 has 30 µs
    less of a gemm in each step and waits for the others in the all-reduce behind it."""
    steps = [
        "execute_context_2(512)_generation_0(0)",
        "execute_context_0(0)_generation_8(8)",
        "execute_context_1(256)_generation_7(7)",
        "execute_context_0(0)_generation_8(8)",
        "execute_context_0(0)_generation_8(8)",
    ]
    for rank, faster in [(0, 0), (3, 30)]:
        trace = Trace(rank, 8, vllm_version="0.11.0")
        for number, name in enumerate(steps):
            t = 1000 * number
            trace.mark(name, t, 400, on_device=(t + 100, 800))
            work = [
                (NORM, 100, 50, 7),
                (GEMM, 150, 200 - faster, 7),
                (MULTIMEM, 350 - faster, 100 + faster, 7),
                (FLASH3, 450, 150, 7),
                (TWO_SHOT, 600, 60, 7),
                (GEMM, 620, 100, 20),
                ("ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)", 720, 80, 7),
                ("void flashinfer::sampling::TopKTopPSamplingFromProbKernel<1024, (cub::BlockScanAlgorithm)2>(float*)", 800, 100, 7),
            ]
            is_graph = "context_0" in name
            correlation = trace.launch(t + 20, "cudaGraphLaunch") if is_graph else 0
            for place, (kernel, start, length, stream) in enumerate(work):
                args = {"graph id": 4, "graph node id": 40 + place} if is_graph else {}
                link = correlation or trace.launch(t + 20 + 10 * place)
                trace.kernel(kernel, t + start, length, link, stream, **args)
        trace.save(f"vllm_symmetric_memory/rank{rank}.json")


def deepep():
    """Expert parallel over DeepEP: no NCCL kernel at all; ranks 0 and 1 of 16 on two hosts."""
    for rank in (0, 1):
        trace = Trace(rank, 16, host_name=f"node{rank}")
        for number in range(4):
            t = 1000 * number
            trace.mark("execute_context_0(0)_generation_64(64)", t, 300)
            correlation = trace.launch(t + 10, "cudaGraphLaunch")
            for kernel, start, length, stream in [
                ("void deep_ep::internode_ll::dispatch<true, false, 7168>(void*, void*, int*, long*, int*)", 100, 80, 30),
                ("void deep_gemm::sm90_m_grouped_fp8_gemm_masked_1d2d<2112>(float*, int*)", 180, 200, 7),
                ("void deep_ep::internode_ll::combine<false, 7168, 9>(void*, void*, int*)", 380, 120, 30),
                (GEMM, 400, 80, 7),
                ("void deep_ep::intranode::notify_dispatch<8>(int const*, int*)", 500, 10, 30),
                ("void barrier_on_stream_kernel_threadgroup_nvshmemi<(threadgroup_t)2>()", 510, 10, 30),
            ]:
                trace.kernel(kernel, t + start, length, correlation, stream)
        trace.save(f"deepep/rank{rank}.json")


def rccl_generic():
    """ROCm: one generic kernel for all collectives, what each is stands in its arguments; the GPU has no name; ranks 0 and 1."""
    mi300 = {"id": 0, "name": "", "totalGlobalMem": 205843824640, "numSms": 304}
    for rank in (0, 1):
        trace = Trace(rank, 8, devices=(mi300,), hip_runtime_version=70051831, hip_driver_version=70051831, roctracer_version=4.1)
        for number in range(3):
            t = 1000 * number
            trace.mark(f"ProfilerStep#{number + 5}", t, 1000)
            common = {"Process Group Name": "2", "Process Group Description": "tp:0", "Process Group Ranks": "[0, 1, 2, 3, 4, 5, 6, 7]", "Group size": 8}
            for kind, start, length, elements, out, dtype in [
                ("allreduce", 100, 50 + 10 * rank, 1048576, 1048576, "BFloat16"),
                ("_allgather_base", 300, 100, 131072, 1048576, "Float"),
                ("reduce_scatter_tensor_coalesced", 500, 40, 1048576, 131072, "Half"),
                ("all_to_allv", 600, 25, 1000, 1000, "Byte"),
            ]:
                trace.add("cpu_op", "record_param_comms", t + start - 40, 10, 900 + rank, 900, **{"Collective name": kind, "Record function id": 7})
                trace.kernel(
                    "ncclDevKernel_Generic_1(ncclDevKernelArgsStorage<4096ul>)",
                    t + start,
                    length,
                    trace.launch(t + start - 35, "hipExtLaunchKernel"),
                    stream=3,
                    **{"Collective name": kind, "In msg nelems": elements, "Out msg nelems": out, "dtype": dtype, "Seq": 10 * number + start // 100, **common},
                )
            trace.kernel("Cijk_Alik_Bljk_BBS_BH_Bias_HA_S_SAV_UserArgs_MT256x256x64", t + 150, 150, trace.launch(t + 145, "hipModuleLaunchKernel"))
        trace.save(f"rccl_generic/rank{rank}.json.gz", packed=True)


def sglang():
    """SGLang: markers around each forward inside run_batch, inside a profiler step; custom all-reduce; one rank of two."""
    trace = Trace(0, 2)
    trace.mark("ProfilerStep#1", 0, 6000)
    names = [
        "step[EXTEND bs=2 toks=512]",
        "step[DECODE bs=4]",
        "step[DECODE bs=4 g_sqsq=4 g_sqsk=1030 g_sk=1030]",
        "step[MIXED bs=5 c=1 g=4 c_sq=128 c_sk=128 c_sqsq=16384 c_sqsk=16384 g_sq=4 g_sk=900 g_sqsq=4 g_sqsk=900]",
        "step[DECODE bs=5]",
    ]
    for number, name in enumerate(names):
        t = 1000 * number
        trace.mark("run_batch", t, 900)
        trace.mark(name, t + 10, 800)
        correlation = trace.launch(t + 20, "cudaGraphLaunch")
        attention = "void flashinfer::BatchDecodeWithPagedKVCacheKernel<(flashinfer::PosEncodingMode)0, 2u>(flashinfer::Params)"
        reduce = "void sglang::cross_device_reduce_1stage<__nv_bfloat16, 2>(sglang::RankData*, sglang::RankSignals, sglang::Signal*)"
        for kernel, start, length in [(attention, 50, 300), (reduce, 350, 100), (GEMM, 450, 200), (reduce, 650, 50)]:
            trace.kernel(kernel, t + start, length, correlation)
    trace.save("sglang.json")


def flashinfer_fused():
    """All-reduce fused with the norm behind it: counted as communication, called fused. The last kernel is of no known library."""
    trace = Trace(0, 4)
    for number in range(3):
        t = 1000 * number
        trace.mark("execute_context_0(0)_generation_16(16)", t, 500)
        fused = (
            "void flashinfer::trtllm_allreduce_fusion::allreduce_fusion_kernel_oneshot_lamport<"
            "(flashinfer::trtllm_allreduce_fusion::AllReduceFusionPattern)1, __nv_bfloat16, 4, false>(flashinfer::Params)"
        )
        for kernel, start, length in [(GEMM, 100, 100), (fused, 200, 40), (GEMM, 240, 60), ("acme_fast_allreduce_v2", 300, 20)]:
            trace.kernel(kernel, t + start, length, trace.launch(t + start - 50))
    trace.save("flashinfer_fused.json")


def hollow():
    """What a profiler leaves that saw no device: operators and launches, no kernel; and an execution trace without an operator."""
    trace = Trace(0, 4)
    for number in range(3):
        t = 1000 * number
        trace.mark(f"ProfilerStep#{number}", t, 1000)
        trace.launch(t + 100)
        trace.add("cpu_op", "record_param_comms", t + 200, 10, 900, 900, **{"Collective name": "allreduce"})
    trace.save("hollow/kineto_trace_0.json")
    nodes = [
        {"id": 1, "name": "[pytorch|profiler|execution_trace|process]", "ctrl_deps": 1, "attrs": []},
        *(
            {"id": number, "name": "[pytorch|profiler|execution_trace|thread]", "ctrl_deps": 1, "attrs": []}
            for number in range(2, 9)
        ),
    ]
    with open(os.path.join(FOLDER, "hollow", "torch_et_0.json"), "w", encoding="utf-8") as file:
        json.dump({"schema": "1.1.1-chakra.0.0.4", "pid": 7, "time": "2026-11-20 10:00:00", "start_ts": 5, "nodes": nodes}, file)
        file.write("\n")


def training_step():
    """A training step at the size at which profilers write it, for benchmarks: 400 launches a step with their operators, flows and
    gradients' all-reduces that overlap the backward pass."""
    trace = Trace(0, 8)
    gemms = [GEMM, "ampere_bf16_s16816gemm_bf16_128x128_ldg8_f2f_stages_32x5_tn", "nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NTN"]
    others = [
        "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>, std::array<char*, 3ul> >(int, at::native::CUDAFunctor_add<float>, std::array<char*, 3ul>)",
        "void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<float, float>(int, float, float const*, float const*, float const*, float*, float*, float*)",
        "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::MeanOps<float, float, float, float>, unsigned int, float, 4> >(at::native::ReduceOp<float, at::native::MeanOps<float, float, float, float>, unsigned int, float, 4>)",
    ]
    operators = ["aten::linear", "aten::addmm", "aten::add_", "aten::layer_norm", "aten::native_layer_norm", "aten::mean", "aten::empty_strided", "autograd::engine::evaluate_function: AddmmBackward0"]
    external = 5000
    for step in range(3):
        t = 30000 * step
        trace.mark(f"ProfilerStep#{step + 2}", t, 29000)
        for number in range(400):
            start = t + 100 + 70 * number
            for depth, operator in enumerate((operators[number % 8], operators[(number * 3 + 1) % 8], operators[(number * 5 + 2) % 8])):
                external += 1
                trace.add("cpu_op", operator, start + depth, 40 - 5 * depth, 900, 900 + number % 2, **{"External id": external, "Record function id": external - 5000, "Sequence number": number, "Fwd thread id": number % 2, "Ev Idx": external - 5001})
            name = gemms[number % 3] if number % 2 else others[number // 2 % 3]
            correlation = trace.launch(start + 5, dur=6)
            back = {"ph": "f", "id": correlation, "pid": 0, "tid": 7, "ts": trace.BASE + start + 60, "cat": "ac2g", "name": "ac2g", "bp": "e"}
            trace.events.append(back)
            trace.kernel(name, start + 60, 55 + number % 7, correlation, grid=(64 + number % 100, 4, 1), **{"External id": external, "registers per thread": 32 + number % 96, "shared memory": 1024, "blocks per SM": 1.939394, "warps per SM": 15.515152, "est. achieved occupancy %": number % 100})
            if number % 40 == 39:
                trace.kernel(
                    "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)", start + 65, 900, trace.launch(start + 20, "cudaLaunchKernelExC"), stream=13, grid=(24, 1, 1),
                    **{"Collective name": "allreduce", "In msg nelems": 6553600, "Out msg nelems": 6553600, "Group size": 8, "dtype": "Float", "In split size": "[]", "Out split size": "[]", "Process Group Name": "0", "Process Group Description": "default_pg", "Process Group Ranks": "[0, 1, 2, 3, 4, 5, 6, 7]", "Seq": 10 * step + number // 40},
                )
    trace.save("../gpu_training_step.json.gz", packed=True)


def main():
    for folder in ("vllm_symmetric_memory", "deepep", "rccl_generic", "hollow"):
        os.makedirs(os.path.join(FOLDER, folder), exist_ok=True)
    for make in (vllm_symmetric_memory, deepep, rccl_generic, sglang, flashinfer_fused, hollow, training_step):
        make()


if __name__ == "__main__":
    main()
