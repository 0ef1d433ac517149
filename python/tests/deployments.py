"""Random deployments: a trace, the arguments of a replay, and what of them a check of its figures has to know."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TRACE_BLOCK_SIZE = 16
ROUTER_MODES = ["round_robin", "random", "least_loaded", "power_of_two", "prefix_hash", "kv_router"]
VLLM_PRESETS = ["vllm-0.33", "vllm-0.32", "vllm-0.28", "vllm-0.24", "vllm-0.19", "vllm-0.14"]
FRONT_END_US = 1700
HOST_TIMES = ["gap_us", "gap_us_per_request", "front_end_us", "front_end_us_per_1k_prompt_tokens"]
HOST_TIMES += ["delivery_us", "delivery_us_per_request"]
STEP_MODEL = f"""front_end_us = {FRONT_END_US}
[prefill]
base_us = 300
per_prefill_token_us = 7
per_sequence_us = 11
per_context_token_us = 1.5
per_attention_pair_us = 0.25
[decode]
base_us = 200
per_sequence_us = 9
per_context_token_us = 1.25
"""


@dataclass
class Deployment:
    """What is replayed, and how."""

    rows: list[dict[str, Any]]
    arguments: list[str] = field(default_factory=list)
    # Workers of each pool, in the order in which a request meets them.
    pools: dict[str, int] = field(default_factory=dict)
    # What an iteration of each pool may hold: requests, tokens; none where the engine has no such limit.
    most_requests: dict[str, int] = field(default_factory=dict)
    most_tokens: dict[str, int | None] = field(default_factory=dict)
    asynchronous: bool = False
    # What the host takes besides passes, in µs by setting.
    host: dict[str, float] = field(default_factory=dict)
    concurrency: int | None = None
    sla: dict[str, float] = field(default_factory=dict)
    # Objectives: a statistic, a latency, the sign and a limit in ms; or goodput: a share and its limits in ms.
    slo: list[tuple[str, str, str, float] | tuple[float, dict[str, float]]] = field(default_factory=list)
    # What figures leave out at either end, and whether rejected requests are infinite.
    warmup: str | None = None
    cooldown: str | None = None
    count_rejected: bool = False
    # Whether workers keep KV in the memory of the host.
    offloads: bool = False

    def host_ns(self, key: str, times: float) -> int:
        """Return what the host takes, with a price of so many requests or of thousands of tokens, in ns."""
        each = f"{key}_per_1k_prompt_tokens" if key == "front_end_us" else f"{key}_per_request"
        return round((self.host.get(key, 0) + self.host.get(each, 0) * times) * 1000)

    def write(self, folder: Path) -> list[str]:
        """Write what the replay reads; return all its arguments."""
        (folder / "trace.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        (folder / "step.toml").write_text(STEP_MODEL)
        return ["replay", "trace.jsonl", "--trace-block-size", str(TRACE_BLOCK_SIZE), *self.arguments]


def rows(draw: random.Random, longest: int) -> list[dict[str, Any]]:
    """Return rows whose prompts share prefixes, some of them turns of sessions."""
    sessions = draw.choice([0, 0, 3, 8])
    last_turn: dict[str, tuple[float, list[int], int]] = {}
    at, found = 0.0, []
    gap = draw.choice([0, 1, 5, 20, 200])
    for number in range(draw.randint(1, draw.choice([3, 20, 60]))):
        at = round(at + draw.expovariate(1) * gap, 3) if draw.random() < 0.8 else at
        input_length = draw.randint(1, longest if draw.random() < 0.95 else 3 * longest)
        family = draw.randint(1, 4)
        # Blocks of the family up to a point, then blocks of its own.
        blocks, own = -(-input_length // TRACE_BLOCK_SIZE), draw.randint(0, 12)
        ids = [1000 * family + block if block < own else 100_000 * (number + 1) + block for block in range(blocks)]
        row: dict[str, Any] = {"timestamp": at, "input_length": input_length, "hash_ids": ids}
        row["output_length"] = 1 if draw.random() < 0.1 else draw.randint(1, draw.choice([5, 40, 120]))
        if draw.random() < 0.3:
            row["priority"] = draw.randint(-20, 20)
        if sessions and draw.random() < 0.7:
            name = f"session {draw.randrange(sessions)}"
            row["session_id"] = name
            if name in last_turn:
                time, ids, tokens = last_turn[name]
                if tokens + 2 < longest:
                    # The conversation so far, and something new.
                    row["input_length"] = input_length = draw.randint(tokens + 1, longest)
                    blocks = -(-input_length // TRACE_BLOCK_SIZE)
                    row["hash_ids"] = ids[: tokens // TRACE_BLOCK_SIZE] + [
                        100_000 * (number + 1) + block for block in range(tokens // TRACE_BLOCK_SIZE, blocks)
                    ]
                if draw.random() < 0.5:
                    del row["timestamp"]
                    row["delay"] = draw.choice([0, round(draw.random() * 50, 3)])
            last_turn[name] = (at, row["hash_ids"], row["input_length"])
        found.append(row)
    return found


def classify(found: list[dict[str, Any]], draw: random.Random) -> None:
    """Give some of the rows a class."""
    for row in found:
        if draw.random() < 0.8:
            row["class"] = draw.choice(["chat", "batch", "agent"])


def link(found: list[dict[str, Any]], draw: random.Random) -> None:
    """Let some of the rows wait for several before them."""
    for number, row in enumerate(found):
        row["request_id"] = number
        if number and draw.random() < 0.3:
            row["wait_for"] = sorted({draw.randrange(number) for _ in range(draw.randint(1, 3))})


def deployment(seed: int) -> Deployment:
    """Return the random deployment of a seed."""
    draw = random.Random(seed)
    longest = draw.choice([30, 200, 600])
    one = Deployment(rows(draw, longest))
    # By the seed, and drawn apart, so that all else stays what it is.
    if seed % 5 in (0, 1):
        change = classify if seed % 5 == 0 else link
        change(one.rows, random.Random(f"{change.__name__} {seed}"))
    family = draw.choice(["vllm", "vllm", "vllm", "sglang", "sglang", "trtllm"])
    block_size = draw.choice([1, 4, 16, 64]) if family == "sglang" else draw.choice([4, 16, 64])
    if family == "trtllm" or draw.random() < 0.5:
        one.arguments += ["--engine", family]
        if family == "vllm" and draw.random() < 0.3:
            one.asynchronous = True
            one.arguments += ["--async-scheduling"]
        if family == "sglang" and draw.random() < 0.3:
            one.asynchronous = True
            one.arguments += ["--disable-overlap-schedule=false"]
    else:
        one.asynchronous = True
        one.arguments += ["--engine-preset", "sglang-0.5" if family == "sglang" else draw.choice(VLLM_PRESETS)]
    one.arguments += ["--block-size", str(block_size)]
    disaggregated = draw.random() < 0.45
    for pool in ["prefill", "decode"] if disaggregated else ["aggregated"]:
        one.pools[pool] = draw.randint(1, 4)
        key = {"aggregated": "--num-workers", "prefill": "--prefill-workers", "decode": "--decode-workers"}[pool]
        one.arguments += [key, str(one.pools[pool])]
        args = engine_args(draw, family, block_size, longest)
        one.most_requests[pool] = args["max_num_seqs"]
        # SGLang's limits are for prompts alone, of which a single one may exceed them.
        one.most_tokens[pool] = args.get("max_num_batched_tokens")
        flag = "--extra-engine-args" if pool == "aggregated" else f"--{pool}-engine-args"
        one.arguments += [flag, json.dumps(args)]
    if disaggregated and draw.random() < 0.6:
        one.arguments += ["--kv-bytes-per-token", "1000"]
        one.arguments += ["--kv-transfer-bandwidth", str(draw.choice([0.001, 0.01, 1]))]
    latency(draw, one)
    router(draw, one)
    if draw.random() < 0.3:
        one.concurrency = draw.randint(1, 12)
        one.arguments += ["--replay-concurrency", str(one.concurrency)]
    elif draw.random() < 0.3:
        one.arguments += ["--arrival-speedup-ratio", str(draw.choice([0.5, 3, 10]))]
    limits: dict[str, list[float]] = {"ttft_ms": [5, 20, 100], "tpot_ms": [0.9, 2, 12], "e2e_ms": [30, 300]}
    limits["pooled_itl_ms"] = [1.2, 7]
    for limit, values in limits.items():
        if draw.random() < 0.3:
            one.sla[limit] = draw.choice(values)
            one.arguments += [f"--sla-{limit.replace('_', '-')}", str(one.sla[limit])]
    one.arguments += ["--seed", str(draw.randrange(1000))]
    if family == "vllm" and not disaggregated:
        offload(random.Random(f"offload {seed}"), one)
    host(random.Random(f"host {seed}"), one)
    objectives(random.Random(f"slo {seed}"), one)
    measured(random.Random(f"measured {seed}"), one)
    return one


def offload(draw: random.Random, one: Deployment) -> None:
    """Let some workers of vLLM's latest release keep KV in the memory of the host."""
    if draw.random() < 0.6 or not {"vllm-0.33", "--engine"} & {*one.arguments}:
        return
    if any('"enable_prefix_caching": false' in argument for argument in one.arguments):
        return
    one.offloads = True
    one.arguments += ["--kv-bytes-per-token", "1000", "--kv-offloading-size", str(draw.choice([0.0005, 0.002, 0.01]))]
    one.arguments += ["--kv-offloading", json.dumps({"connector": draw.choice(["offloading", "simple"])})]


