#!/usr/bin/env python3
"""Measures what outputs cost a replay: `bench/outputs.py TRACE [--rounds N] [--binary FILE] [ARGUMENT…]`.

Runs the release binary (or --binary) with no output, with a page, with a packed timeline and with all gaps between tokens, in turns, and
prints medians of CPU time (user and system) beside that of the plain run, and sizes of the files.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))


def cpu_seconds(binary: Path, arguments: list[str]) -> float:
    """CPU time of a replay that goes well."""
    process = subprocess.Popen([binary, "replay", "--quiet", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"servecast ended with status {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--binary", type=Path, default=TARGET / "release" / "servecast")
    parser.add_argument("trace")
    parsed, deployment = parser.parse_known_args()
    deployment = deployment or ["--workers", "8"]
    with tempfile.TemporaryDirectory() as folder:
        outputs = {
            "nothing": None,
            "--report-html": f"{folder}/report.html",
            "--timeline": f"{folder}/timeline.json.gz",
            "--timeline (not packed)": f"{folder}/timeline.json",
            "--export": f"vllm-bench={folder}/vllm.json",
        }
        times: dict[str, list[float]] = {flag: [] for flag in outputs}
        for _ in range(parsed.rounds):
            for flag, file in outputs.items():
                output = [flag.split()[0], file] if file else []
                times[flag].append(cpu_seconds(parsed.binary, [parsed.trace, *deployment, *output]))
        plain = statistics.median(times["nothing"])
        for flag, file in outputs.items():
            median = statistics.median(times[flag])
            # Each round beside itself: what else the machine does changes slowly.
            ratio = statistics.median(time / base for time, base in zip(times[flag], times["nothing"]))
            size = f", {os.path.getsize(file.split('=')[-1]):,} bytes" if file else ""
            print(f"{flag:23} {median:.3f} s, {(ratio - 1) * 100:+.0f} %{size}")
        print(f"medians of {parsed.rounds} rounds; nothing else: {plain:.3f} s")


if __name__ == "__main__":
    main()
