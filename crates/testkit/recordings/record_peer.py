"""Record what Dynamo's replay makes of the cases beside this file: `python record_peer.py PYTHON_161 PYTHON_111 CASE…`.

PYTHON_161 and PYTHON_111 are interpreters with `ai-dynamo-runtime` 1.6.1 and 1.1.1 (`bench/compare.sh` installs both).
A case is a folder under `peer` with `case.json` and `trace.jsonl`. Release 1.6.1 writes a record per request
(`peer161_requests.jsonl.gz`); 1.1.1 writes down the routing decisions of aggregated cases (`routing.jsonl.gz`).
"""

import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PEER = Path(__file__).resolve().parent / "peer"

# Runs under 1.6.1: replays what it is given as JSON and prints a record per request.
REPLAY = """
import json, sys
from dynamo._core import KvRouterConfig, run_mocker_trace_replay
call = json.load(sys.stdin)
if "router_config" in call:
    call["router_config"] = KvRouterConfig(**call["router_config"])
report = run_mocker_trace_replay([sys.argv[1]], capture_per_request=True, **call)
for row in report.per_request:
    row.pop("uuid")
    print(json.dumps(row))
"""

CANDIDATE = re.compile(
    r"Formula for worker_id=(\d+) dp_rank=0 with (\d+) cached blocks: ([\d.]+) = "
    r"[\d.]+ \* prefill_blocks \+ decode_blocks = ([\d.]+) \* ([\d.]+) \+ ([\d.]+)"
)
SELECTED = re.compile(r"Selected worker: .*worker_id=(\d+) .*logit: ([\d.]+), cached blocks: (\d+), tree size: (\d+)")


def write(path: Path, lines: list[str]) -> None:
    """Write packed lines; the same lines give the same bytes."""
    path.write_bytes(gzip.compress("".join(line + "\n" for line in lines).encode(), mtime=0))


def record_requests(python: str, folder: Path, case: dict) -> None:
    topology, load = case["topology"], case["load"]
    call = {"router_mode": case["router"]["mode"], "trace_block_size": case["workload"]["trace_block_size"]}
    if case["router"].get("config"):
        call["router_config"] = case["router"]["config"]
    if topology["kind"] == "aggregated":
        call |= {"num_workers": topology["workers"], "extra_engine_args": {"engine": topology["engine"]}}
    else:
        for stage in ("prefill", "decode"):
            call[f"num_{stage}_workers"] = topology[stage]["workers"]
            call[f"{stage}_engine_args"] = {"engine": {**topology[stage]["engine"], "worker_type": stage}}
    call |= {"replay_concurrency": load["limit"]} if "limit" in load else {"arrival_speedup_ratio": load["speedup"]}
    command = [python, "-c", REPLAY, str(folder / "trace.jsonl")]
    run = subprocess.run(command, input=json.dumps(call), stdout=subprocess.PIPE, text=True, check=True)
    lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
    write(folder / "peer161_requests.jsonl.gz", lines)
    print(f"{folder.name}: {len(lines)} requests")


def record_routing(python: str, folder: Path, case: dict) -> None:
    command = [python, "-m", "dynamo.replay", str(folder / "trace.jsonl")]
    command += ["--num-workers", str(case["topology"]["workers"]), "--router-mode", "kv_router"]
    command += ["--trace-block-size", str(case["workload"]["trace_block_size"])]
    command += ["--extra-engine-args", json.dumps(case["topology"]["engine"])]
    command += ["--router-config", json.dumps(case["router"]["config"])]
    if "limit" in case["load"]:
        command += ["--replay-concurrency", str(case["load"]["limit"])]
    with tempfile.TemporaryDirectory() as scratch:
        environment = {**os.environ, "DYN_LOG": "trace"}
        run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=scratch, env=environment)
    decisions, candidates, tied = [], [], False
    for line in (run.stdout + run.stderr).splitlines():
        if found := CANDIDATE.search(line):
            worker, cached, score, weight, prefill, decode = found.groups()
            candidates.append(
                {
                    "worker": int(worker),
                    "cached_blocks": float(cached),
                    "score": float(score),
                    "weight": float(weight),
                    "prefill_blocks": float(prefill),
                    "decode_blocks": float(decode),
                }
            )
        elif "workers tied" in line:
            tied = True
        elif found := SELECTED.search(line):
            worker, score, cached, size = found.groups()
            decision = {"chosen": int(worker), "score": float(score), "cached_blocks": int(cached)}
            decision |= {"tree_size": int(size), "tied": tied}
            candidates.sort(key=lambda candidate: candidate["worker"])
            decisions.append(json.dumps({**decision, "candidates": candidates}))
            candidates, tied = [], False
    write(folder / "routing.jsonl.gz", decisions)
    print(f"{folder.name}: {len(decisions)} decisions")


def main() -> None:
    python_161, python_111, *names = sys.argv[1:]
    for name in names:
        folder = PEER / name
        case = json.loads((folder / "case.json").read_text())
        record_requests(python_161, folder, case)
        if case["router"]["mode"] == "kv_router" and case["topology"]["kind"] == "aggregated":
            record_routing(python_111, folder, case)


if __name__ == "__main__":
    main()
