"""What the command line does besides replays, as functions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import servecast
from conftest import Row
from servecast import ConfigError, Report

MODEL = {"model": "meta-llama/Llama-3.1-8B", "gpu": "H100-SXM"}


@pytest.fixture
def reports(rows: list[Row]) -> list[Report]:
    return [servecast.run_trace_replay(rows, num_workers=workers) for workers in (1, 2)]


def test_reports_are_compared_request_by_request(reports: list[Report], tmp_path: Path) -> None:
    compared = servecast.compare(*reports)
    (run,) = compared.runs
    assert compared["baseline"]["figures"]["mean_ttft_ms"] == reports[0].mean_ttft_ms
    assert run["figures"]["mean_ttft_ms"]["value"] == reports[1].mean_ttft_ms
    assert {one["metric"]: one["pairs"] for one in run["paired"] or ()}["ttft_ms"] == 30
    assert (compared.baseline["name"], run["name"]) == ("run-1", "run-2")
    assert not compared.failed
    # As with files of the same.
    for report, name in zip(reports, ("run-1", "run-2")):
        report.save(tmp_path / name)
    of_files = servecast.compare(tmp_path / "run-1", tmp_path / "run-2")
    assert of_files.to_dict()["runs"][0]["figures"] == compared.to_dict()["runs"][0]["figures"]
    assert sorted(path.name for path in (tmp_path / "run-1").iterdir()) == ["report.json", "requests.jsonl"]


def test_a_condition_that_holds_is_no_exception(reports: list[Report]) -> None:
    assert servecast.compare(*reports, fail_if=["mean_ttft_ms<+1000%"]).failed
    assert not servecast.compare(*reports, fail_if="mean_ttft_ms>+1000%").failed


def test_what_is_refused_is_refused_as_on_the_command_line(reports: list[Report], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mean_tftt_ms") as refused:
        servecast.compare(*reports, fail_if="mean_tftt_ms>+5%")
    assert "mean_ttft_ms" in str(refused.value)
    with pytest.raises(ConfigError, match="nowhere.json"):
        servecast.compare(reports[0], tmp_path / "nowhere.json")
    with pytest.raises(ConfigError, match="--blok-size"):
        servecast.explain_capacity(**MODEL, blok_size=16)
    with pytest.raises(ConfigError):
        servecast.validate(tmp_path)


def test_saving_replaces_nothing_unasked(reports: list[Report], tmp_path: Path) -> None:
    reports[0].save(tmp_path)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        reports[1].save(tmp_path)
    assert (tmp_path / "report.json").read_text() == reports[0].to_json()
    reports[1].save(tmp_path, overwrite=True)
    assert (tmp_path / "report.json").read_text() == reports[1].to_json()


def test_a_measured_run_is_validated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = {
        "num_prompts": 50,
        "total_input_tokens": 5000,
        "total_output_tokens": 500,
        "request_rate": 2.0,
        "burstiness": 100.0,
        "max_concurrency": None,
        "mean_ttft_ms": 8.0,
        "mean_tpot_ms": 10.0,
        "mean_e2el_ms": 100.0,
    }
    (tmp_path / "-result.json").write_text(json.dumps(result))
    (tmp_path / "deployment.toml").write_text('latency = "linear:10000,0,0"\nnum_workers = 1\n')
    # A file whose name looks like a flag.
    monkeypatch.chdir(tmp_path)
    validation = servecast.validate("-result.json", config="deployment.toml", fail_if="mean_ttft_ms>24%")
    assert len(validation) == 1 and validation.failed
    named = {one["figure"]: one for one in validation[0].figures}
    # Every pass takes 10 ms.
    assert named["mean_ttft_ms"]["real"] == 8.0
    assert named["mean_ttft_ms"]["error_percent"] == pytest.approx(25.0)


def test_capacity_is_what_the_command_says(binary: Callable[..., str]) -> None:
    flags = ("--model", MODEL["model"], "--gpu", MODEL["gpu"], "--tensor-parallel-size", "2", "--format", "json")
    for command, function in (("capacity", servecast.explain_capacity), ("kv", servecast.explain_kv)):
        expected = json.loads(binary("explain", command, *flags))
        assert function(**MODEL, tensor_parallel_size=2).to_dict() == expected
    found = servecast.explain_kv(**MODEL, tokens=[1000, 2000])
    assert "1000" in found.to_json() and "2000" in found.to_json()


def test_traces_are_described(trace: Path) -> None:
    stats = servecast.trace_stats(trace)
    assert (stats.requests, stats["input_tokens"]["total"]) == (30, 45_000)
    checked = servecast.trace_check(trace)
    assert checked.form == "a trace in Mooncake JSON Lines"
    assert repr(checked).startswith("CommandResult(form, ")


def test_a_model_is_fitted_and_used(rows: list[Row], tmp_path: Path) -> None:
    files = []
    for place, speedup in enumerate((0.5, 4.0)):
        report = servecast.run_trace_replay(rows, arrival_speedup_ratio=speedup)
        folder = tmp_path / f"run-{place}"
        report.save(folder)
        files.append(folder / "requests.jsonl")
    model = tmp_path / "model.toml"
    fitted = servecast.calibrate(*files, output=model)
    assert model.exists() and fitted
    again = servecast.run_trace_replay(rows, latency=f"step:{model}")
    assert again.completed_requests == 30
