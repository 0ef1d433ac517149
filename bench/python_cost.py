"""Times replays from Python and from the binary in turns; `python.sh` builds both and calls this.

Every run is a child process. Of the binary, the whole process counts. Of Python, the call does, with the report as
JSON, by the process's own CPU clock; what an interpreter costs before and after is shown beside it.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from compare import RunFailed, measure, show_progress, spread

DEPLOYMENTS: dict[str, dict[str, object]] = {
    "8 aggregated, round robin": {"num_workers": 8},
    "8 aggregated, kv_router": {"num_workers": 8, "router_mode": "kv_router"},
    "4 prefill + 4 decode, kv_router": {
        "num_prefill_workers": 4,
        "num_decode_workers": 4,
        "router_mode": "kv_router",
    },
}

CALL = """
import sys, time
import servecast

begin = time.process_time()
servecast.run_trace_replay(sys.argv[1], **eval(sys.argv[2])).to_json()
with open("call", "w") as file:
    file.write(str(time.process_time() - begin))
"""


def flags(arguments: dict[str, object]) -> list[str]:
    return [text for name, value in arguments.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def costs(binary: str, trace: str, arguments: dict[str, object], rounds: int, scratch: Path) -> dict[str, list[float]]:
    """CPU seconds of each, a value a round."""
    command = [binary, "replay", trace, *flags(arguments), "--format", "json", "--quiet"]
    call = [sys.executable, "-c", CALL, trace, repr(arguments)]
    seconds: dict[str, list[float]] = {"binary": [], "call from Python": [], "process of Python": []}
    for round_ in range(rounds + 1):
        show_progress(f"  round {round_} of {rounds}")
        one = measure(command, scratch).cpu_s
        process = measure(call, scratch).cpu_s
        if round_ > 0:
            for name, value in zip(seconds, (one, float((scratch / "call").read_text()), process)):
                seconds[name].append(value)
    show_progress("")
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servecast", required=True, help="binary")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--fail-above", type=float, help="per cent")
    parser.add_argument("trace")
    args = parser.parse_args()

    print("| deployment | binary, CPU s (range) | call from Python | over the binary | process of Python |")
    print("|---|--:|--:|--:|--:|")
    worst = 0.0
    with tempfile.TemporaryDirectory(prefix="servecast-python-") as scratch:
        for title, arguments in DEPLOYMENTS.items():
            binary, trace = (str(Path(name).resolve()) for name in (args.servecast, args.trace))
            seconds = costs(binary, trace, arguments, args.rounds, Path(scratch))
            own, call, process = (statistics.median(values) for values in seconds.values())
            over = 100 * (call / own - 1)
            worst = max(worst, over)
            shown = [spread(values, 3) for values in seconds.values()]
            print(f"| {title} | {shown[0]} | {shown[1]} | {over:+.1f} % | {shown[2]} |", flush=True)
    if args.fail_above is not None and worst > args.fail_above:
        print(f"a call from Python costs {worst:.1f} % over the binary, more than {args.fail_above} %", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RunFailed as error:
        sys.exit(f"python_cost.py: {error}")
