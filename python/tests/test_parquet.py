"""Traces in Parquet are what the same rows are in text."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import Any

import pytest
import servecast

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

SMALL: dict[str, Any] = {"latency": "linear:1000,10,0", "num_workers": 1}
COLUMNS = "time=at,input=prompt,output=completion,session=user"


def written(folder: Path, name: str, columns: dict[str, Any], **more: Any) -> str:
    """Write a file of Parquet; return its path."""
    path = folder / name
    parquet.write_table(pyarrow.table(columns), path, **more)
    return str(path)


def figures(report: servecast.Report) -> dict[str, Any]:
    """Return what a report says but for what the trace is called."""
    found = dict(report.to_dict())
    for key in ("wall_time_ms", "workload_name", "settings", "trace_notes"):
        found.pop(key, None)
    return found


def test_rows_are_those_of_text(tmp_path: Path) -> None:
    rows = [
        {"timestamp": 0, "input_length": 1200, "output_length": 20, "hash_ids": [1, 2, 3]},
        {"timestamp": 100, "input_length": 1100, "output_length": 5, "hash_ids": [1, 2, 4]},
        {"timestamp": 400, "input_length": 300, "output_length": 10, "hash_ids": [6]},
    ]
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    # Row groups of one row: batches change nothing.
    path = written(tmp_path, "t.parquet", columns, row_group_size=1)
    assert figures(servecast.run_trace_replay(path, **SMALL)) == figures(servecast.run_trace_replay(rows, **SMALL))


def test_columns_are_those_of_a_table(tmp_path: Path) -> None:
    utc = datetime.timezone.utc
    at = [datetime.datetime(2026, 1, 31, 12, 0, second, 500_000, tzinfo=utc) for second in (0, 1, 3)]
    columns: dict[str, Any] = {"at": at, "user": ["a", "b", "a"], "prompt": [374, 20, 800], "completion": [44, 3, 9]}
    path = written(tmp_path, "logs", columns)
    report = servecast.run_trace_replay(path, columns=COLUMNS, **SMALL)
    text = tmp_path / "logs.csv"
    lines = [
        f"{time.isoformat()},{user},{prompt},{completion}"
        for time, user, prompt, completion in zip(*(columns[key] for key in ("at", "user", "prompt", "completion")))
    ]
    text.write_text("\n".join(["at,user,prompt,completion", *lines]))
    assert figures(report) == figures(servecast.run_trace_replay(text, columns=COLUMNS, **SMALL))
    assert report["total_input_tokens"] == 374 + 20 + 800


def test_tables_of_known_tools_need_no_columns(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "TIMESTAMP": ["2023-11-16 18:15:46.6805900", "2023-11-16 18:15:50.9951690"],
        "ContextTokens": [374, 396],
        "GeneratedTokens": [44, 109],
    }
    report = servecast.run_trace_replay(written(tmp_path, "azure.parquet", columns), **SMALL)
    assert (report["num_requests"], report["total_output_tokens"]) == (2, 153)


def test_what_is_wrong_is_said_with_its_row(tmp_path: Path) -> None:
    columns: dict[str, Any] = {"at": [0.0, 1.0], "user": ["a", "b"], "prompt": [374, -2], "completion": [44, 3]}
    path = written(tmp_path, "bad.parquet", columns)
    with pytest.raises(servecast.TraceError, match="line 2: `prompt` is the number -2"):
        servecast.run_trace_replay(path, columns=COLUMNS, **SMALL)
    missing = COLUMNS.replace("prompt", "prompts")
    with pytest.raises(servecast.TraceError, match="line 1: `prompts` is missing"):
        servecast.run_trace_replay(path, columns=missing, **SMALL)
    with pytest.raises(servecast.TraceError, match="trace"):
        servecast.run_trace_replay(path, **SMALL)
    null = written(tmp_path, "null.parquet", {**columns, "prompt": [374, None]})
    with pytest.raises(servecast.TraceError, match="line 2: `prompt` is missing"):
        servecast.run_trace_replay(null, columns=COLUMNS, **SMALL)
    odd = written(tmp_path, "odd.parquet", {**columns, "wait": [datetime.timedelta(1)] * 2})
    with pytest.raises(servecast.TraceError, match="row 1: a timedelta is nothing that a trace has"):
        servecast.run_trace_replay(odd, columns=COLUMNS, **SMALL)
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(Path(path).read_bytes()[:-20])
    with pytest.raises(servecast.TraceError, match=r"cut.parquet: cannot be read as Parquet"):
        servecast.run_trace_replay(cut, columns=COLUMNS, **SMALL)


def test_without_a_reader_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "t.parquet", {"at": [0.0]})
    for module in ("pyarrow", "pyarrow.parquet", "polars"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(servecast.TraceError, match="PyArrow or Polars reads, but neither is installed") as raised:
        servecast.run_trace_replay(path, **SMALL)
    assert raised.value.hint is not None and "pip install pyarrow" in raised.value.hint


def test_polars_reads_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("polars")
    columns: dict[str, Any] = {"at": [0.0, 1.0], "user": ["a", "b"], "prompt": [374, 2], "completion": [44, 3]}
    path = written(tmp_path, "t.parquet", columns)
    report = servecast.run_trace_replay(path, columns=COLUMNS, **SMALL)
    for module in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    assert figures(servecast.run_trace_replay(path, columns=COLUMNS, **SMALL)) == figures(report)
