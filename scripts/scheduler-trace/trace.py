#!/usr/bin/env python3
"""Decisions of a real vLLM scheduler for scripted requests, as JSON lines.

    trace.py MODEL_DIR OUT.jsonl [--random N] [--seed S]

Drives vLLM's own Scheduler class (no model runs, no GPU is needed): requests come before given scheduling calls, every
finished batch gets made-up tokens, and each call's decision is written down: tokens per request, preemptions, free
blocks, cached tokens. `crates/servelab-sim/tests/scheduler.rs` replays the same scenarios and demands equality.

One line per scenario: {"name", "vllm", "config", "requests", "calls"}; a request is
[call, prompt, output, max, priority, kind, shared, tokens]; a call is [[[request, tokens], …], [preempted, …], free blocks].
"""

import argparse
import json
import os
import random

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import torch  # noqa: E402
import vllm  # noqa: E402
from vllm.engine.arg_utils import EngineArgs  # noqa: E402
from vllm.sampling_params import SamplingParams  # noqa: E402
from vllm.utils.hashing import get_hash_fn_by_name  # noqa: E402
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash  # noqa: E402
from vllm.v1.core.sched.async_scheduler import AsyncScheduler  # noqa: E402
from vllm.v1.core.sched.scheduler import Scheduler  # noqa: E402
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec  # noqa: E402
from vllm.v1.outputs import DraftTokenIds, ModelRunnerOutput  # noqa: E402
from vllm.v1.request import Request  # noqa: E402
from vllm.v1.structured_output import StructuredOutputManager  # noqa: E402

END = 2  # the token that ends a text before its limit
MASK = (1 << 64) - 1

DEFAULTS = {
    "max_num_seqs": 8,
    "max_num_batched_tokens": 64,
    "max_num_scheduled_tokens": 0,
    "max_model_len": 1024,
    "block_size": 4,
    "num_blocks": 64,
    "prefix_caching": True,
    "chunked_prefill": True,
    "long_prefill_token_threshold": 0,
    "long_prefill_adaptive": False,
    "reserve_full_prompt": True,
    "watermark": 0.0,
    "policy": "fcfs",
    "async": False,
    "draft_tokens": 0,
    "acceptance": [],
    "lookahead_tokens": 0,
    "seed": 0,
}


def mix(a, b):
    z = (a + b * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def accepted_drafts(config, request_id, generated, offered):
    """How many of the offered drafts are accepted: the same seeded draw as in the simulator."""
    draw = (mix(mix(config["seed"], request_id), generated) >> 11) / (1 << 53)
    n = 0
    for share in config["acceptance"][:offered]:
        if not draw < share:
            break
        n += 1
    return n


def token_at(request, position):
    """The token at a position of a request's text."""
    index, (_, prompt, _, _, _, kind, shared, tokens) = request
    if kind == "prefix" and position < min(tokens, prompt):
        return 1_000_000 + shared * 10_000 + position
    if kind == "turn":
        return 2_000_000 + shared * 10_000 + position
    return 10_000_000 + index * 10_000 + position


def make_scheduler(model, config):
    args = EngineArgs(
        model=model,
        skip_tokenizer_init=True,
        load_format="dummy",
        enforce_eager=True,
        max_model_len=config["max_model_len"],
        max_num_seqs=config["max_num_seqs"],
        max_num_batched_tokens=max(config["max_num_batched_tokens"], config["max_num_seqs"]),
        enable_prefix_caching=config["prefix_caching"],
        enable_chunked_prefill=True,
        scheduling_policy=config["policy"],
        async_scheduling=False,
        speculative_config=(
            {"method": "ngram", "num_speculative_tokens": config["draft_tokens"], "prompt_lookup_max": 2}
            if config["draft_tokens"]
            else None
        ),
    )
    whole = args.create_engine_config()
    limits = whole.scheduler_config
    limits.max_num_seqs = config["max_num_seqs"]
    limits.max_num_batched_tokens = config["max_num_batched_tokens"]
    limits.max_num_scheduled_tokens = config["max_num_scheduled_tokens"] or None
    limits.enable_chunked_prefill = config["chunked_prefill"]
    limits.long_prefill_token_threshold = config["long_prefill_token_threshold"]
    limits.long_prefill_token_threshold_adaptive = config["long_prefill_adaptive"]
    limits.scheduler_reserve_full_isl = config["reserve_full_prompt"]
    limits.watermark = config["watermark"]
    whole.cache_config.block_size = config["block_size"]
    whole.cache_config.num_gpu_blocks = config["num_blocks"]
    spec = FullAttentionSpec(block_size=config["block_size"], num_kv_heads=1, head_size=1, dtype=torch.float32)
    blocks = KVCacheConfig(
        num_blocks=config["num_blocks"], kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]
    )
    kind = AsyncScheduler if config["async"] else Scheduler
    scheduler = kind(
        vllm_config=whole,
        kv_cache_config=blocks,
        structured_output_manager=StructuredOutputManager(whole),
        block_size=config["block_size"],
        log_stats=True,
    )
    scheduler.num_lookahead_tokens = config["lookahead_tokens"]
    return scheduler


