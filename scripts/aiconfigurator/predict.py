"""Predictions of AIConfigurator for rows of its own table of measured results, for `cargo xtask bench accuracy --beside`.

usage: python predict.py DIR OUT.json     (in an environment with `pip install aiconfigurator==0.12.0`)

DIR is the unzipped wheel of aiconfigurator-core. Only collocated vLLM servers on Hopper are read, without MiniMax.
Rows that the tool cannot predict get nulls.
"""

import csv
import json
import logging
import sys
import warnings

warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)

from aiconfigurator.cli.api import cli_estimate  # noqa: E402

# Names under which the table and the tool know the same model.
SAME = {
    "meta-llama/Llama-3.1-70B": "meta-llama/Meta-Llama-3.1-70B",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "meta-llama/Meta-Llama-3.1-8B",
    "zhipuai/GLM-5": "zai-org/GLM-5",
}
MIXTURES = ("gpt-oss", "A22B", "Kimi", "DeepSeek", "GLM")


def whole(text, otherwise):
    return int(float(text)) if text else otherwise


def arguments(row):
    tp = whole(row["tp_size"], 1)
    given = dict(
        mode="agg",
        backend_name="vllm",
        isl=int(row["isl"]),
        osl=int(row["osl"]),
        batch_size=whole(row["batch_size"], 1),
        tp_size=tp,
        pp_size=1,
    )
    if any(name in row["model_path"] for name in MIXTURES):
        experts_over_tp = whole(row["moe_tp_size"], 1) > 1 or whole(row["moe_ep_size"], 1) <= 1
        given.update(moe_tp_size=tp if experts_over_tp else 1, moe_ep_size=1 if experts_over_tp else tp, attention_dp_size=1)
    return given


def predict(row):
    model = SAME.get(row["model_path"], row["model_path"])
    quantised = {"gemm_quant_mode": row["gemm_quant_mode"]} if row["gemm_quant_mode"] in ("fp8", "fp8_block") else {}
    for extra in (quantised, {}, {"database_mode": "HYBRID"}):
        try:
            estimate = cli_estimate(model, row["system"], **arguments(row), **extra)
            return float(estimate.ttft), float(estimate.tpot)
        except BaseException:  # noqa: BLE001 - whatever it is, the row has no prediction
            continue
    return None, None


def main():
    folder, out = sys.argv[1:]
    results = []
    with open(f"{folder}/systems/silicon_sample.csv", encoding="utf-8") as table:
        for row in csv.DictReader(table):
            if row["system"] not in ("h100_sxm", "h200_sxm") or "minimax" in row["model_path"].lower():
                continue
            if row["backend"] != "vllm" or row["mode"] != "agg":
                continue
            ttft, tpot = predict(row)
            results.append({"id": row["id"], "ttft": ttft, "tpot": tpot})
    with open(out, "w", encoding="utf-8") as file:
        json.dump(results, file)


main()
