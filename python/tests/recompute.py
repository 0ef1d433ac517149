"""Recompute the figures of a report from the rows of its requests and of its iterations, with NumPy.

Nothing here knows how servecast computes them: a figure follows from its description in the schema of the report and
from what the rows say. As a program: `python recompute.py BINARY COUNT [FIRST_SEED]` replays so many random
deployments and says where a figure differs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from deployments import Deployment, deployment, slo_text

Row = dict[str, Any]
# Keys of a report that say what was replayed rather than what came out of it.
GIVEN = {
    *("schema_version", "servecast_version", "wall_time_ms", "workload_name", "workload_hash", "seed", "settings"),
    *("sla", "trace_notes", "notes", "latency_estimate", "latency_source", "latency_error"),
}
RELATIVE_TOLERANCE = 1e-9
SECOND_NS = 1_000_000_000


def ns(ms: float) -> int:
    """Return a time of a row in whole nanoseconds, which it is a multiple of."""
    return round(ms * 1e6)


class Run:
    """What rows say of a run; times in ns."""

    def __init__(self, requests: list[Row], iterations: list[Row], one: Deployment) -> None:
        self.requests, self.iterations, self.pools = requests, iterations, one.pools
        pools = one.pools
        self.last_pool = list(pools)[-1]
        # Ends of the iterations in which a request got a token, admissions as (decided, tokens found), those of them
        # that were before its first token, preemptions.
        self.tokens: dict[tuple[str, int], list[int]] = defaultdict(list)
        self.admissions: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
        self.before_token: dict[tuple[str, int], list[int]] = defaultdict(list)
        self.preemptions: Counter[tuple[str, int]] = Counter()
        # Tokens of a first admission that the memory of the host had.
        self.from_host: dict[tuple[str, int], int] = {}
        # When users have the tokens, in order: nothing of a worker overtakes what its earlier passes computed.
        self.out: dict[int, list[int]] = defaultdict(list)
        delivered: dict[int, int] = defaultdict(int)
        self.transfers: dict[int, tuple[int, int | None]] = {}
        # When a decode worker of SGLang's had memory for a prompt that was not computed yet.
        self.reserved: dict[int, int] = {}
        for row in iterations:
            pool = row["pool"]
            loaded = dict(row.get("loaded_from_host", []))
            for request, _ in row["admitted"]:
                self.from_host.setdefault((pool, request), loaded.get(request, 0))
            # A first token that was handed over is out when the request joins.
            for request, found in [*((request, 0) for request in row["joined"]), *row["admitted"]]:
                self.admissions[pool, request].append((ns(row["scheduled_at_ms"]), found))
                if not self.tokens[pool, request]:
                    self.before_token[pool, request].append(ns(row["scheduled_at_ms"]))
            for request in row["joined"]:
                self.tokens[pool, request].append(ns(row["scheduled_at_ms"]))
                if pool == self.last_pool:
                    self.out[request].append(ns(row["scheduled_at_ms"]) + one.host_ns("delivery_us", 1))
            for request in row["emitted"]:
                self.tokens[pool, request].append(ns(row["end_ms"]))
            if pool == self.last_pool and row["scheduled"]:
                out = ns(row["end_ms"]) + one.host_ns("delivery_us", len(row["scheduled"]))
                delivered[row["worker"]] = out = max(out, delivered[row["worker"]])
                for request in row["emitted"]:
                    self.out[request].append(out)
            for request in row["preempted"]:
                self.preemptions[pool, request] += 1
            for request, tokens, end in row["transfers"]:
                self.transfers[request] = (tokens, None if end is None else ns(end))
                if end is None:
                    self.reserved[request] = ns(row["scheduled_at_ms"])
        self.measured, self.part = measured_part(self, one)
        self.completed = [row for row in self.part if row["status"] == "finished"]
        self.duration = self.duration_of(self.part)

    def duration_of(self, rows: list[Row]) -> int | None:
        """Return the time from the first arrival to the last token of requests."""
        last_tokens = [times[-1] for row in rows if (times := self.visible(row))]
        return max(last_tokens) - min(ns(row["arrival_ms"]) for row in rows) if last_tokens else None

    def visible(self, row: Row) -> list[int]:
        """Return when the tokens that a user sees came."""
        return self.out[row["request"]]

    def gaps(self, rows: list[Row] | None = None) -> Any:
        """Return all gaps between tokens of the requests that are measured, or of others, as an array."""
        rows = self.part if rows is None else rows
        return np.concatenate([np.zeros(0, int), *(np.diff(self.visible(row)) for row in rows)])


def margin(given: str, from_end: list[int]) -> int:
    """Return how many requests are within a margin, by their distances from the end of the run where it lies, in ns."""
    if given.isdigit():
        return min(int(given), len(from_end))
    number = float(given.rstrip("mshn"))
    ms = number * {"ms": 1, "s": 1000, "m": 60_000}[given.lstrip("0123456789.")]
    return sum(distance < round(ms * 1e6) for distance in from_end)


def measured_part(run: Run, one: Deployment) -> tuple[Row | None, list[Row]]:
    """Return what a report says of the part that is measured, without figures, and the requests of that."""
    if one.warmup is None and one.cooldown is None:
        return None, run.requests
    rows = sorted(run.requests, key=lambda row: ns(row["arrival_ms"]))
    arrivals = [ns(row["arrival_ms"]) for row in rows]
    after = margin(one.cooldown, [arrivals[-1] - at for at in arrivals]) if one.cooldown else 0
    before, found_by = 0, "given"
    if one.warmup == "auto":
        cut = steady_from(run, rows[: len(rows) - after])
        before, found_by = (0, "no_steady_state") if cut is None else (cut, "mser5")
    elif one.warmup:
        before = margin(one.warmup, [at - arrivals[0] for at in arrivals])
    before = min(before, len(rows) - after)
    part = rows[before : len(rows) - after]
    what = {
        "from_ms": part[0]["arrival_ms"] if part else None,
        "to_ms": part[-1]["arrival_ms"] if part else None,
        "requests": len(part),
        "left_out_before": before,
        "left_out_after": after,
        "found_by": found_by,
    }
    return what, sorted(part, key=lambda row: int(row["request"]))


def steady_from(run: Run, rows: list[Row]) -> int | None:
    """Return how many requests MSER-5 cuts off, by their TTFT."""
    served = [place for place, row in enumerate(rows) if row["status"] == "finished"]
    ttfts = [(run.visible(rows[place])[0] - ns(rows[place]["arrival_ms"])) / 1e6 for place in served]
    batches = np.array(ttfts[: len(ttfts) // 5 * 5], float).reshape(-1, 5).mean(axis=1)
    if batches.size < 10:
        return None
    half = batches.size // 2
    errors = [float(batches[cut:].var() / (batches.size - cut)) for cut in range(half + 1)]
    least = min(errors)
    # Of cuts that are as good but for rounding, the first one.
    cut = next(cut for cut, error in enumerate(errors) if error <= least * (1 + 1e-9) + 1e-15)
    return None if cut == half else served[cut * 5] if cut else 0


def main_statistics(samples: list[float]) -> Row | None:
    """Return the statistics of a latency that a part of a run has."""
    found = statistics("x", samples)
    names = ["mean", "median", "p90", "p95", "p99", "max"]
    return {name: found[f"{name}_x"] for name in names} if samples else None


def figures_of(run: Run, rows: list[Row], one: Deployment) -> Row:
    """Return the main figures of some requests."""
    served = [row for row in rows if row["status"] == "finished"]
    inputs = sum(row["input_length"] for row in served)
    first_pool = next(iter(run.pools))

    figures: Row = {
        "num_requests": len(rows),
        "completed_requests": len(served),
        "rejected_requests": len(rows) - len(served),
        "total_input_tokens": inputs,
        "total_output_tokens": sum(len(run.visible(row)) for row in served),
        "prefix_cache_reused_ratio": (
            sum(run.admissions[first_pool, row["request"]][0][1] for row in served) / inputs if inputs else None
        ),
        "ttft_ms": main_statistics(counted(run, rows, one, "ttft")),
        "tpot_ms": main_statistics(counted(run, rows, one, "tpot")),
        "itl_ms": main_statistics([float(gap) / 1e6 for gap in run.gaps(rows)]),
        "e2e_latency_ms": main_statistics(counted(run, rows, one, "e2e")),
    }
    if one.sla.keys() - {"pooled_itl_ms"}:
        figures["goodput_completed_requests"] = sum(keeps(run, row, one.sla) for row in served)
    if one.slo:
        figures["slo"] = [objective(run, one, number, rows) for number in range(len(one.slo))]
    return figures


def counted(run: Run, rows: list[Row], one: Deployment, metric: str) -> list[float]:
    """Return the samples of a latency as reports count them: of served requests, or infinite for the others, too."""
    return [ms for ms in latencies(run, metric, rows) if one.count_rejected or np.isfinite(ms)]


def statistics(name: str, samples: Iterable[float]) -> Row:
    """Return the nine statistics of a metric."""
    values = np.array(list(samples), float)
    names = ["mean", "min", "max", "median", "p75", "p90", "p95", "p99", "std"]
    if not values.size:
        return {f"{key}_{name}": None for key in names}
    if np.isinf(values).any():
        values.sort()
        wanted = ["mean", "p0", "max", "p50", "p75", "p90", "p95", "p99", "max"]
        infinite = [statistic_of(values, key) for key in wanted]
        return {f"{key}_{name}": figure if np.isfinite(figure) else None for key, figure in zip(names, infinite)}
    figures = [values.mean(), values.min(), values.max(), *np.percentile(values, [50, 75, 90, 95, 99]), values.std()]
    return {f"{key}_{name}": float(figure) for key, figure in zip(names, figures)}


def expected_report(run: Run, one: Deployment) -> Row:
    """Return every figure of the report."""
    completed = run.completed
    rejected = [row for row in run.part if row["status"] != "finished"]
    seconds = run.duration / SECOND_NS if run.duration else None
    inputs = sum(row["input_length"] for row in completed)
    outputs = sum(len(run.visible(row)) for row in completed)
    first_pool = next(iter(run.pools))
    reused = sum(run.admissions[first_pool, row["request"]][0][1] for row in completed)
    several = [row for row in completed if len(run.visible(row)) > 1]

    def of(rows: list[Row], figure: Callable[[Row, list[int]], float], asks: int = 1) -> list[float]:
        samples = [figure(row, run.visible(row)) for row in rows]
        unserved = [row for row in rejected if row["requested_output_length"] >= asks] if one.count_rejected else []
        return samples + [float("inf") for _ in unserved]

    def per_second(count: int) -> float | None:
        return count / seconds if seconds else None

    gaps = run.gaps()
    report: Row = {
        "num_requests": len(run.part),
        "completed_requests": len(completed),
        "rejected_requests": len(rejected),
        "rejected_by_reason": dict(Counter(row["reject_reason"] for row in rejected)),
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        "rejected_input_tokens": sum(row["input_length"] for row in rejected),
        "rejected_output_tokens": sum(len(run.visible(row)) for row in rejected),
        "duration_ms": None if run.duration is None else run.duration / 1e6,
        "request_throughput_rps": per_second(len(completed)),
        "input_throughput_tok_s": per_second(inputs),
        "output_throughput_tok_s": per_second(outputs),
        "total_throughput_tok_s": per_second(inputs + outputs),
        "prefix_cache_reused_ratio": reused / inputs if inputs else None,
        "itl_relative_error": 0.0,
        "total_preemptions": sum(run.preemptions.values()),
        "pools": [pool_report(run, pool, one) for pool in run.pools],
        **statistics("ttft_ms", of(completed, lambda row, at: (at[0] - ns(row["arrival_ms"])) / 1e6)),
        **statistics("ttst_ms", of(several, lambda _, at: (at[1] - at[0]) / 1e6, 2)),
        **statistics("tpot_ms", of(several, lambda _, at: (at[-1] - at[0]) / 1e6 / (len(at) - 1), 2)),
        **statistics("itl_ms", gaps / 1e6),
        **statistics("e2e_latency_ms", of(completed, lambda row, at: (at[-1] - ns(row["arrival_ms"])) / 1e6)),
        **statistics("output_token_throughput_per_user", 1e9 / gaps[gaps > 0]),
        **statistics(
            "queue_time_ms",
            of(
                completed,
                lambda row, _: (run.admissions[first_pool, row["request"]][0][0] - ns(row["arrival_ms"])) / 1e6,
            ),
        ),
    }
    if one.offloads:
        loaded = sum(run.from_host[first_pool, row["request"]] for row in completed)
        report["gpu_cache_reused_ratio"] = (reused - loaded) / inputs if inputs else None
        report["host_cache_reused_ratio"] = loaded / inputs if inputs else None
    report["total_iterations"] = sum(pool["iterations"] for pool in report["pools"])
    if "pooled_itl_ms" in one.sla:
        within = gaps <= one.sla["pooled_itl_ms"] * 1e6
        report["pooled_itl_within_sla_ratio"] = float(within.mean()) if gaps.size else None
    if one.sla.keys() - {"pooled_itl_ms"}:
        good = [row for row in completed if keeps(run, row, one.sla)]
        report["goodput_completed_requests"] = len(good)
        report["goodput_request_throughput_rps"] = per_second(len(good))
        report["goodput_output_throughput_tok_s"] = per_second(sum(len(run.visible(row)) for row in good))
    if one.slo:
        report["slo"] = [objective(run, one, number, run.part) for number in range(len(one.slo))]
    if run.measured is not None:
        report["measured"] = {**run.measured, "whole_run": figures_of(run, run.requests, one)}
    if one.count_rejected:
        report["counted_as_infinite"] = len(rejected)
    classes = {row["class"] for row in run.part if "class" in row}
    if classes:
        report["classes"] = {
            name: figures_of(run, [row for row in run.part if row.get("class") == name], one) for name in classes
        }
    sessions = sessions_of(run)
    if sessions:
        report["sessions"] = sessions
    grows = overload(run)
    if grows:
        report["overload"] = grows
    return report


def sessions_of(run: Run) -> Row | None:
    """Return the figures of the sessions with several requests."""
    by_name: dict[int, list[Row]] = {}
    for row in run.requests:
        by_name.setdefault(row["session"], []).append(row)
    sessions = [rows for rows in by_name.values() if len(rows) > 1]
    if not sessions:
        return None
    served = [rows for rows in sessions if all(row["status"] == "finished" for row in rows)]
    lengths, busy = [], 0
    for rows in served:
        spans = [(ns(row["arrival_ms"]), run.visible(row)[-1]) for row in rows]
        lengths.append(max(end for _, end in spans) - min(start for start, _ in spans))
        busy += covered(spans)

    def ttfts(first: bool) -> list[float]:
        rows = [row for rows in sessions for row in rows if row["status"] == "finished"]
        return [(run.visible(row)[0] - ns(row["arrival_ms"])) / 1e6 for row in rows if (row["turn"] == 0) == first]

    return {
        "num_sessions": len(sessions),
        "completed_sessions": len(served),
        "session_duration_ms": main_statistics([length / 1e6 for length in lengths]),
        "idle_ratio": 1 - busy / sum(lengths) if sum(lengths) else None,
        "first_turn_ttft_ms": main_statistics(ttfts(True)),
        "later_turn_ttft_ms": main_statistics(ttfts(False)),
    }


def overload(run: Run) -> Row | None:
    """Return by how much the backlog grows, if it does until the last arrival."""
    rows = sorted(run.requests, key=lambda row: row["request"])
    if len(rows) < 100:
        return None
    arrivals = np.sort([row["arrival_ms"] for row in rows])
    ends = np.sort([row["ended_ms"] for row in rows])
    stays = np.sort([row["ended_ms"] - row["arrival_ms"] for row in rows[: len(rows) // 10]])
    first, last = arrivals[0], arrivals[-1]
    start = first + 2 * stays[len(stays) // 2]
    if last <= first or last - start < (last - first) / 2:
        return None
    edges = np.linspace(start, last, 25)
    backlog = np.searchsorted(arrivals, edges, "right") - np.searchsorted(ends, edges, "right")
    fits = []
    for begin in range(19):
        rise = np.maximum(edges - edges[begin], 0)
        (slope, level), *_ = np.linalg.lstsq(np.stack([rise, np.ones(25)], axis=1), backlog, rcond=None)
        fits.append((float(((rise * slope + level - backlog) ** 2).sum()), begin, float(slope)))
    _, begin, slope = min(fits)
    changes = np.diff(backlog[begin:])
    came = int((arrivals > edges[begin]).sum())
    grown = int(backlog[-1] - backlog[begin])
    error = changes.std(ddof=1) / np.sqrt(changes.size)
    if not (changes.mean() > 4.5 * error and changes.mean() > 0 and grown > 0.01 * came and slope > 0):
        return None
    return {
        "from_ms": float(edges[begin]),
        "growth_rps": slope * 1000,
        "arrival_rps": came / float(edges[-1] - edges[begin]) * 1000,
        "backlog": int(backlog[-1]),
    }


def latencies(run: Run, metric: str, rows: list[Row]) -> list[float]:
    """Return the samples of a latency in ms, infinite for requests that were not served."""
    if metric == "itl":
        return [float(gap) / 1e6 for gap in run.gaps(rows)]
    samples = []
    for row in rows:
        at, arrival = run.visible(row), ns(row["arrival_ms"])
        if metric == "tpot" and row["requested_output_length"] < 2:
            continue
        if row["status"] != "finished":
            samples.append(float("inf"))
        elif metric == "tpot":
            samples += [(at[-1] - at[0]) / 1e6 / (len(at) - 1)] if len(at) > 1 else []
        else:
            samples.append((at[0 if metric == "ttft" else -1] - arrival) / 1e6)
    return samples


def objective(run: Run, one: Deployment, number: int, rows: list[Row]) -> Row:
    """Return what became of an objective."""
    wanted = one.slo[number]
    served = [row for row in rows if row["status"] == "finished"]
    unserved = len(rows) - len(served)
    value: float | None
    if len(wanted) == 2:
        limit, limits = wanted[0] / 100, wanted[1]
        sla = {f"{name}_ms": ms for name, ms in limits.items()}
        samples, good = len(rows), sum(keeps(run, row, sla) for row in served)
        value, misses = (good / samples if samples else None), samples - good
        met = value is not None and 100 * good >= wanted[0] * samples
        margin = None if value is None else value - limit
    else:
        statistic, metric, sign, limit = wanted
        figures = np.sort(np.array(latencies(run, metric, rows)))

        def kept(figure: float) -> bool:
            return figure < limit if sign == "<" else figure <= limit

        samples, misses = figures.size, sum(not kept(figure) for figure in figures)
        value = statistic_of(figures, statistic) if samples else None
        met = value is not None and kept(value)
        value = value if value is not None and np.isfinite(value) else None
        margin = None if value is None else (limit - value) / limit
    text = slo_text(wanted)
    return {
        **{"objective": text, "met": met, "value": value, "limit": limit, "margin": margin},
        **{"samples": samples, "misses": misses, "unserved": unserved},
    }


def statistic_of(figures: np.ndarray[Any, np.dtype[np.float64]], statistic: str) -> float:
    """Return a statistic of ascending figures, some of which may be infinite."""
    if statistic in ("mean", "max"):
        return float(figures.mean() if statistic == "mean" else figures[-1])
    percent = float(statistic[1:])
    place = (figures.size - 1) * (percent / 100)
    above = figures[min(int(place) + 1, figures.size - 1)]
    if np.isinf(above):
        return float(figures[int(place)] if place == int(place) else above)
    return float(np.percentile(figures, percent))


def keeps(run: Run, row: Row, sla: dict[str, float]) -> bool:
    """Whether a request kept all limits."""
    at, arrival = run.visible(row), ns(row["arrival_ms"])
    figures = {"ttft_ms": (at[0] - arrival) / 1e6, "e2e_ms": (at[-1] - arrival) / 1e6}
    if len(at) > 1:
        figures["tpot_ms"] = (at[-1] - at[0]) / 1e6 / (len(at) - 1)
    return all(figures[limit] <= most for limit, most in sla.items() if limit in figures)


def pool_report(run: Run, pool: str, one: Deployment) -> Row:
    """Return the figures of a pool, but for those of KV in use: rows do not have the blocks held in an iteration."""
    iterations = [row for row in run.iterations if row["pool"] == pool]
    stages = [(row, stage) for row in run.requests for stage in row["stages"] if stage["pool"] == pool]
    # Of each worker: requests, tokens found, time in iterations, and that times requests.
    requests, reused, busy, batches = [], [], [], []
    for worker in range(run.pools[pool]):
        own = [(row, stage) for row, stage in stages if stage["worker"] == worker]
        requests.append(float(len(own)))
        reused.append(float(sum(found_tokens(run, pool, row) for row, _ in own)))
        computed = [row for row in iterations if row["worker"] == worker and row["scheduled"]]
        lengths = [ns(row["end_ms"]) - ns(row["start_ms"]) for row in computed]
        busy.append(covered([(ns(row["start_ms"]), ns(row["end_ms"])) for row in computed]))
        batches.append(sum(len(row["scheduled"]) * length for row, length in zip(computed, lengths)))
    batch_size = sum(batches) / sum(busy) if sum(busy) else None
    most = one.most_requests[pool]
    whole = run.duration_of(run.requests)
    shares = [time / whole for time in busy] if whole else None
    return {
        "pool": pool,
        "workers": run.pools[pool],
        "iterations": sum(bool(row["scheduled"]) for row in iterations),
        "computed_tokens": sum(tokens for row in iterations for _, tokens, _ in row["scheduled"]),
        "preemptions": sum(len(row["preempted"]) for row in iterations),
        "utilization": float(np.mean(shares)) if shares else None,
        "mean_batch_size": batch_size,
        "max_num_seqs": most,
        "batch_occupancy": None if batch_size is None else batch_size / most,
        "requests_per_worker": spread(requests),
        "reused_tokens_per_worker": spread(reused),
        "utilization_per_worker": spread(shares) if shares else None,
        "mean_batch_size_per_worker": averages(batches, busy),
    }


def averages(sums: list[int], times: list[int]) -> Row | None:
    """Return how averages over time are spread over the workers that had any."""
    found = [total / time for total, time in zip(sums, times) if time]
    return spread(found) if found else None


def found_tokens(run: Run, pool: str, row: Row) -> int:
    """Return how many prompt tokens a worker of a pool had of a request when it came."""
    if pool == "decode" and row["request"] in run.transfers:
        return int(row["input_length"] - run.transfers[row["request"]][0])
    admissions = run.admissions[pool, row["request"]]
    return admissions[0][1] if admissions else 0


def covered(intervals: list[tuple[int, int]]) -> int:
    """Return the length of a union of intervals."""
    total, end = 0, 0
    for start, stop in sorted(intervals):
        total += max(0, stop - max(start, end))
        end = max(end, stop)
    return total


def spread(values: list[float]) -> Row:
    """Return how unevenly something is spread over workers."""
    return {"min": min(values), "mean": float(np.mean(values)), "max": max(values)}


def expected_row(run: Run, row: Row, one: Deployment) -> Row:
    """Return what the row of a request says besides what it was and how it ended."""
    number, at, arrival = row["request"], run.visible(row), ns(row["arrival_ms"])
    several = len(at) > 1
    stages = []
    for stage in row["stages"]:
        pool = stage["pool"]
        tokens, admissions = run.tokens[pool, number], run.admissions[pool, number]
        stages.append(
            {
                "admitted_ms": admissions[0][0] / 1e6 if admissions else None,
                "reused_tokens": found_tokens(run, pool, row),
                "transfer_end_ms": transfer_end_ms(run, number, stage) if pool == "decode" else None,
                "first_token_ms": tokens[0] / 1e6 if tokens else None,
                "last_token_ms": tokens[-1] / 1e6 if tokens else None,
                "preemptions": run.preemptions[pool, number],
            }
        )
    return {
        "output_length": len(at),
        "first_token_ms": at[0] / 1e6 if at else None,
        "second_token_ms": at[1] / 1e6 if several else None,
        "last_token_ms": at[-1] / 1e6 if at else None,
        "ttft_ms": (at[0] - arrival) / 1e6 if at else None,
        "ttst_ms": (at[1] - at[0]) / 1e6 if several else None,
        "tpot_ms": (at[-1] - at[0]) / 1e6 / (len(at) - 1) if several else None,
        "e2e_latency_ms": (at[-1] - arrival) / 1e6 if at else None,
        "reused_tokens": stages[0]["reused_tokens"] if stages else 0,
        "preemptions": sum(stage["preemptions"] for stage in stages),
        "measured": None if run.measured is None else row in run.part,
        "ttft_breakdown": breakdown(run, row, one) if at else None,
        "stages": stages,
    }


def transfer_end_ms(run: Run, request: int, stage: Row) -> float | None:
    """Return when the KV of a request had arrived; as it was told where that was not known when the transfer began."""
    _, end = run.transfers.get(request, (0, None))
    told: float | None = stage["transfer_end_ms"]
    return told if request in run.reserved else None if end is None else end / 1e6


def breakdown(run: Run, row: Row, one: Deployment) -> Row:
    """Return where the TTFT of a request went."""
    parts = dict.fromkeys(
        ["router_queue", "engine_queue", "prefill_compute", "kv_transfer", "decode_wait", "preemption_loss"], 0
    )
    for stage in row["stages"]:
        pool, request = stage["pool"], row["request"]
        first_token = run.tokens[pool, request][0]
        queued = ns(stage["queued_ms"])
        parts["router_queue"] += queued - ns(stage["arrived_ms"])
        decided = run.before_token[pool, request]
        if pool == "decode" and stage["transfer_start_ms"] is not None:
            start, end = ns(stage["transfer_start_ms"]), ns(stage["transfer_end_ms"])
            parts["kv_transfer"] += end - start
            before = start if request in run.reserved else queued
            parts["decode_wait"] += start - before + decided[0] - end
        elif pool == "decode":
            parts["decode_wait"] += decided[0] - queued
        elif request in run.reserved:
            # It came to both of its workers at once, and was computed when there was memory for it.
            [found] = [ns(other["queued_ms"]) for other in row["stages"] if other["pool"] == "decode"]
            parts["decode_wait"] += run.reserved[request] - found
            parts["engine_queue"] += decided[0] - run.reserved[request]
        else:
            parts["engine_queue"] += decided[0] - queued
        parts["preemption_loss"] += decided[-1] - decided[0]
        parts["prefill_compute"] += first_token - decided[-1]
    # On the way there, and of the token from there.
    sent = one.host_ns("front_end_us", row["input_length"] / 1000)
    way = sent + run.visible(row)[0] - run.tokens[run.last_pool, row["request"]][0]
    return {"front_end_ms": way / 1e6, **{f"{part}_ms": value / 1e6 for part, value in parts.items()}}


def unsound(run: Run, one: Deployment) -> list[str]:
    """Say what of the rows cannot be."""
    found = []
    ends: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0])
    passes: dict[tuple[str, int], int] = defaultdict(int)
    for number, row in enumerate(run.iterations):
        where, pool = f"iteration row {number}", row["pool"]
        decided, start, end = (ns(row[key]) for key in ("scheduled_at_ms", "start_ms", "end_ms"))
        before = ends[pool, row["worker"]]
        if not decided <= start <= end or start < before[-1]:
            found.append(f"{where}: times out of order")
        # With asynchronous scheduling, an iteration is decided while the one before it runs.
        if decided < before[-2 if one.asynchronous else -1]:
            found.append(f"{where}: decided at {decided} ns, before the iteration before it had ended")
        if row["scheduled"]:
            if start < passes[pool, row["worker"]]:
                found.append(f"{where}: begins before the host is done with the pass before it")
            passes[pool, row["worker"]] = end + one.host_ns("gap_us", len(row["scheduled"]))
        before.append(end)
        if len(row["scheduled"]) > one.most_requests[pool]:
            found.append(f"{where}: {len(row['scheduled'])} requests")
        tokens = sum(tokens for _, tokens, _ in row["scheduled"])
        if tokens != row["total_tokens"] or tokens > (one.most_tokens[pool] or tokens):
            found.append(f"{where}: {tokens} tokens")
    found += idle_workers(run, one)
    if one.concurrency:
        spans: dict[int, list[int]] = {}
        for row in run.requests:
            span = spans.setdefault(row["session"], [ns(row["arrival_ms"]), 0])
            span[:] = min(span[0], ns(row["arrival_ms"])), max(span[1], ns(row["ended_ms"]))
        most = max(sum(start <= at < end for start, end in spans.values()) for at, _ in spans.values())
        if most > one.concurrency:
            found.append(f"{most} sessions at a time, not {one.concurrency}")
    return found


def left_ms(row: Row, stage: Row) -> float:
    """Return when a request left its worker; its last token may still be on its way then."""
    last = stage["last_token_ms"]
    return float(row["ended_ms"] if last is None else last)


def idle_workers(run: Run, one: Deployment) -> list[str]:
    """Say where work was not conserved: a worker was in no iteration although it had a request.

    In a pool that hands nothing over, a request waits for nothing but the worker, whose host has work after each pass.
    """
    found: list[str] = []
    # What comes from the memory of the host takes its time.
    if one.offloads:
        return found
    for worker in range(run.pools.get("aggregated", 0)):
        own = [
            (ns(stage["queued_ms"]), ns(left_ms(row, stage)), row["request"])
            for row in run.requests
            for stage in row["stages"]
            if stage["worker"] == worker
        ]
        rows = (row for row in run.iterations if row["worker"] == worker)
        intervals = [
            (ns(row["start_ms"]), ns(row["end_ms"]) + one.host_ns("gap_us", len(row["scheduled"])))
            for row in rows
            if row["scheduled"]
        ]
        busy = covered(intervals)
        for queued, ended, request in own:
            # Its stay adds nothing to what the iterations cover.
            if covered([*intervals, (queued, ended)]) != busy:
                found.append(f"aggregated worker {worker} was idle while request {request} was there")
    return found


def differences(found: Any, expected: Any, where: str, scale: float = 1e-3) -> list[str]:
    """Say where what was written is not what was expected; keys that are not expected do not matter.

    Figures of less than ``scale`` are compared as if they were that large.
    """
    if isinstance(expected, dict):
        # A standard deviation is as exact as the samples: that of equal ones is rounding, in NumPy not always 0.
        largest = {
            key: expected.get(key.replace("std_", "max_", 1)) if key.startswith("std_") else 0 for key in expected
        }
        return [
            line
            for key in expected
            for line in differences(found.get(key), expected[key], f"{where}.{key}", max(1e-3, largest[key] or 0))
        ]
    if isinstance(expected, list):
        if len(found) != len(expected):
            return [f"{where}: {len(found)} entries, not {len(expected)}"]
        return [
            line
            for number, (one, other) in enumerate(zip(found, expected))
            for line in differences(one, other, f"{where}[{number}]")
        ]
    if isinstance(expected, float) and found is not None:
        # Times are whole nanoseconds, and shares of what is added up in another order.
        close = abs(found - expected) <= RELATIVE_TOLERANCE * max(abs(expected), scale)
    else:
        close = found == expected
    return [] if close else [f"{where} is {found}, not {expected}"]


def compare(one: Deployment, report: Row, requests: list[Row], iterations: list[Row]) -> list[str]:
    """Say what a report and the rows of requests have wrong, going by the rows of iterations."""
    run = Run(requests, iterations, one)
    expected = expected_report(run, one)
    unknown = report.keys() - expected.keys() - GIVEN
    found = [f"`{key}` is in the report, but not recomputed" for key in sorted(unknown)]
    found += differences(report, expected, "report")
    for row in run.requests:
        found += differences(row, expected_row(run, row, one), f"request {row['request']}")
        if (parts := row["ttft_breakdown"]) and sum(map(ns, parts.values())) != ns(row["ttft_ms"]):
            found.append(f"request {row['request']}: the parts of its TTFT do not add up")
    return found + unsound(run, one)


def replay(binary: Path, one: Deployment, folder: Path, iterations: bool = True) -> tuple[Row, list[Row], list[Row]]:
    """Replay a deployment; return its report, without the one figure that varies, and rows."""
    command = [str(binary), *one.write(folder), "--quiet", "--format", "json", "--requests-jsonl", "requests.jsonl"]
    if iterations:
        command += ["--iterations-jsonl", "iterations.jsonl"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    if run.returncode != 0:
        raise RuntimeError(f"exit status {run.returncode}: {run.stderr.strip()}\n{' '.join(command)}")
    report: Row = json.loads(run.stdout)
    report.pop("wall_time_ms")
    read = [
        [json.loads(line) for line in (folder / name).read_text().splitlines()] if wanted else []
        for name, wanted in {"requests.jsonl": True, "iterations.jsonl": iterations}.items()
    ]
    return report, read[0], read[1]


def check(binary: Path, seed: int, folder: Path) -> list[str]:
    """Replay the deployment of a seed; return what its report and rows have wrong."""
    one = deployment(seed)
    report, requests, iterations = replay(binary, one, folder)
    found = compare(one, report, requests, iterations)
    # Rows of iterations make a run look at each by itself, which must not change anything.
    if replay(binary, one, folder, iterations=False) != (report, requests, []):
        found.append("observing iterations changes the result")
    return [f"seed {seed}: {line}" for line in found]


def simple() -> Deployment:
    """Return a deployment of one worker with two requests."""
    rows = [
        {"timestamp": 3 * number, "input_length": 40, "output_length": 5, "hash_ids": [1, 2, number]}
        for number in (0, 1)
    ]
    arguments = ["--num-workers", "1", "--latency", "linear:1000,10,0", "--block-size", "16"]
    limits = {"most_requests": {"aggregated": 256}, "most_tokens": {"aggregated": 8192}}
    return Deployment(rows, arguments, {"aggregated": 1}, **limits)  # type: ignore[arg-type]


def main() -> int:
    """Check so many deployments, and say what was found."""
    binary, count = Path(sys.argv[1]).resolve(), int(sys.argv[2])
    first = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(first, first + count):
            found = check(binary, seed, Path(folder))
            wrong += bool(found)
            for line in found[:8]:
                print(line, flush=True)
    print(f"{count} deployments recomputed, {wrong} differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
