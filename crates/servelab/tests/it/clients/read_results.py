"""Reads results.csv and results.parquet as people do: with pandas and with DuckDB. Prints what they understood as JSON."""

import json
import sys

import duckdb
import pandas

folder = sys.argv[1]
csv = pandas.read_csv(f"{folder}/results.csv")
parquet = pandas.read_parquet(f"{folder}/results.parquet")
assert list(csv.columns) == list(parquet.columns), set(csv.columns) ^ set(parquet.columns)
assert len(csv) == len(parquet)
numbers = [
    "throughput_tokens_per_sec",
    "ttft_p95_ms",
    "success_rate",
    "total_tokens_generated",
    "repeat",
    "gpus",
    "prom_preemptions",
]
for name in numbers:
    assert pandas.api.types.is_numeric_dtype(csv[name]), f"{name} is {csv[name].dtype} in results.csv"
    assert pandas.api.types.is_numeric_dtype(parquet[name]), f"{name} is {parquet[name].dtype} in results.parquet"
    difference = (csv[name].astype(float) - parquet[name].astype(float)).abs().max()
    assert pandas.isna(difference) or difference == 0, f"{name} differs by {difference}"
for name in ["cell_id", "labels", "workload", "state", "engine_version"]:
    left, right = csv[name].fillna("").astype(str), parquet[name].fillna("").astype(str)
    assert (left == right).all(), name
# What the documents did with the old table.
top = csv.sort_values("throughput_tokens_per_sec", ascending=False).head(10)
by_label = csv.groupby("labels")["throughput_tokens_per_sec"].agg(["mean", "std", "count"])

query = """
    select labels, avg(throughput_tokens_per_sec) as mean, count(*) as n
    from read_parquet('{0}/results.parquet') where state = 'done' and not simulated is null
    group by labels order by mean desc nulls last
"""
from_parquet = duckdb.sql(query.format(folder)).fetchall()
from_csv = duckdb.sql(query.format(folder).replace("read_parquet", "read_csv").replace(".parquet", ".csv")).fetchall()
assert [row[0] for row in from_parquet] == [row[0] for row in from_csv]
for a, b in zip(from_parquet, from_csv):
    assert a[2] == b[2] and (a[1] == b[1] or abs(a[1] - b[1]) <= 1e-9 * abs(a[1])), (a, b)

viz = json.load(open(f"{folder}/viz_data.json"))
frame = pandas.DataFrame(viz["rows"])
assert len(frame) == len(csv) and set(csv.columns) <= set(frame.columns)
json.dump(
    {
        "rows": len(csv),
        "top": None if top.empty else top.iloc[0]["labels"],
        "labels": len(by_label),
        "duckdb": [row[0] for row in from_parquet],
        "pandas_version": pandas.__version__,
        "duckdb_version": duckdb.__version__,
    },
    sys.stdout,
)