def measured(draw: random.Random, one: Deployment) -> None:
    """Choose which requests figures are of; mostly all."""
    if draw.random() < 0.3:
        one.warmup = draw.choice(["auto", "0", "1", "7", "30", "1000", "0ms", "5ms", "40ms", "0.2s", "10m"])
        one.arguments += ["--warmup", one.warmup]
    if draw.random() < 0.2:
        one.cooldown = draw.choice(["0", "1", "7", "30", "0s", "5ms", "40ms", "0.2s"])
        one.arguments += ["--cooldown", one.cooldown]
    if draw.random() < 0.2:
        one.count_rejected = True
        one.arguments += ["--count-rejected"]


def objectives(draw: random.Random, one: Deployment) -> None:
    """Choose what the run has to keep."""
    for _ in range(draw.choice([0, 0, 1, 2, 3])):
        statistic = draw.choice(["mean", "max", "p0", "p50", "p95", "p99.9", "p100"])
        metric = draw.choice(["ttft", "tpot", "itl", "e2e"])
        limit = draw.choice([5, 30, 100, 1000]) if metric in ("tpot", "itl") else draw.choice([50, 500, 5000, 50000])
        one.slo.append((statistic, metric, draw.choice(["<=", "<"]), limit))
    if draw.random() < 0.4:
        one.slo.append((draw.choice([25, 50, 90, 99]), draw.choice([{"ttft": 500.0}, {"tpot": 20.0, "e2e": 5000.0}])))
    one.slo = [objective for at, objective in enumerate(one.slo) if objective not in one.slo[:at]]
    for objective in one.slo:
        one.arguments += ["--slo", slo_text(objective)]


