"""Times simulators in turns on one trace and prints medians and ratios; `compare.sh` sets them up and calls this.

A run is a child process; its CPU time (user and system) and peak memory are the kernel's own figures for it, so the
start of an interpreter and the reading of the trace are part of them, as they are for a user. (A peak below the dozen MB
of this process itself would not show: a child starts as a copy of it.)
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

WORKERS = 8
STAGE_WORKERS = 4
TRACE_BLOCK_SIZE = 512
BASELINE = "baseline"

# Name, description, and the options that servecast and the command line of release 1.1.1 have in common.
TOPOLOGIES = {
    "round_robin": (
        f"{WORKERS} aggregated, round robin",
        ["--num-workers", f"{WORKERS}", "--router-mode", "round_robin"],
    ),
    "kv_router": (
        f"{WORKERS} aggregated, kv_router",
        ["--num-workers", f"{WORKERS}", "--router-mode", "kv_router"],
    ),
    "disaggregated": (
        f"{STAGE_WORKERS} prefill + {STAGE_WORKERS} decode, kv_router",
        [
            *("--num-prefill-workers", f"{STAGE_WORKERS}", "--num-decode-workers", f"{STAGE_WORKERS}"),
            *("--router-mode", "kv_router"),
        ],
    ),
}

# Releases with `dynamo.replay` ask for the stage of an engine this way, later ones as in `LIBRARY_CALL`.
STAGES = [
    *("--prefill-engine-args", '{"worker_type": "prefill"}'),
    *("--decode-engine-args", '{"worker_type": "decode"}'),
]

# Releases without `dynamo.replay` are called as a library.
LIBRARY_CALL = f"""
import sys
from dynamo._core import run_mocker_trace_replay

trace, topology = sys.argv[1:]
deployments = {{
    "round_robin": dict(num_workers={WORKERS}, router_mode="round_robin"),
    "kv_router": dict(num_workers={WORKERS}, router_mode="kv_router"),
    "disaggregated": dict(
        num_prefill_workers={STAGE_WORKERS},
        num_decode_workers={STAGE_WORKERS},
        router_mode="kv_router",
        prefill_engine_args={{"engine": {{"worker_type": "prefill"}}}},
        decode_engine_args={{"engine": {{"worker_type": "decode"}}}},
    ),
}}
run_mocker_trace_replay([trace], trace_block_size={TRACE_BLOCK_SIZE}, **deployments[topology])
"""


@dataclass
class Figures:
    """What one run cost."""

    cpu_s: float
    peak_mb: float


class RunFailed(Exception):
    """A simulator that did not end well."""


def measure(command: list[str], scratch: Path) -> Figures:
    """Runs a command and returns what it cost; what it prints is kept for the message of a failure."""
    environment = {**os.environ, "DYN_LOG": "error"}
    with (scratch / "output").open("w+b") as output:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=scratch, env=environment
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            output.seek(0)
            last = output.read().decode(errors="replace").strip().splitlines()[-5:]
            raise RunFailed(f"exit status {child.returncode}: {' '.join(command[:4])} …\n  " + "\n  ".join(last))
    unit = 1 if sys.platform == "darwin" else 1024
    return Figures(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / 1e6)


def servecast_command(binary: str, trace: str, topology: str) -> list[str]:
    _, options = TOPOLOGIES[topology]
    return [binary, "replay", trace, *options, "--trace-block-size", f"{TRACE_BLOCK_SIZE}", "--format", "json"]


def peer_command(python: str, trace: str, topology: str) -> list[str]:
    """The command for a release of the peer, with or without a command line of its own."""
    found = [python, "-c", "import importlib.util, sys; sys.exit(importlib.util.find_spec('dynamo.replay') is None)"]
    if subprocess.run(found, check=False).returncode != 0:
        return [python, "-c", LIBRARY_CALL, trace, topology]
    _, options = TOPOLOGIES[topology]
    stages = STAGES if topology == "disaggregated" else []
    block_size = ["--trace-block-size", f"{TRACE_BLOCK_SIZE}"]
    return [python, "-m", "dynamo.replay", trace, *options, *stages, *block_size, "--report-json", "report.json"]


def compare(commands: dict[str, list[str]], rounds: int) -> dict[str, list[Figures]]:
    """Runs all commands in turns, one round of them uncounted."""
    runs: dict[str, list[Figures]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory(prefix="servecast-compare-") as scratch:
        for round_ in range(rounds + 1):
            for name, command in commands.items():
                show_progress(f"  round {round_} of {rounds}: {name}")
                figures = measure(command, Path(scratch))
                if round_ > 0:
                    runs[name].append(figures)
    show_progress("")
    return runs


def show_progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def spread(values: list[float], digits: int) -> str:
    """Median, with the range that it comes from."""
    shown = [f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values))]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def paired(over: list[Figures], under: list[Figures]) -> tuple[list[float], list[float]]:
    """Ratios of CPU time and of memory within each round, so that a machine that slows down slows both."""
    pairs = list(zip(over, under, strict=True))
    return [a.cpu_s / b.cpu_s for a, b in pairs], [a.peak_mb / b.peak_mb for a, b in pairs]


def print_table(title: str, runs: dict[str, list[Figures]]) -> None:
    own = runs["servecast"]
    print(f"### {title}\n")
    print("| simulator | CPU s (range) | CPU, times servecast's | peak MB (range) | memory, times servecast's |")
    print("|---|--:|--:|--:|--:|")
    for name, figures in runs.items():
        cpu, memory = (statistics.median(ratios) for ratios in paired(figures, own))
        cells = [
            name,
            spread([run.cpu_s for run in figures], 2),
            f"{cpu:.1f}",
            spread([run.peak_mb for run in figures], 0),
            f"{memory:.1f}",
        ]
        print("| " + " | ".join(cells) + " |")
    if BASELINE in runs:
        ratios = [spread(of_figure, 3) for of_figure in paired(own, runs[BASELINE])]
        print(f"\nservecast, times the baseline: CPU {ratios[0]}, memory {ratios[1]}")
    print(flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servecast", required=True, help="binary")
    parser.add_argument("--baseline", help="another binary of servecast")
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--topologies", default=",".join(TOPOLOGIES))
    parser.add_argument("--peer", action="append", default=[], metavar="VERSION=PYTHON")
    parser.add_argument("trace")
    args = parser.parse_args()
    trace = str(Path(args.trace).resolve())
    servecast = str(Path(args.servecast).resolve())
    peers = dict(peer.split("=", 1) for peer in args.peer)
    for topology in args.topologies.split(","):
        if topology not in TOPOLOGIES:
            parser.error(f"no topology {topology!r}: there are {', '.join(TOPOLOGIES)}")

    for topology in args.topologies.split(","):
        commands = {"servecast": servecast_command(servecast, trace, topology)}
        if args.baseline:
            baseline = str(Path(args.baseline).resolve())
            commands[BASELINE] = servecast_command(baseline, trace, topology)
        for version, python in peers.items():
            commands[f"Dynamo {version}"] = peer_command(os.path.abspath(python), trace, topology)
        title, _ = TOPOLOGIES[topology]
        try:
            print_table(title, compare(commands, args.rounds))
        except RunFailed as failure:
            print(f"\ncompare.py: {title}: {failure}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
