"""Other readers of Kineto traces, for `cargo run --release -p xtask -- bench trace --peers DIR`.

trace_peers.py json|orjson|hta FILE: reads the trace as that tool does; the caller measures the process.
`json` and `orjson` only parse. `hta` (HolisticTraceAnalysis) parses and computes what the product computes
in the same call: time breakdown, kernel breakdown, overlap, idle time, launch statistics, queue lengths.
"""

import os
import sys
import tempfile


def main() -> None:
    tool, path = sys.argv[1:3]
    if tool == "json":
        import json

        with open(path, "rb") as file:
            print(len(json.load(file)["traceEvents"]), "events")
    elif tool == "orjson":
        import orjson

        with open(path, "rb") as file:
            print(len(orjson.loads(file.read())["traceEvents"]), "events")
    elif tool == "hta":
        hta(path)
    else:
        sys.exit(f"no such tool: {tool}")


def hta(path: str) -> None:
    from hta.trace_analysis import TraceAnalysis

    # It takes a folder; the file lies in one of its own.
    with tempfile.TemporaryDirectory() as folder:
        os.symlink(os.path.abspath(path), os.path.join(folder, "rank0.json"))
        analysis = TraceAnalysis(trace_dir=folder)
        steps = {
            "temporal breakdown": lambda: analysis.get_temporal_breakdown(visualize=False),
            "kernel breakdown": lambda: analysis.get_gpu_kernel_breakdown(visualize=False),
            "overlap": lambda: analysis.get_comm_comp_overlap(visualize=False),
            "idle time": lambda: analysis.get_idle_time_breakdown(ranks=[0], visualize=False),
            "launch statistics": lambda: analysis.get_cuda_kernel_launch_stats(ranks=[0], visualize=False),
            "queue length": lambda: analysis.get_queue_length_summary(ranks=[0]),
        }
        done = []
        for name, step in steps.items():
            try:
                step()
                done.append(name)
            except Exception as error:  # An analysis that fails costs less, which is in its favour.
                print(f"{name} failed: {type(error).__name__}: {error}", file=sys.stderr)
        print(len(done), "analyses:", ", ".join(done))


if __name__ == "__main__":
    main()
