"""Loads in hand: what they are made of, and that a replay of them is that of the load itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import servecast
from conftest import Row
from servecast import ConfigError, Trace, TraceError

LENGTHS: dict[str, Any] = {"input_tokens": 900, "output_tokens": 20}


def times(report: servecast.Report) -> list[Any]:
    columns = report.requests
    return [list(columns[key]) for key in ("arrival_ms", "input_length", "output_length", "ttft_ms", "reused_tokens")]


def test_rows_in_hand_are_replayed_as_rows(rows: list[Row], trace: Path) -> None:
    expected = times(servecast.run_trace_replay(trace))
    for load in (Trace(rows), Trace(iter(rows)), Trace.read(trace), Trace(rows)[:]):
        assert times(servecast.run_trace_replay(load)) == expected
    load = Trace(rows)
    assert (len(load), load[0], load[-1], list(load)) == (30, rows[0], rows[-1], rows)
    assert load == Trace(rows) and load != Trace(rows, block_size=64) and load[:2] != load[:3]
    assert (
        repr(load[5:9]) == "Trace(4 requests)"
        and repr(Trace(rows, block_size=64)) == "Trace(30 requests, block_size=64)"
    )
    load[0]["input_length"] = 1
    assert load[0] == rows[0], "a row is a copy"


def test_a_load_is_a_file_too(tmp_path: Path, rows: list[Row], binary: Callable[..., str]) -> None:
    path = tmp_path / "load.jsonl"
    for load in (Trace(rows), Trace.poisson(5.0, 8, **LENGTHS, trace_block_size=64)):
        load.save(path)
        size = [] if load.block_size is None else ["--trace-block-size", str(load.block_size)]
        printed = json.loads(binary("replay", path, "--quiet", "--format", "json", *size))
        assert printed["mean_ttft_ms"] == servecast.run_trace_replay(load).mean_ttft_ms


def test_columns_become_rows() -> None:
    lists: dict[str, Any] = {"timestamp": [0, 5.5, 9], "input_length": [10, 20, 30], "output_length": [1, 2, 3]}
    expected = [dict(zip(lists, values)) for values in zip(*lists.values())]
    assert list(Trace.from_arrays(**lists)) == expected
    assert list(Trace.from_arrays(**lists, session_id=["a", None, "b"]))[1] == expected[1]
    ids = [[1], [1, 2], [3]]
    sized = Trace.from_arrays(**lists, hash_ids=ids, block_size=16)
    assert [row["hash_ids"] for row in sized] == ids and sized.block_size == 16
    numpy = pytest.importorskip("numpy")
    arrays = {name: numpy.array(values) for name, values in lists.items()}
    assert list(Trace.from_arrays(**arrays)) == expected
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({**lists, "class": ["a", None, "b"]})
    assert [row.get("class") for row in Trace.from_arrays(**frame)] == ["a", None, "b"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "a trace has no columns"),
        ({"timestamp": [1, 2], "input_length": [1]}, "`input_length` has 1 values, but `timestamp` has 2"),
        ({"timestamp": 3}, "`timestamp` is 3, but must be a column"),
        ({"timestamp": "12"}, "`timestamp` is '12', but must be a column"),
        ({"timestamp": [{1, 2}]}, "row 1: .* has no JSON value"),
    ],
)
def test_what_is_no_column_is_refused(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        Trace.from_arrays(**columns)


def test_a_row_is_a_dict() -> None:
    with pytest.raises(TraceError, match="row 2 is a int, but must be a dict"):
        Trace([{}, 5])  # type: ignore[list-item]


def test_made_loads_are_those_of_a_replay() -> None:
    shape: dict[str, Any] = {
        "length_distribution": "lognormal",
        "length_spread": 0.5,
        "seed": 3,
        "trace_block_size": 64,
    }
    made = Trace.gamma(20.0, 50, burstiness=0.5, **LENGTHS, **shape)
    direct = servecast.run_synthetic_trace_replay(900, 20, 50, request_rate=20.0, burstiness=0.5, **shape)
    assert times(servecast.run_trace_replay(made)) == times(direct)
    assert Trace.poisson(20.0, 50, **LENGTHS, **shape) == Trace.gamma(20.0, 50, burstiness=1.0, **LENGTHS, **shape)
    assert Trace.poisson(20.0, 50, **LENGTHS) != Trace.poisson(20.0, 50, **LENGTHS, seed=5)


def test_sessions_come_back_with_what_they_said() -> None:
    made = Trace.sessions(5.0, 4, turns=3, **LENGTHS, delay_ms=250.0, history=False, trace_block_size=16)
    direct = servecast.run_synthetic_trace_replay(
        900, 20, 4, request_rate=5.0, turns_per_session=3, inter_turn_delay_ms=250.0, trace_block_size=16
    )
    assert len(made) == 12 and made.block_size == 16
    assert {row["session_id"] for row in made} and sum("timestamp" in row for row in made) == 4
    assert times(servecast.run_trace_replay(made)) == times(direct)
    chats = Trace.sessions(5.0, 4, turns=3, **LENGTHS, delay_ms=250.0, trace_block_size=16)
    assert sorted({row["input_length"] for row in chats}) == [900, 1820, 2740]
    report = servecast.run_trace_replay(chats, block_size=16)
    of_last = [reused for turn, reused in zip(report.requests["turn"], report.requests["reused_tokens"]) if turn == 2]
    assert min(of_last) >= 1800


def test_a_part_of_a_trace_is_read(tmp_path: Path, trace: Path) -> None:
    part = Trace.read(trace, time_range="0.4..0.8")
    assert 0 < len(part) < 30
    direct = servecast.run_trace_replay(trace, time_range="0.4..0.8")
    assert times(servecast.run_trace_replay(part)) == times(direct)
    table = tmp_path / "table.csv"
    table.write_text("arrived,prompt,completion\n0,50,2\n1,60,3\n")
    read = Trace.read(table, columns="time=arrived,input=prompt,output=completion", time_unit="s")
    assert [(row["timestamp"], row["input_length"], row["output_length"]) for row in read] == [
        (0.0, 50, 2),
        (1000.0, 60, 3),
    ]
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(
        pyarrow.table({"arrived": [0, 1], "prompt": [50, 60], "completion": [2, 3]}), tmp_path / "x.parquet"
    )
    same = Trace.read(tmp_path / "x.parquet", columns="time=arrived,input=prompt,output=completion", time_unit="s")
    assert list(same) == list(read)


def test_what_was_odd_is_a_note() -> None:
    assert Trace.poisson(5.0, 2, **LENGTHS).notes == []


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"num_workers": 2}, ConfigError, "`num_workers` says nothing of a load"),
        ({"speed": 2.0}, ConfigError, "`speed` "),
        ({"lenght_spread": 2.0}, ConfigError, "did you mean `length_spread`"),
        ({"length_distribution": "normal"}, ConfigError, "length_distribution"),
        ({"trace_file": "nowhere.jsonl"}, ConfigError, "cannot be combined"),
        ({"seed": {1}}, ConfigError, "a load cannot be made"),
    ],
)
def test_what_is_no_setting_of_a_load_is_refused(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Trace.poisson(5.0, 2, **LENGTHS, **settings)


def test_a_trace_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="nowhere"):
        Trace.read(tmp_path / "nowhere.jsonl")


def test_searches_and_sweeps_take_loads(rows: list[Row]) -> None:
    load = Trace(rows)
    table = servecast.sweep({"trace_file": load}, {"num_workers": [1, 2]})
    assert table.rows.num_rows == 2
    (report,) = servecast.replay_many([{"trace_file": load, "num_workers": 2}])
    assert report.completed_requests == 30
    found = servecast.recommend(load, slo="p95 ttft <= 10s", vary={"num_workers": [1, 2]}, latency="linear:6000,30,200")
    assert found.best is not None