def run(model, name, overrides, requests):
    config = {**DEFAULTS, **overrides}
    scheduler = make_scheduler(model, config)
    hash_function = get_hash_fn_by_name("sha256")
    init_none_hash(hash_function)
    hasher = get_request_block_hasher(config["block_size"], hash_function)
    depth = 2 if config["async"] else 1
    calls, queue, cached = [], [], {}
    pending = sorted(enumerate(requests), key=lambda pair: (pair[1][0], pair[0]))
    while pending or scheduler.requests or queue:
        while pending and pending[0][1][0] <= len(calls):
            index, request = pending.pop(0)
            _, prompt, output, limit, priority, *_ = request
            params = SamplingParams(max_tokens=limit, stop_token_ids=[END], ignore_eos=True)
            scheduler.add_request(
                Request(
                    request_id=str(index),
                    prompt_token_ids=[token_at((index, request), at) for at in range(prompt)],
                    sampling_params=params,
                    pooling_params=None,
                    arrival_time=float(index),
                    priority=priority,
                    block_hasher=hasher,
                )
            )
        before = {request.request_id for request in scheduler.running}
        waits = {id: r.num_preemptions for id, r in scheduler.requests.items()}
        output = scheduler.schedule()
        preempted = sorted(
            int(id) for id, r in scheduler.requests.items() if r.num_preemptions > waits.get(id, 0)
        )
        rows = [[int(id), n] for id, n in output.num_scheduled_tokens.items()]
        calls.append([rows, preempted, scheduler.kv_cache_manager.block_pool.get_num_free_blocks()])
        for id, n in output.num_scheduled_tokens.items():
            stats = scheduler.requests[id].prefill_stats
            if id not in cached and stats is not None:
                cached[id] = stats.num_local_cached_tokens
        if len(calls) > 20_000:
            raise RuntimeError(f"{name}: no end in sight")
        if rows:
            samples = {id: not scheduler.requests[id].is_prefill_chunk for id in output.num_scheduled_tokens}
            drafts = {id: len(t) for id, t in output.scheduled_spec_decode_tokens.items()}
            padded = {id for id in drafts if id not in before}
            queue.append((output, samples, drafts, padded))
        if queue and (len(queue) == depth or not rows):
            finish(scheduler, config, requests, *queue.pop(0))
    return {
        "name": name,
        "vllm": vllm.__version__,
        "config": {key: value for key, value in config.items() if value != DEFAULTS[key]},
        "requests": requests,
        "cached": [cached.get(str(index), 0) for index in range(len(requests))],
        "calls": calls,
    }


