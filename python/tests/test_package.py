"""The package: its command line, its types."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import requires, version
from pathlib import Path

import pytest
import servecast
from conftest import ROOT, without_wall_time


def python(*arguments: str | Path, timeout: float = 50, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, cwd=cwd)


def test_the_command_line_is_the_binary(trace: Path, binary: Callable[..., str]) -> None:
    for arguments in (("--help",), ("--version",), ("replay", "--help"), ("schema", "report")):
        assert python("-m", "servecast", *arguments).stdout == binary(*arguments)
    flags = ["replay", str(trace), "--quiet", "--format", "json"]
    ours = python("-m", "servecast", *flags)
    assert ours.returncode == 0
    assert without_wall_time(ours.stdout) == without_wall_time(binary(*flags))


def test_the_script_is_the_command_line() -> None:
    script = Path(sys.executable).parent / "servecast"
    run = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=30, check=False)
    assert run.stdout == f"servecast {servecast.__version__}\n"


def test_bad_input_ends_the_command_line_with_2(tmp_path: Path) -> None:
    run = python("-m", "servecast", "replay", tmp_path / "nowhere.jsonl")
    assert run.returncode == 2
    assert run.stderr.startswith("error: ") and "Traceback" not in run.stderr


def test_the_package_needs_nothing_else() -> None:
    assert version("servecast") == servecast.__version__
    assert all("extra ==" in one for one in requires("servecast") or [])
    loaded = python("-c", "import servecast, sys; print({'numpy', 'pandas', 'polars'} & set(sys.modules))")
    assert loaded.stdout == "set()\n"


USER = """
import servecast
from servecast import Batch, ConfigError, EngineArgs, KvRouterConfig, Progress, Report, Router, RouterError, Selection
from servecast import Trace

def price(batch: Batch) -> float:
    return 3 + 0.01 * batch.tokens

def show(progress: Progress) -> None:
    print(progress.ended, progress.requests)

def run() -> Report:
    engine = EngineArgs(engine_type="sglang", block_size=16, max_num_seqs=None)
    size: int = engine.block_size
    try:
        return servecast.run_trace_replay(
            [{"timestamp": 0, "input_length": size}],
            prefill_engine_args=engine,
            decode_engine_args=EngineArgs(engine_type="sglang", block_size=16, latency=price),
            router_mode="kv_router",
            router_config=KvRouterConfig(router_queue_policy="wspt"),
            progress=show,
            max_num_batched_tokens=4096,
            slo=["p95 ttft <= 1s"],
        )
    except ConfigError as error:
        print(error.hint)
        raise

def route(tokens: list[int]) -> Selection | None:
    router = Router({"router_temperature": 0.5}, block_size=16)
    router.register_worker(0, max_num_batched_tokens=8192)
    try:
        decision = router.route("a", tokens, phase="decode", pinned=(0, 0), allowed_workers={0})
    except RouterError as error:
        raise SystemExit(error.message)
    admitted: list[Selection] = router.free("a")
    return decision.selection or (admitted[0] if admitted else None)

def load() -> Trace:
    made = Trace.poisson(5.0, 20, input_tokens=900, output_tokens=20, length_distribution="uniform", length_spread=0.2)
    rows = [{**row, "priority": 1} for row in made]
    servecast.run_trace_replay(Trace(rows, block_size=made.block_size), progress=False, workers=2)
    return made[1:]

def judge(report: Report) -> float:
    notes: list[str] = report.notes
    page: str = report.to_html() + report.timeline(window=(None, 3.5), sample=2)
    print(notes, page, report.stages.num_rows)
    compared = servecast.compare(report, "other.json", fail_if="p99_ttft_ms>+5%")
    if compared.failed:
        print(compared.baseline["name"])
    for pool in report.pools:
        print(pool["iterations"])
    return (report.p99_ttft_ms or 0.0) + (report.p50_itl_ms or 0.0)
"""

WRONG = """
from servecast import EngineArgs, Report, Router, Trace, recommend, run_synthetic_trace_replay, run_trace_replay

EngineArgs(block_siz=3)
EngineArgs(block_size="3")
EngineArgs(engine_type="tgi")
run_trace_replay("x", router_mode="magic")
run_trace_replay("x", num_workers="two")
run_trace_replay("x", latency=lambda batch: batch.token)
Router(16)
Router(block_size=16).route(7, [1])

def judge(report: Report) -> None:
    report.p99_tftt_ms
    report.p99_ttft_ms.upper()

run_trace_replay("x", max_num_seq=64)
run_trace_replay("x", max_num_seqs="64")
run_trace_replay("x", report_json="y")
run_synthetic_trace_replay(1, 2, 3, trace_block_siz=4)
recommend(slo="p95 ttft <= 1s", gpu=3)
Trace.poisson(1.0, 2, input_tokens=3, output_tokens=4, num_workers=5)
Trace.read("x", time_rang="1..2")
run_trace_replay("x", progress=3)
"""


@pytest.mark.timeout(240)
def test_types_hold_for_users_and_stubs(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    cache = ["--cache-dir", str(tmp_path / "cache")]
    right, wrong = tmp_path / "right.py", tmp_path / "wrong.py"
    right.write_text(USER)
    wrong.write_text(WRONG)
    run = python("-m", "mypy", "--strict", *cache, right, timeout=120)
    assert run.returncode == 0, run.stdout
    run = python("-m", "mypy", "--strict", *cache, wrong, timeout=120)
    assert {line.split(":")[1] for line in run.stdout.splitlines() if ": error:" in line} == {
        *("4", "5", "6", "7", "8", "9", "10", "11"),
        *("14", "15", "17", "18", "19", "20", "21", "22", "23", "24"),
    }
    for ours in (["-p", "servecast"], ["python/tests", "python/tools", "examples", "bench", "tools"]):
        run = python("-m", "mypy", *cache, *ours, timeout=120, cwd=ROOT)
        assert run.returncode == 0, run.stdout
    config = ["--mypy-config-file", str(ROOT / "pyproject.toml")]
    run = python(
        "-m", "mypy.stubtest", "servecast._native", "servecast._config", "--ignore-missing-stub", *config, timeout=120
    )
    assert run.returncode == 0, run.stdout
