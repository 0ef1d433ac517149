"""Recommendations: the answer of the binary, wherever deployments are simulated."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import servecast
from conftest import Row
from servecast import ConfigError, Recommendation, ReplayError, SearchProgress, TraceError, _native

Binary = Callable[..., str]

LOAD: dict[str, Any] = {
    "input_tokens": 800,
    "output_tokens": 40,
    "request_count": 120,
    "arrival_interval_ms": 20,
    "arrival_process": "poisson",
}
LINEAR: dict[str, Any] = {**LOAD, "latency": "linear:6000,30,200", "max_num_batched_tokens": 2048, "max_gpus": 3}
MODEL: dict[str, Any] = {
    **LOAD,
    "request_count": 60,
    "max_num_batched_tokens": 8192,
    "model": "meta-llama/Llama-3.1-8B",
    "gpu": "H100-SXM",
    "max_gpus": 2,
    "gpu_hour": {"H100-SXM": 2.5},
    "router_mode": "least_loaded",
    "slo": ["p95 ttft <= 120ms", "p90 itl <= 30ms"],
}
CASES: list[dict[str, Any]] = [
    {**LINEAR, "slo": "p95 ttft <= 700ms", "vary": {"max_num_seqs": [8, 64]}, "growth": [1, 1.3]},
    {**LINEAR, "slo": "p95 ttft <= 3s", "objective": ["gpus", "latency"], "router_mode": "least_loaded"},
    {**LINEAR, "slo": "max ttft <= 1ms", "vary": {"num_workers": "1..2"}},
    # What an engine refuses is a reason in the answer.
    {**MODEL, "vary": {"tensor_parallel_size": [1, 3], "max_num_seqs": [64], "num_workers": [1, 2]}, "max_gpus": 3},
]


def flags(question: dict[str, Any]) -> list[str]:
    """Return a question as the command line has it."""
    words: list[str] = []
    for key, value in question.items():
        flag = f"--{key.replace('_', '-')}"
        if key in ("slo", "vary", "gpu_hour"):
            texts = [value] if isinstance(value, str) else value
            if isinstance(value, dict):
                lists = {
                    of: one if isinstance(one, (str, float)) else ",".join(map(str, one)) for of, one in value.items()
                }
                texts = [f"{of}={one}" for of, one in lists.items()]
            words += [word for text in texts for word in (flag, text)]
        elif key == "trace_file":
            words.append(str(value))
        else:
            words += [flag, ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return words


@pytest.fixture
def asked(binary_path: Path) -> Callable[[dict[str, Any]], str]:
    """Ask the binary; where no deployment keeps its targets, it exits with 3."""
    import subprocess

    def run(question: dict[str, Any]) -> str:
        command = [str(binary_path), "recommend", "--quiet", "--format", "json", *flags(question)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=50)
        assert done.returncode in (0, 3), done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def processes() -> Iterator[Executor]:
    """Two processes that share nothing with this one."""
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def dask() -> Iterator[Executor]:
    """A cluster of Dask with two worker processes."""
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=2, processes=True, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
    )
    with cluster, distributed.Client(cluster) as client:
        yield client.get_executor()


@pytest.mark.parametrize("question", CASES)
def test_threads_give_the_bytes_of_the_binary(question: dict[str, Any], asked: Callable[..., str]) -> None:
    expected = asked(question)
    assert servecast.recommend(**question).to_json() == expected
    assert servecast.recommend(**question, threads=1).to_json() == expected


@pytest.mark.parametrize("question", CASES)
def test_processes_give_the_same_bytes(question: dict[str, Any], processes: Executor) -> None:
    assert servecast.recommend(**question, executor=processes).to_json() == servecast.recommend(**question).to_json()


@pytest.mark.timeout(180)
def test_dask_gives_the_bytes_of_the_binary(dask: Executor, asked: Callable[..., str]) -> None:
    for question in CASES:
        assert servecast.recommend(**question, executor=dask).to_json() == asked(question)


def test_a_trace_may_be_a_file_or_rows(trace: Path, rows: list[Row], asked: Callable[..., str]) -> None:
    question: dict[str, Any] = {"latency": "linear:6000,30,200", "max_gpus": 2, "slo": "p95 ttft <= 2s"}
    of_file = {"trace_file": trace, **question}
    with ThreadPoolExecutor(2) as pool:
        assert servecast.recommend(**of_file, executor=pool).to_json() == asked(of_file)
        by_pool = servecast.recommend(rows, **question, executor=pool)
    of_rows = servecast.recommend(rows, **question)
    assert by_pool.to_json() == of_rows.to_json()
    assert of_rows.workload_hash == json.loads(asked(of_file))["workload_hash"]


def test_an_answer_is_a_mapping_a_table_and_columns() -> None:
    found = servecast.recommend(**MODEL, vary={"num_workers": [1, 2], "max_num_seqs": [64]})
    assert isinstance(found, Recommendation)
    assert found["loads"] == found.loads == found.to_dict()["loads"]
    best = found.best
    assert best is not None and best["settings"]["max_num_seqs"] == 64
    ranking = found.ranking
    assert list(ranking["rank"]) == list(range(1, ranking.num_rows + 1))
    assert ranking["deployment"][0] == best["deployment"]
    assert ranking["cost_per_hour"][0] == 2.5 * best["gpus"] and ranking["load"][0] == 1
    assert ranking["p95 ttft <= 120ms"][0] == best["figures"]["slo"][0]["value"]
    assert "vllm serve meta-llama/Llama-3.1-8B" in found.start
    assert "Recommendation: the lowest cost" in repr(found) and "<table>" in found._repr_html_()
    assert found.to_csv().count("\n") == ranking.num_rows + 1
    hopeless = servecast.recommend(**CASES[2])
    assert hopeless.best is None and hopeless.start == "" and hopeless.ranking.num_rows == 0
    assert hopeless.loads[0]["nearest"]


def test_progress_is_told_and_may_end_the_search() -> None:
    told: list[SearchProgress] = []
    found = servecast.recommend(**CASES[0], progress=told.append)
    assert [each.runs for each in told] == list(range(1, len(told) + 1))
    assert {each.factor for each in told} == {1, 1.3}
    assert told[-1].deployments == found.loads[0]["tally"]["candidates"] and told[-1].best

    def interrupt(_: SearchProgress) -> None:
        raise KeyboardInterrupt

    for executor in (None, ThreadPoolExecutor(2)):
        with pytest.raises(KeyboardInterrupt):
            servecast.recommend(**CASES[0], progress=interrupt, executor=executor)


def test_a_search_that_was_ended_goes_on(tmp_path: Path, processes: Executor) -> None:
    journal = tmp_path / "search.jsonl"
    expected = servecast.recommend(**CASES[0]).to_json()
    runs = 0

    def end(reached: SearchProgress) -> None:
        if reached.runs > 4:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        servecast.recommend(**CASES[0], resume=journal, progress=end)
    begun = len(journal.read_text().splitlines())
    assert begun > 4
    assert servecast.recommend(**CASES[0], resume=journal, executor=processes).to_json() == expected

    def count(_: SearchProgress) -> None:
        nonlocal runs
        runs += 1

    lines = journal.read_text()
    assert servecast.recommend(**CASES[0], resume=journal, progress=count).to_json() == expected
    assert journal.read_text() == lines and runs >= len(lines.splitlines()) - 1
    with pytest.raises(ConfigError, match="is of another search"):
        servecast.recommend(**CASES[1], resume=journal)


class Broken(Executor):
    """An executor whose workers are lost."""

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_exception(OSError("the worker is gone"))
        return future


def test_a_worker_that_fails_says_what_it_was_about() -> None:
    with pytest.raises(ReplayError, match=r"max_num_seqs=8 .*the executor failed: OSError: the worker is gone"):
        servecast.recommend(**CASES[0], executor=Broken())


class Elsewhere(Executor):
    """An executor with workers that are not as the search takes them to be."""

    def __init__(self, key: str, value: str) -> None:
        self.change = {key: value}

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        question, *rest = arguments
        future: Future[Any] = Future()
        try:
            future.set_result(function(json.dumps({**json.loads(question), **self.change}), *rest))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("workload_hash", "a worker sees another load: a synthetic workload has the hash"),
        ("servecast_version", "a worker has servecast .*, but the search is one of x"),
    ],
)
def test_a_worker_that_differs_is_an_error(key: str, message: str) -> None:
    with pytest.raises(ReplayError, match=f"max_num_seqs=8 .*: {message}"):
        servecast.recommend(**CASES[0], executor=Elsewhere(key, "x"))


def test_latency_may_be_a_function_of_this_process() -> None:
    question = {**LOAD, "max_gpus": 2, "slo": "p95 ttft <= 1s", "vary": {"max_num_seqs": [64]}}
    found = servecast.recommend(**question, latency=lambda batch: 6 + 0.03 * batch.tokens)
    assert found.best is not None

    def broken(_: servecast.Batch) -> float:
        raise ArithmeticError("no time")

    with pytest.raises(ArithmeticError, match="no time"):
        servecast.recommend(**question, latency=broken)
    with ThreadPoolExecutor(1) as pool, pytest.raises(ConfigError, match="cannot go to the workers"):
        servecast.recommend(**question, latency=broken, executor=pool)


SLO = "p95 ttft <= 1s"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"slo": []}, "a recommendation needs a target to keep"),
        ({"slo": "p95 ttfx <= 1s"}, "unknown figure `ttfx`, did you mean `ttft`?"),
        ({"slo": SLO, "objectives": "cost"}, "unknown argument `objectives`, did you mean `objective`?"),
        ({"slo": SLO, "max_gpu": 3}, "unknown argument `max_gpu`, did you mean `max_gpus`?"),
        ({"slo": SLO, "num_worker": 3}, "unknown key `num_worker`, did you mean `num_workers`?"),
        ({"slo": SLO, "objective": "gpu"}, "unknown objective `gpu`, did you mean `gpus`?"),
        ({"slo": SLO, "objective": ["cost"]}, "objective cost needs prices"),
        ({"slo": SLO, "max_gpus": "8"}, "`max_gpus` is '8', but must be a whole number"),
        ({"slo": SLO, "max_gpus": 0}, "max_gpus is 0, but a deployment has at least 1 GPU"),
        ({"slo": SLO, "spare": -1}, "`spare` is -1, but must be a whole number of at least 0"),
        ({"slo": SLO, "gpus": 1, "spare": 3}, "the space is empty"),
        ({"slo": SLO, "growth": 0}, "`growth` is 0, but must be a factor of the load above 0"),
        ({"slo": SLO, "gpu_hour": {"H100-SMX": 2}}, "the GPU `H100-SMX` is not known"),
        ({"slo": SLO, "gpu_hour": {"H100-SXM": "2"}}, "`gpu_hour` gives H100-SXM the price '2'"),
        ({"slo": SLO, "vary": {"num_workers": 3}}, "`vary` gives `num_workers` 3, but must give it a list"),
        ({"slo": SLO, "vary": {"num_workers": []}}, "`vary` gives `num_workers` no value in place 1"),
        ({"slo": SLO, "executor": 3}, "`executor` is a int, but must be a concurrent.futures.Executor"),
        ({"slo": SLO, "threads": 0}, "`threads` is 0, but there is at least 1"),
        ({"slo": SLO, "threads": 2, "executor": Broken()}, "`threads` is for runs in this process"),
        ({"slo": SLO, "report_json": "x"}, "`report_json` is for the command line only"),
    ],
)
def test_what_cannot_be_asked_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        servecast.recommend(**LOAD, latency="linear:6000,30,200", **arguments)
    assert message in str(refused.value)


def test_a_trace_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(TraceError, match="trace: line 1: "):
        servecast.recommend([{"timestamp": 0}], slo=SLO, latency="linear:6000,30,200")


def test_a_worker_is_told_what_it_was_sent() -> None:
    with pytest.raises(ValueError, match="a worker was sent no trial"):
        _native.simulate("{}", None, "{}")