def finish(scheduler, config, requests, output, samples, drafts, padded):
    """A batch is over: gives the scheduler the tokens that a model would have given."""
    ids = list(output.num_scheduled_tokens)
    sampled = []
    for id in ids:
        request = scheduler.requests.get(id)
        if request is None or not samples[id]:
            sampled.append([])
            continue
        index = int(id)
        _, prompt, length, limit, *_ = requests[index]
        generated = request.num_output_tokens
        offered = 0 if id in padded else drafts.get(id, 0)
        n = 1 + (accepted_drafts(config, index, generated, offered) if drafts.get(id, 0) else 0)
        tokens = []
        for at in range(generated, generated + n):
            is_end = at + 1 >= length and length < limit
            tokens.append(END if is_end else token_at((index, requests[index]), prompt + at))
        sampled.append(tokens)
    scheduler.update_from_output(
        output,
        ModelRunnerOutput(
            req_ids=ids, req_id_to_index={id: at for at, id in enumerate(ids)}, sampled_token_ids=sampled
        ),
    )
    if config["draft_tokens"] and not config["async"]:
        live = [id for id in ids if id in scheduler.requests]
        scheduler.update_draft_token_ids(DraftTokenIds(live, [[7] * config["draft_tokens"] for _ in live]))


def own(call, prompt, output, limit=None, priority=0):
    return [call, prompt, output, limit or output, priority, "own", 0, 0]


def prefix(call, prompt, output, family, tokens, priority=0):
    return [call, prompt, output, output, priority, "prefix", family, tokens]


def turn(call, prompt, output, conversation):
    return [call, prompt, output, output, 0, "turn", conversation, 0]


def named():
    """Scenarios that each show one rule."""
    yield "one request", {}, [own(0, 10, 5)]
    yield "chunked prompts beside decodes", {}, [own(0, 4, 10), own(0, 130, 3), own(2, 70, 4)]
    yield "no chunking", {"chunked_prefill": False, "max_num_batched_tokens": 64}, [own(0, 40, 4), own(0, 40, 4), own(1, 20, 3)]
    yield "places run out", {"max_num_seqs": 2}, [own(0, 8, 6) for _ in range(5)]
    yield "long prompts are cut", {"long_prefill_token_threshold": 16}, [own(0, 100, 3), own(1, 60, 3), own(9, 50, 2)]
    yield "long prompts, fair share", {"long_prefill_token_threshold": 8, "long_prefill_adaptive": True}, [own(0, 100, 3), own(0, 60, 3), own(2, 50, 2)]
    yield "blocks run out", {"num_blocks": 12, "prefix_caching": False}, [own(0, 8, 24), own(0, 8, 24), own(0, 4, 12)]
    yield "blocks run out, with a cache", {"num_blocks": 14}, [own(0, 8, 24), own(0, 8, 24), own(3, 4, 12), own(4, 9, 9)]
    yield "blocks run out, priorities", {"num_blocks": 12, "policy": "priority"}, [own(0, 8, 24, priority=2), own(0, 8, 24, priority=0), own(2, 4, 12, priority=1), own(5, 6, 8, priority=0)]
    yield "first part only", {"num_blocks": 16, "reserve_full_prompt": False}, [own(0, 50, 4), own(0, 50, 4), own(0, 8, 8)]
    yield "whole prompt", {"num_blocks": 16}, [own(0, 50, 4), own(0, 50, 4), own(0, 8, 8)]
    yield "watermark", {"num_blocks": 20, "watermark": 0.2}, [own(0, 20, 8), own(0, 20, 8), own(0, 20, 8)]
    yield "shared prefixes", {}, [prefix(0, 40, 4, 1, 32), prefix(2, 40, 4, 1, 32), prefix(9, 33, 2, 1, 32), prefix(9, 32, 2, 1, 32)]
    yield "evicted prefixes", {"num_blocks": 24}, [prefix(4 * at, 36, 6, at % 3, 30) for at in range(12)]
    yield "conversations", {"num_blocks": 40}, [turn(12 * at, 10 + 12 * at, 8, 1) for at in range(5)] + [turn(12 * at + 5, 12 + 11 * at, 7, 2) for at in range(4)]
    yield "fewer tokens than rows", {"max_num_scheduled_tokens": 20}, [own(0, 50, 4), own(0, 30, 4)]
    yield "limit of the model", {"max_model_len": 30}, [own(0, 20, 50, 50), own(0, 28, 20, 20)]
    yield "asynchronous", {"async": True}, [own(0, 10, 5), own(1, 30, 6, 20), own(4, 70, 3)]
    yield "asynchronous, blocks run out", {"async": True, "num_blocks": 12}, [own(0, 8, 24), own(0, 8, 24, 40), own(0, 4, 12)]
    yield "drafts", {"draft_tokens": 2, "acceptance": [0.7, 0.4], "seed": 5}, [own(0, 10, 12), own(1, 30, 16, 20), own(4, 70, 9)]
    yield "drafts with lookahead", {"draft_tokens": 3, "acceptance": [0.8, 0.5, 0.3], "lookahead_tokens": 3, "num_blocks": 20, "seed": 6}, [own(0, 10, 20), own(0, 20, 16, 20), own(4, 9, 9)]
    yield "drafts, asynchronous", {"draft_tokens": 2, "acceptance": [0.7, 0.4], "seed": 7, "async": True}, [own(0, 10, 12), own(1, 30, 16, 20), own(4, 70, 9)]


