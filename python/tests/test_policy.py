"""Python functions as routing policy and as order of waiting requests."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import servecast
from conftest import Row, without_wall_time
from servecast import Candidate, ConfigError, RoutedRequest, Trace, WaitingRequest


class InTurn:
    """The workers in turn, as `round_robin` has them."""

    def __init__(self) -> None:
        self.next = 0

    def __call__(self, request: RoutedRequest, candidates: tuple[Candidate, ...]) -> int:
        self.next += 1
        return candidates[(self.next - 1) % len(candidates)].worker


def cheapest(request: RoutedRequest, candidates: tuple[Candidate, ...]) -> Candidate:
    """The lowest cost; of equals the larger overlap, of equals the first."""
    return min(candidates, key=lambda one: (one.cost, -one.overlap_blocks))


def outcome(report: servecast.Report) -> tuple[list[str], dict[str, Any]]:
    """The rows of requests and stages, and what the report says of them."""
    own = ("settings", "notes", "wall_time_ms")
    said = {key: value for key, value in report.items() if key not in own}
    tables = (report.requests, report.stages)
    return [f"{name}: {list(table[name])}" for table in tables for name in table], said


def workers_of(report: servecast.Report) -> dict[str, list[int]]:
    """The workers of requests by pool, in order of requests."""
    workers: dict[str, list[int]] = {}
    for pool, worker in zip(report.stages["pool"], report.stages["worker"]):
        workers.setdefault(pool, []).append(int(worker))
    return workers


DEPLOYMENTS: list[dict[str, Any]] = [
    {"num_workers": 3},
    {"num_workers": 3, "engine": "sglang"},
    {"num_prefill_workers": 2, "num_decode_workers": 2},
]


@pytest.mark.parametrize("arguments", DEPLOYMENTS)
def test_a_built_in_policy_as_a_function_serves_as_the_built_in_one(rows: list[Row], arguments: dict[str, Any]) -> None:
    built_in = servecast.run_trace_replay(rows, router_mode="round_robin", **arguments)
    ours = servecast.run_trace_replay(rows, router=InTurn, **arguments)
    assert outcome(ours) == outcome(built_in)
    assert ours["settings"]["router_mode"] == "callable"
    assert "Requests are routed by a policy of the program that ran it." in ours["notes"]


def test_the_cost_is_that_of_the_kv_router(rows: list[Row]) -> None:
    """Whatever it costs to break ties: each pick of the router is the cheapest by what a function is told."""
    routed = servecast.run_trace_replay(
        rows, num_workers=3, router_mode="kv_router", router_config={"router_queue_threshold": None}
    )
    workers = workers_of(routed)["aggregated"]

    def same(request: RoutedRequest, candidates: tuple[Candidate, ...]) -> int:
        picked = workers[request.id]
        assert candidates[picked].cost == cheapest(request, candidates).cost
        return picked

    assert outcome(servecast.run_trace_replay(rows, num_workers=3, router=same)) == outcome(routed)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_built_in_order_as_a_function_serves_as_the_built_in_one(rows: list[Row], engine: str) -> None:
    urgent = [{**row, "priority": line % 3, "timestamp": line} for line, row in enumerate(rows)]
    plain: dict[str, Any] = {"engine": engine, "max_num_seqs": 2}
    named: dict[str, Any] = {"extra_engine_args": {"scheduling_policy": "priority"}}
    if engine == "sglang":
        named = {"enable_priority_scheduling": True, "schedule_low_priority_values_first": True}
        # Orders do not displace who runs.
        named["priority_scheduling_preemption_threshold"] = 99
    built_in = servecast.run_trace_replay(urgent, **plain, **named)
    ours = servecast.run_trace_replay(urgent, **plain, priority=lambda one: one.priority)
    other = servecast.run_trace_replay(urgent, **plain)
    ends = [list(report.requests["last_token_ms"]) for report in (ours, built_in, other)]
    assert ends[0] == ends[1] != ends[2]


def test_what_a_router_is_told() -> None:
    seen: list[tuple[RoutedRequest, tuple[Candidate, ...]]] = []

    def note(request: RoutedRequest, candidates: tuple[Candidate, ...]) -> int:
        seen.append((request, candidates))
        return 1

    rows = [
        {
            "timestamp": 0,
            "input_length": 1024,
            "output_length": 5,
            "hash_ids": [1, 2],
            "session_id": "a",
            "class": "chat",
        },
        {
            "timestamp": 900,
            "input_length": 1100,
            "output_length": 7,
            "hash_ids": [1, 2, 3],
            "class": "batch",
            "priority": 4,
        },
    ]
    deployment: dict[str, Any] = {"num_workers": 2, "num_gpu_blocks": 500, "block_size": 64}
    servecast.run_trace_replay(rows, router=note, **deployment)
    (first, idle), (second, candidates) = seen
    assert (first.id, first.pool, first.now_ms, first.arrival_ms, first.prompt_tokens) == (0, "aggregated", 0, 0, 1024)
    assert (first.max_tokens, first.priority, first.class_name, first.lora, first.block_size) == (
        5,
        0,
        "chat",
        None,
        64,
    )
    assert (second.class_name, second.priority, second.now_ms, second.max_tokens) == ("batch", 4, 900, 7)
    assert first.session == 0 and second.session == 1
    assert second.prefix_hashes()[:16] == first.prefix_hashes() and len(second.prefix_hashes()) == 17
    assert second.prefix_hashes(1000)[0] == first.prefix_hashes(1000)[0]
    assert first.prefix_hashes(2000) == []
    with pytest.raises(ValueError, match="at least 1 token"):
        first.prefix_hashes(0)
    told = [(one.worker, one.in_flight, one.running, one.waiting, one.active_blocks) for one in idle]
    assert told == [(0, 0, 0, 0, 16), (1, 0, 0, 0, 16)]
    # Worker 1 has the first prompt in its cache.
    assert [one.overlap_blocks for one in candidates] == [0, 16]
    assert [one.prefill_tokens for one in candidates] == [1100, 1100 - 1024]
    assert candidates[0].free_blocks == candidates[0].capacity_blocks
    assert candidates[1].cost < candidates[0].cost
    assert repr(first) == 'RoutedRequest(id=0, pool="aggregated", now_ms=0, prompt_tokens=1024)'
    assert repr(idle[0]).startswith("Candidate(worker=0, in_flight=0, running=0, waiting=0, ")
    for view, name in ((first, "priority"), (idle[0], "cost")):
        with pytest.raises(AttributeError):
            setattr(view, name, 3)


def test_both_pools_are_routed_and_ordered(rows: list[Row]) -> None:
    routed: list[tuple[str, int]] = []
    waited: list[WaitingRequest] = []

    def router(request: RoutedRequest, candidates: tuple[Candidate, ...]) -> int:
        routed.append((request.pool, request.max_tokens))
        return candidates[-1].worker

    def priority(request: WaitingRequest) -> float:
        waited.append(request)
        return request.prompt_tokens

    report = servecast.run_trace_replay(
        rows, num_prefill_workers=2, num_decode_workers=3, router=router, priority=priority
    )
    assert {pool for pool, _ in routed} == {"prefill", "decode"} and len(routed) == len(waited) == 2 * len(rows)
    assert all((most == 1) == (pool == "prefill") for pool, most in routed)
    assert {pool: set(workers) for pool, workers in workers_of(report).items()} == {"prefill": {1}, "decode": {2}}
    assert repr(waited[0]).startswith("WaitingRequest(id=0, arrival_ms=0, prompt_tokens=1500")


@pytest.mark.parametrize("name", ["router", "priority"])
def test_what_a_function_raises_ends_the_replay(rows: list[Row], name: str) -> None:
    def broken(*arguments: Any) -> int:
        raise LookupError(f"at {arguments[0].id}")

    class Broken:
        def __init__(self) -> None:
            raise OSError("no state")

    def run(function: Any) -> servecast.Report:
        arguments: dict[str, Any] = {name: function}
        return servecast.run_trace_replay(rows, **arguments)

    with pytest.raises(LookupError, match="at 0"):
        run(broken)
    with pytest.raises(OSError, match="no state"):
        run(Broken)
    with pytest.raises(LookupError, match="at 0"):
        servecast.replay_many([{"trace_file": rows}, {"trace_file": rows, name: broken}])
    with pytest.raises(TypeError):
        run(lambda: 0)


def test_a_run_ends_soon_after_an_exception() -> None:
    """Not when a billion tokens have been simulated for nobody."""

    def broken(request: RoutedRequest, candidates: tuple[Candidate, ...]) -> int:
        raise LookupError

    began = time.monotonic()
    with pytest.raises(LookupError):
        servecast.run_synthetic_trace_replay(
            2000, 900_000, 2000, router=broken, extra_engine_args={"max_model_len": 999999, "num_gpu_blocks": 999999}
        )
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("answer", [2, -1, True, None, "0", 0.0, float("nan")])
def test_what_is_no_worker_is_refused(rows: list[Row], answer: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        servecast.run_trace_replay(rows, num_workers=2, router=lambda request, candidates: answer)
    assert str(caught.value) == (
        f'`router` returned {answer!r} for RoutedRequest(id=0, pool="aggregated", now_ms=0, prompt_tokens=1500), but '
        "must return one of the candidates or its number: 0, 1"
    )


@pytest.mark.parametrize("answer", [float("nan"), None, "3"])
def test_what_is_no_key_is_refused(rows: list[Row], answer: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        servecast.run_trace_replay(rows, priority=lambda request: answer)
    assert str(caught.value) == (
        f"`priority` returned {answer!r} for WaitingRequest(id=0, arrival_ms=0, prompt_tokens=1500), but must return a "
        "number: the lowest goes first"
    )


def test_numbers_of_other_kinds_are_workers_and_keys(rows: list[Row]) -> None:
    numpy = pytest.importorskip("numpy")
    report = servecast.run_trace_replay(
        rows,
        num_workers=2,
        router=lambda request, candidates: numpy.int32(1),
        priority=lambda request: numpy.float32(1),
    )
    assert set(workers_of(report)["aggregated"]) == {1}
    assert servecast.run_trace_replay(rows, priority=lambda request: float("inf")).completed_requests == len(rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"router": 3}, "`router` is 3, but must be a function"),
        ({"priority": "short"}, "`priority` is 'short', but must be a function"),
        ({"router": cheapest, "router_mode": "random"}, "`router_mode` says how requests are routed"),
        ({"router": cheapest, "replay_mode": "online"}, "`replay_mode` is online, but routing policies"),
        ({"router": cheapest, "diagnose": True}, "`diagnose` runs the load again under other settings"),
    ],
)
def test_what_does_not_go_together_is_refused(rows: list[Row], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        servecast.run_trace_replay(rows, **arguments)
    assert str(caught.value).startswith(message)


def test_searches_and_executors_take_no_functions(rows: list[Row]) -> None:
    with pytest.raises(ConfigError, match="`router` is a function, but a search looks at"):
        servecast.recommend(rows, slo="p95 ttft <= 1s", latency="linear:1000,1,1", router=cheapest)  # type: ignore[call-arg]
    with ThreadPoolExecutor() as pool, pytest.raises(ConfigError, match="`priority` is a function, which cannot go"):
        base = {"trace_file": rows, "priority": lambda request: 0}
        servecast.sweep(base, {"num_workers": [1, 2]}, executor=pool)


def test_a_class_begins_anew_in_each_pool_and_run(rows: list[Row]) -> None:
    report = servecast.run_trace_replay(rows, num_workers=3, router=InTurn)
    # Pages are made by running the replay once more.
    again = servecast.run_trace_replay(rows, num_workers=3, router=InTurn)
    assert without_wall_time(again.to_json()) == without_wall_time(report.to_json())
    assert len(report.to_html()) > 10_000
    assert len(report.timeline()) > 100
    seen: set[int] = set()

    def newcomers_first(request: RoutedRequest, candidates: tuple[Candidate, ...]) -> int:
        is_new = request.id not in seen
        seen.add(request.id)
        return request.id % 2 if is_new else 0

    remembers = servecast.run_trace_replay(rows, num_workers=2, router=newcomers_first)
    with pytest.raises(servecast.ReplayError, match="made once more, it has another report") as caught:
        remembers.to_html()
    assert "remembers an earlier run" in str(caught.value)


def test_several_runs_have_their_own(rows: list[Row]) -> None:
    routers: list[Callable[..., Any]] = [InTurn, cheapest, InTurn]
    runs: list[dict[str, Any]] = [{"trace_file": rows, "num_workers": 3, "router": router} for router in routers]
    many = servecast.replay_many(runs, threads=3)
    alone = [servecast.run_trace_replay(**run) for run in runs]
    assert [without_wall_time(one.to_json()) for one in many] == [without_wall_time(one.to_json()) for one in alone]
    table = servecast.sweep({**runs[0], "num_workers": None}, {"num_workers": [1, 3]})
    assert table["runs"][1]["report"]["mean_ttft_ms"] == many[0].mean_ttft_ms


def test_a_report_is_shown_by_several_threads_at_once(rows: list[Row]) -> None:
    def slow(request: WaitingRequest) -> float:
        time.sleep(0.001)
        return request.prompt_tokens

    report = servecast.run_trace_replay(rows, priority=slow)
    with ThreadPoolExecutor(4) as pool:
        pages = list(pool.map(lambda _: report.to_html(), range(4)))
    assert len(set(pages)) == 1


def test_sessions_that_stay_are_not_asked_for() -> None:
    asked: list[int] = []

    def first(request: RoutedRequest, candidates: tuple[Candidate, ...]) -> int:
        asked.append(request.id)
        return 0

    load = Trace(
        [{"timestamp": n, "input_length": 100, "output_length": 2, "hash_ids": [n], "session_id": "s"} for n in (1, 2)]
    )
    servecast.run_trace_replay(load, num_workers=2, router=first, router_session_affinity_ttl_secs=60)
    assert asked == [0]


def test_ctrl_c_ends_a_replay_within_a_router() -> None:
    program = (
        "import servecast\n"
        "def router(request, candidates):\n"
        "    print('begin', flush=True) if request.id == 0 else None\n"
        "    return sum(range(1000)) % len(candidates)\n"
        "try:\n"
        "    servecast.run_synthetic_trace_replay(200, 20, 9_000_000, router=router, num_workers=2, progress=False)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begin\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        try:
            text, _ = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert text.splitlines()[-1] == "interrupted"
        assert time.monotonic() - began < 10
