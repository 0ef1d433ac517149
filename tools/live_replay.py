"""Online against offline: the same decisions from the times that were logged, and nearly the same means as planned.

Then a client that sends a load to a server: what it measures is what a replay of the server's record says.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "python" / "tests"))

from serving import serving  # noqa: E402

MODEL = ["--model", "meta-llama/Llama-3.1-8B", "--gpu", "H100-SXM", "--quiet"]
POOLS = {"aggregated": ["--workers", "4"], "2P2D": ["--prefill-workers", "2", "--decode-workers", "2"]}
MEANS = ["mean_ttft_ms", "mean_itl_ms", "mean_e2e_latency_ms"]
# How far means may be from the planned ones, by speed.
BOUNDS = {1: 0.02, 20: 0.05}
problems: list[str] = []


def check(what: str, is_so: bool, said: str) -> None:
    """Say what came of a check."""
    print(f"{'ok  ' if is_so else 'FAIL'} {what}: {said}", flush=True)
    if not is_so:
        problems.append(what)


def azure(path: Path, count: int) -> list[dict[str, Any]]:
    """The first requests of a trace of Azure."""
    with gzip.open(path, "rt") as lines:
        rows = [row for row, _ in zip(csv.DictReader(lines), range(count), strict=False)]
    times = [datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for row in rows]
    return [
        {
            "timestamp": 1e3 * (at - times[0]),
            "input_length": int(row["ContextTokens"]),
            "output_length": max(int(row["GeneratedTokens"]), 1),
            "hash_ids": [1000 * line + block for block in range(-(-int(row["ContextTokens"]) // 512))],
        }
        for line, (row, at) in enumerate(zip(rows, times, strict=True))
    ]


def poisson(count: int, rate: float, seed: int) -> list[dict[str, Any]]:
    """Requests at random times, of which many have their first blocks in common."""
    rng, at, rows = random.Random(seed), 0.0, []
    for line in range(count):
        blocks = rng.randint(2, 8)
        own = [1000 + 10 * line + block for block in range(blocks - 1)]
        rows.append(
            {
                "timestamp": at,
                "input_length": 512 * blocks - rng.randrange(500),
                "output_length": rng.randint(20, 200),
                "hash_ids": [rng.randrange(10), *own],
            }
        )
        at += 1e3 * rng.expovariate(rate)
    return rows


def replay(binary: Path, folder: Path, name: str, arguments: list[str]) -> tuple[dict[str, Any], str]:
    """Report and rows of a replay."""
    report, rows = folder / f"{name}.json", folder / f"{name}.jsonl"
    command = [str(binary), "replay", *arguments, *MODEL, "--report-json", str(report), "--requests-jsonl", str(rows)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads(report.read_text()), rows.read_text()


def online(binary: Path, folder: Path, load: str, pools: str, router: str, speed: int) -> None:
    """A run by the clock against those that are computed."""
    name = f"{load}-{pools}-{router}-{speed}"
    trace, sent = str(folder / f"{load}.jsonl"), str(folder / f"{name}.sent.jsonl")
    deployment = [*POOLS[pools], "--router-mode", router]
    by_clock = ["--replay-mode", "online", "--speed", str(speed), "--log-arrivals", sent]
    run, run_rows = replay(binary, folder, name, [trace, *deployment, *by_clock])
    _, same_rows = replay(binary, folder, name + "-sent", [sent, *deployment])
    plan, _ = replay(binary, folder, name + "-planned", [trace, *deployment])
    off = {key: run[key] / plan[key] - 1 for key in MEANS}
    worst = max(map(abs, off.values()))
    said = ", ".join(f"{key.split('_')[1]} {value:+.2%}" for key, value in off.items())
    late = f"late by p50 {run['wall_lateness_p50_ms']:.2f}, p99 {run['wall_lateness_p99_ms']:.2f} ms"
    check(
        name, run_rows == same_rows and worst <= BOUNDS[speed], f"rows equal: {run_rows == same_rows}; {said}; {late}"
    )


def measure(url: str, row: dict[str, Any], start: float) -> tuple[float, float, int]:
    """TTFT and E2E of a request as its client sees them, in milliseconds, and its tokens."""
    time.sleep(max(0.0, start + row["timestamp"] / 1e3 - time.monotonic()))
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=120)
    body = {"prompt": row["ids"], "max_tokens": row["output_length"], "stream": True}
    sent, times = time.monotonic(), []
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    for line in connection.getresponse():
        if line.startswith(b'data: {"id"'):
            times.append(time.monotonic())
    connection.close()
    return 1e3 * (times[0] - sent), 1e3 * (times[-1] - sent), len(times)


def client(binary: Path, folder: Path, count: int) -> None:
    """A client against the replay of what the server recorded."""
    rows = poisson(count, 8.0, 5)
    for number, row in enumerate(rows):
        group = row["hash_ids"][0]
        row["ids"] = [300 + group] * 512 + [1000 + number] * max(row["input_length"] - 512, 1)
    record = folder / "record.jsonl"
    deployment = ["--workers", "4", "--router-mode", "kv_router"]
    with serving(binary, folder, *MODEL[:-1], *deployment, "--record", str(record)) as server:
        measure(server.url, {**rows[0], "timestamp": 0, "ids": [5, 6], "output_length": 2}, time.monotonic())
        start = time.monotonic() + 0.1
        with ThreadPoolExecutor(64) as pool:
            seen = list(pool.map(lambda row: measure(server.url, row, start), rows))
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    _, said = replay(binary, folder, "recorded", [str(record), *deployment])
    replayed = {row["line"]: row for row in map(json.loads, said.splitlines())}
    line_of = {line["input_tok_ids"][-1]: number for number, line in enumerate(lines, 1)}
    off: dict[str, list[float]] = {"ttft": [], "e2e": []}
    means: dict[str, list[float]] = {"ttft": [], "e2e": []}
    for number, (ttft, e2e, tokens) in enumerate(seen):
        row = replayed[line_of[1000 + number]]
        assert tokens == rows[number]["output_length"]
        off["ttft"].append(ttft - row["ttft_ms"])
        off["e2e"].append(e2e - row["e2e_latency_ms"])
        means["ttft"].append(row["ttft_ms"])
        means["e2e"].append(row["e2e_latency_ms"])
    for key, values in off.items():
        p50, p90 = statistics.median(values), statistics.quantiles(values, n=10)[-1]
        said = f"mean {statistics.mean(means[key]):.1f} ms; the client is later by p50 {p50:.2f}, p90 {p90:.2f}, "
        said += f"at least {min(values):.2f}, at most {max(values):.2f} ms"
        # Nothing comes before its time, and half of it comes at once.
        check(f"client {key}", min(values) > -0.5 and p50 < 5.0, said)


def main() -> int:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servecast", type=Path, required=True)
    parser.add_argument("--azure", type=Path, help="AzureLLMInferenceTrace_conv.csv.gz")
    parser.add_argument("--requests", type=int, default=300)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loads = {"poisson": poisson(given.requests, 6.0, 1)}
        if given.azure:
            loads["azure"] = azure(given.azure, given.requests)
        for load, rows in loads.items():
            (folder / f"{load}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        # All at the speed of the clock wait at the same time; the fast ones have the machine by themselves.
        for speed, at_once in [(1, 8), (20, 1)]:
            with ThreadPoolExecutor(at_once) as pool:
                jobs = [
                    pool.submit(online, given.servecast, folder, load, pools, router, speed)
                    for load in loads
                    for pools in POOLS
                    for router in ["round_robin", "kv_router"]
                ]
                for job in jobs:
                    job.result()
        client(given.servecast, folder, min(given.requests, 200))
    print(f"load average {os.getloadavg()[0]:.1f}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