def mixed(seed):
    """A scenario of everything at once."""
    draw = random.Random(seed)
    longest = draw.choice([40, 80, 160])
    requests = []
    call = 0
    for _ in range(draw.randint(3, 24)):
        call += draw.choice([0, 0, 1, 3, 9])
        prompt, output = draw.randint(1, longest), draw.randint(1, 40)
        limit = output + draw.choice([0, 0, 0, 1, 10])
        kind = draw.choice(["own", "prefix", "prefix", "turn"])
        requests.append([call, prompt, output, limit, draw.randint(0, 3), kind, draw.randint(0, 3), draw.randint(1, longest)])
    block_size = draw.choice([1, 4, 8, 16])
    drafts = draw.choice([0, 0, 0, 1, 3])
    lookahead = draw.choice([0, drafts])
    most = longest + 40 + 10 + drafts + lookahead + 2
    rows = draw.randint(1, 12)
    config = {
        "max_num_seqs": rows,
        "max_num_batched_tokens": rows * (1 + drafts) + draw.randint(0, 100),
        "block_size": block_size,
        "num_blocks": -(-most // block_size) + 2 + draw.randint(0, 200 // block_size),
        "prefix_caching": draw.random() < 0.7,
        "long_prefill_token_threshold": draw.choice([0, 0, 8, 30]),
        "long_prefill_adaptive": draw.random() < 0.3,
        "reserve_full_prompt": draw.random() < 0.7,
        "watermark": draw.choice([0.0, 0.0, 0.05]),
        "policy": draw.choice(["fcfs", "fcfs", "priority"]),
        "async": draw.random() < 0.4,
        "draft_tokens": drafts,
        "acceptance": [0.8, 0.5, 0.3][:drafts],
        "lookahead_tokens": lookahead,
        "seed": seed,
    }
    if draw.random() < 0.2:
        config["max_num_scheduled_tokens"] = max(1, config["max_num_batched_tokens"] // 2)
    if not drafts and draw.random() < 0.2:
        config["chunked_prefill"] = False
        config["max_num_batched_tokens"] = max(config["max_num_batched_tokens"], most)
        config["max_num_scheduled_tokens"] = 0
    return f"random {seed}", config, requests


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--random", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    scenarios = list(named()) + [mixed(args.seed + at) for at in range(args.random)]
    n_calls = 0
    with open(args.out, "w", encoding="utf-8") as out:
        for name, config, requests in scenarios:
            trace = run(args.model, name, config, requests)
            n_calls += len(trace["calls"])
            out.write(json.dumps(trace, separators=(",", ":")) + "\n")
    print(f"vLLM {vllm.__version__}: {len(scenarios)} scenarios, {n_calls} scheduling calls")


if __name__ == "__main__":
    main()
