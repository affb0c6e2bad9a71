#!/usr/bin/env python3
"""Copies the kernel tables of H100 and H200 without their compression, which `xtask bench accuracy --ops` does not read.

usage: uncompress.py data/aiconfigurator_core plain      (needs pyarrow)
"""
import sys
from pathlib import Path

import pyarrow.parquet as pq

source, target = map(Path, sys.argv[1:3])
for system in ("h100_sxm", "h200_sxm"):
    for table in sorted((source / "systems/data" / system).glob("*/*/*/*.parquet")):
        copy = target / table.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pq.read_table(table), copy, compression="none")
