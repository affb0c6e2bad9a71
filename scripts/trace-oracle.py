#!/usr/bin/env python3
"""Exact numbers of Kineto and nsys traces by the simplest possible means, to check the product against.

    scripts/trace-oracle.py TRACE... > numbers.json
    scripts/trace-oracle.py --write FOLDER TRACE...     # one FOLDER/NAME.json each

It shares nothing with the product: json with decimal numbers (so no nanosecond is lost), lists of events in memory,
interval algebra by sorted lists. Communication is told by the short list of patterns below, which is enough for the
traces that it was written for; where the taxonomy of the product says something else, one of the two is wrong.
"""

import collections
import gzip
import json
import os
import re
import sqlite3
import sys
from decimal import Decimal

COMM = [
    ("nccl", r"nccl"),
    ("custom_all_reduce", r"cross_device_reduce"),
    ("symmetric_memory", r"multimem_|_shot_all_reduce"),
    ("fused_allreduce", r"allreduce_fusion"),
    ("deepep", r"deep_ep::|dpsk::ep"),
]
HOST_COMM = [("gloo", r"^gloo:"), ("shm", r"^_C::shm_")]


def union(intervals):
    """Sorted, disjoint intervals."""
    merged = []
    for start, end in sorted(part for part in intervals if part[0] < part[1]):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return merged


def length(merged):
    return sum(end - start for start, end in merged)


def overlap(a, b):
    """Length of the intersection of two unions."""
    total = i = j = 0
    while i < len(a) and j < len(b):
        total += max(0, min(a[i][1], b[j][1]) - max(a[i][0], b[j][0]))
        if a[i][1] <= b[j][1]:
            i += 1
        else:
            j += 1
    return total


def nanoseconds(number):
    """Decimal microseconds; half a nanosecond is rounded away from zero."""
    scaled = Decimal(number) * 1000
    return int(scaled.to_integral_value(rounding="ROUND_HALF_UP"))


def read_kineto(path):
    with (gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")) as file:
        document = json.loads(file.read().decode("utf-8", "replace"), parse_float=Decimal, strict=False)
    events = document["traceEvents"] if isinstance(document, dict) else document
    device, host = [], []
    for event in events:
        if event.get("ph") != "X" or "ts" not in event or "dur" not in event:
            continue
        category = event.get("cat", "")
        start, dur = nanoseconds(event["ts"]), max(0, nanoseconds(event["dur"]))
        args = event.get("args") or {}
        kinds = {"kernel": "kernel", "gpu_memcpy": "copy", "memcpy": "copy", "gpu_memset": "set", "memset": "set"}
        kind = kinds.get(category.lower())
        if kind:
            where = (int(args.get("device", event.get("pid") or 0)), int(args.get("stream", event.get("tid") or 0)))
            device.append((kind, event["name"], start, start + dur, where))
        elif category in ("cpu_op", "user_annotation"):
            host.append((event["name"], start, start + dur))
    return device, host, len(events)


def read_nsys(path):
    base = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    tables = {row[0] for row in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    strings = dict(base.execute("SELECT id, value FROM StringIds"))
    by_rank = collections.defaultdict(list)
    for table, kind, name in [
        ("CUPTI_ACTIVITY_KIND_KERNEL", "kernel", "demangledName"),
        ("CUPTI_ACTIVITY_KIND_MEMCPY", "copy", "copyKind"),
        ("CUPTI_ACTIVITY_KIND_MEMSET", "set", "memKind"),
    ]:
        if table in tables:
            for start, end, number, stream, pid, what in base.execute(
                f"SELECT start, end, deviceId, streamId, globalPid, {name} FROM {table}"
            ):
                text = strings[what] if kind == "kernel" else str(what)
                by_rank[(pid, number)].append((kind, text, start, end, (number, stream)))
    return by_rank


def family_of(name, rules):
    return next((family for family, pattern in rules if re.search(pattern, name)), None)


def numbers(device, host):
    out = {}
    if device:
        spans = lambda events: union((start, end) for _, _, start, end, _ in events)
        comm = [e for e in device if e[0] == "kernel" and family_of(e[1], COMM)]
        compute = [e for e in device if e[0] == "kernel" and not family_of(e[1], COMM)]
        copies = [e for e in device if e[0] == "copy"]
        everything, comm_u, compute_u, copy_u = spans(device), spans(comm), spans(compute), spans(copies)
        span = max(e[3] for e in device) - min(e[2] for e in device)
        busy = length(everything)
        kernels = [e for e in device if e[0] == "kernel"]
        out["device"] = {
            "kernels": len(kernels),
            "kernel_ns": sum(e[3] - e[2] for e in kernels),
            "copies": len(copies),
            "memsets": sum(e[0] == "set" for e in device),
            "span_ns": span,
            "busy_ns": busy,
            "idle_ns": span - busy,
            "compute_ns": length(compute_u),
            "comm_ns": length(comm_u),
            "exposed_comm_ns": length(comm_u) - overlap(comm_u, compute_u),
            "memcpy_ns": length(copy_u),
            "exposed_memcpy_ns": length(copy_u) - overlap(copy_u, union(compute_u + comm_u)),
        }
        by_family = collections.defaultdict(list)
        for event in comm:
            by_family[family_of(event[1], COMM)].append(event)
        out["comm"] = {
            family: {
                "calls": len(events),
                "sum_ns": sum(e[3] - e[2] for e in events),
                "union_ns": length(spans(events)),
                "exposed_ns": length(spans(events)) - overlap(spans(events), compute_u),
            }
            for family, events in sorted(by_family.items())
        }
        by_stream = collections.defaultdict(list)
        for event in device:
            by_stream[event[4]].append(event)
        out["streams"] = [
            {
                "device": where[0],
                "stream": where[1],
                "events": len(events),
                "sum_ns": sum(e[3] - e[2] for e in events),
                "busy_ns": length(spans(events)),
            }
            for where, events in sorted(by_stream.items())
        ]
        names = collections.Counter()
        calls = collections.Counter()
        for _, name, start, end, _ in kernels:
            names[name] += end - start
            calls[name] += 1
        top = sorted(names.items(), key=lambda item: (-item[1], item[0]))[:5]
        out["top_kernels"] = [{"name": name, "calls": calls[name], "sum_ns": ns} for name, ns in top]
    by_family = collections.defaultdict(list)
    for name, start, end in host:
        family = family_of(name, HOST_COMM)
        if family:
            by_family[family].append((start, end))
    out["host_comm"] = {
        family: {"calls": len(parts), "sum_ns": sum(b - a for a, b in parts), "union_ns": length(union(parts))}
        for family, parts in sorted(by_family.items())
    }
    return out


def measure(path):
    if path.endswith(".sqlite"):
        ranks = read_nsys(path)
        return {"ranks": [numbers(ranks[key], []) for key in sorted(ranks, key=lambda key: (key[1], key[0]))]}
    device, host, events = read_kineto(path)
    return {"events": events, "ranks": [numbers(device, host)]}


def main():
    arguments = sys.argv[1:]
    folder = None
    if arguments[:1] == ["--write"]:
        folder, arguments = arguments[1], arguments[2:]
    if not arguments:
        sys.exit(__doc__)
    found = {}
    for path in arguments:
        name = os.path.basename(path)
        found[name] = measure(path)
        if folder:
            with open(os.path.join(folder, name + ".json"), "w", encoding="utf-8") as file:
                json.dump(found[name], file, indent=1, ensure_ascii=False)
                file.write("\n")
    if not folder:
        json.dump(found, sys.stdout, indent=1, ensure_ascii=False)
        print()


if __name__ == "__main__":
    main()
