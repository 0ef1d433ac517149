"""Replays: what they return, and that it is what the binary writes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import servecast
from conftest import Row, without_wall_time
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servecast import (
    ConfigError,
    EngineArgs,
    KvRouterConfig,
    Progress,
    ReplayError,
    Report,
    TraceError,
)

Binary = Callable[..., str]

TRACE_CASES: list[tuple[dict[str, Any], list[str]]] = [
    ({}, []),
    ({"num_workers": 3}, ["--num-workers", "3"]),
    (
        {"num_workers": 2, "router_mode": "kv_router", "router_config": KvRouterConfig(router_temperature=0.5)},
        ["--num-workers", "2", "--router-mode", "kv_router", "--router-temperature", "0.5"],
    ),
    (
        {"prefill_engine_args": EngineArgs(block_size=16), "decode_engine_args": {"block_size": 16}},
        ["--prefill-engine-args", '{"block_size": 16}', "--decode-engine-args", '{"block_size": 16}'],
    ),
    (
        {"num_prefill_workers": 2, "num_decode_workers": 2, "router_mode": "kv_router", "seed": 7},
        ["--num-prefill-workers", "2", "--num-decode-workers", "2", "--router-mode", "kv_router", "--seed", "7"],
    ),
    (
        {"replay_concurrency": 4, "extra_engine_args": EngineArgs(engine_type="sglang", block_size=16)},
        ["--replay-concurrency", "4", "--extra-engine-args", '{"engine_type": "sglang", "block_size": 16}'],
    ),
    ({"max_requests": 3}, ["--max-requests", "3"]),
    (
        {"request_rate": 20, "burstiness": 0.5, "repeat": 2},
        ["--request-rate", "20", "--burstiness", "0.5", "--repeat", "2"],
    ),
    ({"sample": 0.9, "time_range": "0..60"}, ["--sample", "0.9", "--time-range", "0..60"]),
    ({"arrival_speedup_ratio": 3.5, "sla_ttft_ms": 40}, ["--arrival-speedup-ratio", "3.5", "--sla-ttft-ms", "40"]),
]


@pytest.mark.parametrize(("arguments", "flags"), TRACE_CASES)
def test_a_trace_gives_the_bytes_of_the_binary(
    trace: Path, binary: Binary, arguments: dict[str, Any], flags: list[str]
) -> None:
    report = servecast.run_trace_replay(trace, **arguments)
    expected = binary("replay", trace, "--quiet", "--format", "json", *flags)
    assert without_wall_time(report.to_json()) == without_wall_time(expected)


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        ({}, []),
        (
            {"turns_per_session": 3, "inter_turn_delay_ms": 50.0},
            ["--turns-per-session", "3", "--inter-turn-delay-ms", "50"],
        ),
        (
            {"num_prefill_workers": 2, "num_decode_workers": 1},
            ["--num-prefill-workers", "2", "--num-decode-workers", "1"],
        ),
        (
            {"shared_prefix_ratio": 0.5, "num_prefix_groups": 2, "arrival_process": "poisson", "seed": 3},
            ["--shared-prefix-ratio", "0.5", "--num-prefix-groups", "2", "--arrival-process", "poisson", "--seed", "3"],
        ),
    ],
)
def test_a_synthetic_workload_gives_the_bytes_of_the_binary(
    binary: Binary, arguments: dict[str, Any], flags: list[str]
) -> None:
    report = servecast.run_synthetic_trace_replay(300, 9, 40, **arguments)
    size = ["--input-tokens", "300", "--output-tokens", "9", "--request-count", "40"]
    expected = binary("replay", "--quiet", "--format", "json", *size, *flags)
    assert without_wall_time(report.to_json()) == without_wall_time(expected)


def test_explicit_defaults_change_nothing(binary: Binary) -> None:
    arguments = {"arrival_interval_ms": 1.0, "turns_per_session": 1, "router_mode": "round_robin", "num_workers": None}
    given = servecast.run_synthetic_trace_replay(300, 9, 40, **arguments)  # type: ignore[arg-type]
    flags = ["--input-tokens", "300", "--output-tokens", "9", "--request-count", "40", "--arrival-interval-ms", "1"]
    assert without_wall_time(given.to_json()) == without_wall_time(
        binary("replay", "--quiet", "--format", "json", *flags)
    )


def test_rows_of_a_trace_may_be_dicts_or_come_from_an_iterator(trace: Path, rows: list[Row]) -> None:
    expected = servecast.run_trace_replay(str(trace)).requests["ttft_ms"]
    assert list(servecast.run_trace_replay(rows).requests["ttft_ms"]) == list(expected)
    assert list(servecast.run_trace_replay(row for row in rows).requests["ttft_ms"]) == list(expected)


def test_an_online_replay_takes_as_long_as_it_says(rows: list[Row]) -> None:
    report = servecast.run_trace_replay(rows, replay_mode="online", speed=100.0)
    assert (report["wall_speed"], report["completed_requests"]) == (100.0, len(rows))
    assert report["wall_time_ms"] >= report["duration_ms"] / 100.0
    assert report["wall_lateness_max_ms"] >= report["wall_lateness_p50_ms"] >= 0.0


def test_an_online_replay_that_waits_can_be_ended(rows: list[Row]) -> None:
    def stop(progress: servecast.Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        servecast.run_trace_replay(rows, replay_mode="online", speed=0.001, progress=stop)


def test_rows_may_hold_numbers_of_numpy(rows: list[Row]) -> None:
    numpy = pytest.importorskip("numpy")
    odd = [
        {**row, "hash_ids": numpy.array(row["hash_ids"]), "timestamp": numpy.float64(row["timestamp"])} for row in rows
    ]
    assert servecast.run_trace_replay(odd).num_requests == len(rows)


def test_rows_of_requests_and_iterations_are_those_of_the_binary(tmp_path: Path, trace: Path, binary: Binary) -> None:
    report = servecast.run_trace_replay(trace, num_workers=2, iterations=True)
    files = {"requests": tmp_path / "requests.jsonl", "iterations": tmp_path / "iterations.jsonl"}
    flags = [str(text) for name, path in files.items() for text in (f"--{name}-jsonl", path)]
    binary("replay", trace, "--quiet", "--num-workers", "2", *flags)
    for name, path in files.items():
        written = [json.loads(line) for line in path.read_text().splitlines()]
        columns = getattr(report, name)
        assert columns.num_rows == len(written)
        if name == "requests":
            stages = [{"request": row["request"], **stage} for row in written for stage in row.pop("stages")]
            assert_same(report.stages, stages)
        for row in written:
            row.update(row.pop("ttft_breakdown", {}))
        assert_same(columns, written)


def plain_value(value: Any) -> Any:
    """A value of a column as JSON has it."""
    if hasattr(value, "tolist"):
        return plain_value(value.tolist())
    if isinstance(value, list):
        return [plain_value(one) for one in value]
    return None if value != value else value


def assert_same(columns: servecast.Columns, rows: list[Row]) -> None:
    """Columns have the values of the rows, whichever library they go to."""
    assert set(columns) == set(rows[0])
    for key in columns:
        assert [row[key] for row in rows] == [plain_value(value) for value in columns[key]], key
    if find_spec("pyarrow") is not None:
        assert columns.to_arrow().to_pylist() == [{key: row[key] for key in columns} for row in rows]
    if find_spec("polars") is not None:
        assert columns.to_polars().to_dicts() == [{key: row[key] for key in columns} for row in rows]


def test_iterations_are_kept_on_request_only(trace: Path) -> None:
    with pytest.raises(ConfigError, match="iterations=True"):
        _ = servecast.run_trace_replay(trace).iterations


def test_a_report_is_a_mapping_with_attributes(trace: Path) -> None:
    report = servecast.run_trace_replay(trace)
    assert report["num_requests"] == report.num_requests == 30
    assert dict(report) == report.to_dict() == json.loads(report.to_json())
    assert len(report) == len(list(report)) and "mean_ttft_ms" in report
    assert "mean_ttft_ms" in dir(report)
    with pytest.raises(AttributeError, match="'ttft'"):
        _ = report.ttft  # type: ignore[attr-defined]
    with pytest.raises(KeyError):
        _ = report["ttft"]


def test_a_report_says_what_was_run(rows: list[Row]) -> None:
    report = servecast.run_trace_replay(rows, num_workers=2, seed=7)
    assert (report.workload_name, report.seed, report.settings["num_workers"]) == ("trace", 7, 2)
    assert report.latency_source == "polynomial, of no particular GPU: the constants of Dynamo's mocker"
    assert report.workload_hash == servecast.run_trace_replay(iter(rows)).workload_hash
    assert report.workload_hash != servecast.run_trace_replay(rows[1:]).workload_hash
    own = servecast.run_trace_replay(rows, latency=lambda batch: 10.0)
    assert own.latency_source == "a function of the program that ran it"


def test_a_diagnosis_is_tested_on_request() -> None:
    def run(**more: Any) -> Report:
        return servecast.run_synthetic_trace_replay(200, 300, 40, replay_concurrency=32, max_num_seqs=4, **more)

    assert "diagnosis" not in run()
    (finding,) = run(diagnosis=True)["diagnosis"]
    assert "tested" not in finding["what_if"]
    (finding,) = run(diagnose=True)["diagnosis"]
    figures = {figure["name"]: figure for figure in finding["what_if"]["tested"]["figures"]}
    assert figures["mean_ttft_ms"]["after"] < figures["mean_ttft_ms"]["before"]
    with pytest.raises(ConfigError, match="by the clock of the machine"):
        servecast.run_synthetic_trace_replay(200, 3, 4, diagnose=True, replay_mode="online")


def test_a_figure_without_a_sample_is_none(rows: list[Row]) -> None:
    report = servecast.run_trace_replay(rows, extra_engine_args=EngineArgs(num_gpu_blocks=2))
    assert report.completed_requests == 0
    assert report.mean_ttft_ms is None and report.p50_ttft_ms is None and report.duration_ms is None


def test_the_median_goes_by_both_names(trace: Path) -> None:
    report = servecast.run_trace_replay(trace, sla_itl_ms=100)
    assert report.p50_ttft_ms == report.median_ttft_ms == report["p50_ttft_ms"] > 0
    assert report.sla == {"tpot_ms": 100.0}
    assert "p50_ttft_ms" in report and "p50_ttft_ms" not in list(report)
    with pytest.raises(AttributeError, match="'p50_tft_ms'"):
        _ = report.p50_tft_ms  # type: ignore[attr-defined]


def test_batches_and_the_cache_have_a_use(trace: Path) -> None:
    pool = servecast.run_trace_replay(trace, max_num_seqs=4)["pools"][0]
    assert 0 < pool["batch_occupancy"] <= 1 and 0 < pool["kv_usage"] <= pool["peak_kv_usage"] <= 1
    assert pool["batch_occupancy"] == pool["mean_batch_size"] / 4


PAGE_CASES: list[tuple[dict[str, Any], list[str]]] = [
    ({"num_workers": 2}, ["--num-workers", "2"]),
    (
        {"num_prefill_workers": 1, "num_decode_workers": 2, "router_mode": "kv_router", "warmup": "5"},
        ["--num-prefill-workers", "1", "--num-decode-workers", "2", "--router-mode", "kv_router", "--warmup", "5"],
    ),
    ({"max_num_seqs": 2, "diagnose": True}, ["--max-num-seqs", "2", "--diagnose"]),
    ({"diagnosis": False}, ["--diagnosis=false"]),
]


@pytest.mark.parametrize(("arguments", "flags"), PAGE_CASES)
def test_page_and_timeline_are_those_of_the_binary(
    tmp_path: Path, trace: Path, binary: Binary, arguments: dict[str, Any], flags: list[str]
) -> None:
    page, timeline = tmp_path / "page.html", tmp_path / "timeline.json"
    binary("replay", trace, "--quiet", "--report-html", page, "--timeline", timeline, *flags)
    report = servecast.run_trace_replay(trace, **arguments)
    of_wall_time = re.compile(r'"wall_time_ms":[0-9.e-]+')
    assert f'"wall_time_ms":{json.dumps(report.wall_time_ms)}' in report.to_html()
    assert of_wall_time.sub("", report.to_html()) == of_wall_time.sub("", page.read_text())
    assert report.timeline() == timeline.read_text()


def test_a_part_of_a_timeline_is_that_of_the_binary(tmp_path: Path, trace: Path, binary: Binary) -> None:
    report, path = servecast.run_trace_replay(trace), tmp_path / "timeline.json"
    shown = [((0.2, None), 2, "0.2.."), ((None, 0.3), 1, "..0.3"), ((0.1, 0.4), 3, "0.1..0.4")]
    for window, sample, text in shown:
        binary("replay", trace, "--quiet", "--timeline", path, "--timeline-window", text, "--timeline-sample", sample)
        assert report.timeline(window=window, sample=sample) == path.read_text()
    for wrong in [(3, 2), (-1, 2), (1, 1), (float("nan"), None), (float("inf"), None), (1, 2, 3), "1..2", ("1", 2)]:
        with pytest.raises(ConfigError, match="`window` is .* must be"):
            report.timeline(window=wrong)  # type: ignore[arg-type]
    samples: list[Any] = [0, -1, 1.5, True, 2**32]
    for sample in samples:
        with pytest.raises(ConfigError, match="`sample` is .* must be at least 1"):
            report.timeline(sample=sample)


def test_rows_and_functions_have_pages_too(rows: list[Row]) -> None:
    report = servecast.run_trace_replay(iter(rows), latency=lambda batch: 5 + 0.01 * batch.tokens)
    assert "a function is of the program that ran it" in report.to_html()
    assert len(json.loads(report.timeline())["traceEvents"]) > 30
    (one,) = servecast.replay_many([{"trace_file": rows}])
    assert "<html" in one.to_html() and one.to_html() == one.to_html()


def test_what_is_shown_is_the_run_that_was_made(tmp_path: Path, trace: Path, rows: list[Row]) -> None:
    report = servecast.run_trace_replay(trace)
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    for show in (report.to_html, report.timeline):
        with pytest.raises(ReplayError, match="made once more, it has another report") as raised:
            show()
        assert raised.value.hint is not None and "a file that it reads has changed" in raised.value.hint
    trace.unlink()
    with pytest.raises(TraceError, match=r"trace\.jsonl"):
        report.to_html()
    calls: list[int] = []

    def fickle(batch: servecast.Batch) -> float:
        calls.append(batch.requests)
        return float(len(calls))

    report = servecast.run_trace_replay(rows, latency=fickle)
    with pytest.raises(ReplayError, match="another report"):
        report.to_html()


def test_an_exception_of_a_function_ends_a_page(rows: list[Row]) -> None:
    is_over = False

    def price(batch: servecast.Batch) -> float:
        if is_over:
            raise KeyError("gone")
        return 5.0

    report = servecast.run_trace_replay(rows, latency=price)
    is_over = True
    with pytest.raises(KeyError, match="gone"):
        report.to_html()


def test_an_online_replay_has_a_page_and_no_timeline(rows: list[Row]) -> None:
    report = servecast.run_trace_replay(rows, replay_mode="online", speed=100.0)
    assert f'"wall_time_ms":{json.dumps(report.wall_time_ms)}' in report.to_html()
    with pytest.raises(ConfigError, match="online, but a timeline is made by running a replay once more") as raised:
        report.timeline()
    assert raised.value.hint is not None and "--timeline FILE" in raised.value.hint


def test_a_report_shows_the_table(trace: Path) -> None:
    report = servecast.run_trace_replay(trace)
    assert "Time to First Token (ms)" in repr(report)
    page = report._repr_html_()
    assert page.count("<tr>") == page.count("</tr>") == 10
    assert "Time to First Token (ms)" in page and "Requests: 30 completed" in page


def test_columns_without_a_value_are_not_a_number() -> None:
    numpy = pytest.importorskip("numpy")
    report = servecast.run_synthetic_trace_replay(100, 1, 4)
    assert report.requests["ttst_ms"].dtype == numpy.float64 and numpy.isnan(report.requests["ttst_ms"]).all()
    assert list(report.requests["reject_reason"]) == [None] * 4
    assert list(report.requests["status"]) == ["finished"] * 4
    assert report.requests["input_length"].dtype == numpy.int64
    assert report.requests["ttft_ms"].dtype == numpy.float64


def test_frames_have_a_row_a_request(trace: Path) -> None:
    report = servecast.run_trace_replay(trace)
    for library, convert in (("pandas", report.to_pandas), ("polars", report.to_polars)):
        pytest.importorskip(library)
        frame = convert()
        assert len(frame) == 30
        assert list(frame["ttft_ms"]) == list(report.requests["ttft_ms"])


def test_a_setting_without_effect_is_a_note_and_no_warning(trace: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = servecast.run_trace_replay(trace, extra_engine_args=EngineArgs(bootstrap_port=80))
        (same,) = servecast.replay_many([{"trace_file": trace, "extra_engine_args": {"bootstrap_port": 80}}])
    (note,) = (note for note in report.notes if note.startswith("a setting has no effect: "))
    assert "bootstrap_port" in note and report.notes == same.notes
    assert f"\nnote: {note}" in repr(report) and "note: a setting has no effect" in report._repr_html_()
    assert servecast.run_trace_replay(trace, latency="linear:1000,0.5,5").notes == []


def test_times_and_turns_are_read_as_the_trace_means_them() -> None:
    rows = [
        {"session_id": "a", "timestamp": 0.0, "input_length": 4190, "output_length": 592, "hash_ids": list(range(9))},
        {"session_id": "a", "delay_ms": 1000, "input_length": 592, "output_length": 16, "hash_ids": [10, 11]},
        {"timestamp": 0.2, "input_length": 20, "output_length": 8, "hash_ids": [90]},
    ]
    told = servecast.run_trace_replay(rows).notes
    assert any("make 5000 requests a second: time_unit s" in one for one in told)
    assert any("nothing in common with the turn before it: turns delta" in one for one in told)
    report = servecast.run_trace_replay(rows, time_unit="s", turns="delta")
    assert not any("time_unit" in note or "turns delta" in note for note in report.notes)
    assert list(report.requests["arrival_ms"])[:2] == [0.0, 200.0]
    assert list(report.requests["input_length"]) == [4190, 20, 5374]
    chats = [{"chat_id": 1, "parent_chat_id": -1, "timestamp": 1.5, "output_length": 1, "hash_ids": [1, 2]}]
    report = servecast.run_trace_replay(chats)
    assert list(report.requests["input_length"]) == [32]
    assert any("timestamps in seconds and 16 tokens" in note for note in report.notes)


def test_progress_ends_with_all_requests(trace: Path) -> None:
    seen: list[Progress] = []
    servecast.run_trace_replay(trace, progress=seen.append)
    assert seen[-1].ended == seen[-1].requests == 30
    assert [one.now_ms for one in seen] == sorted(one.now_ms for one in seen)


def test_what_progress_raises_ends_the_replay(trace: Path) -> None:
    def stop(progress: Progress) -> None:
        raise KeyError(progress.requests)

    with pytest.raises(KeyError, match="30"):
        servecast.run_trace_replay(trace, progress=stop)


def test_other_threads_run_during_a_replay() -> None:
    stop, running = threading.Event(), threading.Event()
    ticks: list[float] = []

    def work() -> None:
        running.set()
        while not stop.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.001)

    thread = threading.Thread(target=work)
    thread.start()
    running.wait()
    began = time.monotonic()
    servecast.run_synthetic_trace_replay(50, 2000, 6000, plain=True)
    ended = time.monotonic()
    stop.set()
    thread.join()
    # Were the interpreter held, the other thread would stand still but for the two ends.
    third = (ended - began) / 3
    middle = [tick for tick in ticks if began + third < tick < ended - third]
    assert third > 0.01, "the replay is too short to tell"
    assert len(middle) > 2


ONE = "servecast.run_synthetic_trace_replay(2000, 20000, 20000, plain=True)"
MANY = (
    "servecast.replay_many([{'input_tokens': 2000, 'output_tokens': 20000, 'request_count': 20000, 'plain': True}] * 4)"
)


@pytest.mark.parametrize("call", [ONE, MANY])
def test_ctrl_c_ends_replays_at_once(call: str) -> None:
    program = (
        "import servecast\n"
        "print('begin', flush=True)\n"
        "try:\n"
        f"    {call}\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begin\n"
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        try:
            text, _ = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert text == "interrupted\n"
        assert time.monotonic() - began < 5


def test_many_runs_have_the_results_of_single_ones(trace: Path) -> None:
    runs: list[dict[str, Any]] = [
        {"trace_file": trace, "num_workers": workers, "router_mode": mode}
        for workers in (1, 2)
        for mode in ("round_robin", "kv_router")
    ]
    runs.append({"input_tokens": 100, "output_tokens": 5, "request_count": 9, "iterations": True, "seed": 4})
    seen: list[tuple[int, int]] = []
    many = servecast.replay_many(runs, threads=3, progress=lambda done, all_runs: seen.append((done, all_runs)))
    assert seen == [(done, 5) for done in range(1, 6)]
    alone: list[Report] = [servecast.run_trace_replay(**run) for run in runs[:-1]]
    alone.append(servecast.run_synthetic_trace_replay(100, 5, 9, seed=4))
    assert [without_wall_time(one.to_json()) for one in many] == [without_wall_time(one.to_json()) for one in alone]
    assert many[-1].iterations.num_rows > 0


def test_no_runs_have_no_results() -> None:
    assert servecast.replay_many([]) == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 40)), min_size=1, max_size=20),
    workers=st.integers(1, 4),
    staged=st.booleans(),
    mode=st.sampled_from(["round_robin", "kv_router", "least_loaded"]),
)
def test_every_request_ends_once(lengths: list[tuple[int, int]], workers: int, staged: bool, mode: Any) -> None:
    rows = [
        {"timestamp": 5 * place, "input_length": isl, "output_length": osl, "hash_ids": list(range(-(-isl // 512)))}
        for place, (isl, osl) in enumerate(lengths)
    ]
    stages = {"num_prefill_workers": workers, "num_decode_workers": 1}
    counts = stages if staged else {"num_workers": workers}
    report = servecast.run_trace_replay(rows, router_mode=mode, check=True, **counts)  # type: ignore[arg-type]
    assert report.completed_requests + report.rejected_requests == len(rows)
    assert report.total_output_tokens == sum(osl for _, osl in lengths)
    assert list(report.requests["output_length"]) == [osl for _, osl in lengths]