def slo_text(objective: tuple[str, str, str, float] | tuple[float, dict[str, float]]) -> str:
    """Return an objective as reports write it."""

    def duration(ms: float) -> str:
        return f"{ms / 1000:g}s" if ms >= 1000 else f"{ms:g}ms"

    if len(objective) == 2:
        share, limits = objective
        return f"goodput >= {share}% ({', '.join(f'{name} <= {duration(ms)}' for name, ms in limits.items())})"
    statistic, metric, sign, limit = objective
    return f"{statistic} {metric} {sign} {duration(limit)}"


def host(draw: random.Random, one: Deployment) -> None:
    """Choose what the host takes besides iterations; of most it is nothing."""
    if draw.random() < 0.6:
        return
    for key in HOST_TIMES:
        if draw.random() < 0.6:
            one.host[key] = draw.choice([0, 150, 700, 5000]) * (10 if key.endswith("tokens") else 1)
            one.arguments += [f"--{key.replace('_', '-')}", str(one.host[key])]


def engine_args(draw: random.Random, family: str, block_size: int, longest: int) -> dict[str, Any]:
    """Return settings of the engines of a pool; memory is often short."""
    blocks = -(-longest // block_size)
    args: dict[str, Any] = {"max_num_seqs": draw.choice([1, 2, 4, 16, 64])}
    args["num_gpu_blocks"] = blocks + draw.choice([2, blocks, 4 * blocks, 50 * blocks])
    if draw.random() < 0.2:
        args["max_model_len"] = longest + draw.randint(1, 60)
    if draw.random() < 0.15:
        args["enable_prefix_caching"] = False
    if family == "sglang":
        own: dict[str, Any] = {
            "schedule_policy": draw.choice(["fcfs", "lpm", "lof", "dfs-weight", "random", "hrrn", "routing-key"])
        }
        own["chunked_prefill_size"] = draw.choice([-1, 64, 128, 512])
        own["schedule_conservativeness"] = draw.choice([0.1, 0.5, 1.0])
        if own["chunked_prefill_size"] > 0 and draw.random() < 0.3:
            own["enable_mixed_chunk"] = True
        if own["schedule_policy"] in ("fcfs", "lof") and draw.random() < 0.3:
            own["enable_priority_scheduling"] = True
        return {**args, "sglang": own}
    args["max_num_batched_tokens"] = draw.choice([64, 100, 512, 4096])
    if draw.random() < 0.15:
        args["enable_chunked_prefill"] = False
    if family == "vllm":
        if draw.random() < 0.2:
            args["scheduling_policy"] = "priority"
        if draw.random() < 0.1:
            args["long_prefill_token_threshold"] = 32
    return args


def latency(draw: random.Random, one: Deployment) -> None:
    """Choose how long iterations take."""
    spec = draw.choice(["polynomial", "linear:500,10,3", "linear:1000,0.37,11", "linear:0,0,0", "step:step.toml"])
    if spec.startswith("step"):
        one.host["front_end_us"] = FRONT_END_US
    one.arguments += ["--latency", spec]


def router(draw: random.Random, one: Deployment) -> None:
    """Choose who gives requests to workers."""
    mode = draw.choice(ROUTER_MODES)
    one.arguments += ["--router-mode", mode]
    if mode == "kv_router":
        settings: dict[str, Any] = {"overlap_score_weight": draw.choice([0, 1, 3])}
        settings["router_temperature"] = draw.choice([0, 0, 0.7])
        settings["router_queue_threshold"] = draw.choice([None, None, 0.5, 4])
        settings["use_kv_events"] = draw.random() < 0.8
        one.arguments += ["--router-config", json.dumps(settings)]
        if draw.random() < 0.2:
            one.arguments += ["--kv-event-delay-ms", "3"]
