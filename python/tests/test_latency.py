"""A Python function as latency model."""

from __future__ import annotations

import copy
import json
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import servecast
from conftest import Row, without_wall_time
from servecast import Batch, ConfigError, EngineArgs


def linear(batch: Batch) -> float:
    """Return what `linear:1000,0.5,5` costs."""
    return (1000 + 0.5 * batch.tokens + 5 * batch.requests) / 1000


def slow(batch: Batch) -> float:
    """Return ten times that."""
    return 10 * linear(batch)


def results(report: servecast.Report) -> str:
    """A report without what says where its times come from."""
    outcome = json.loads(without_wall_time(report.to_json()))
    own = ("settings", "latency_source", "latency_error")
    return json.dumps({key: value for key, value in outcome.items() if key not in own})


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_workers": 2},
        {"num_workers": 2, "router_mode": "kv_router", "engine": "sglang"},
        {"num_prefill_workers": 1, "num_decode_workers": 2},
    ],
)
def test_a_function_gives_the_bytes_of_the_model_that_it_computes(trace: Path, arguments: dict[str, Any]) -> None:
    named = servecast.run_trace_replay(trace, latency="linear:1000,0.5,5", **arguments)
    ours = servecast.run_trace_replay(trace, latency=linear, **arguments)
    assert results(ours) == results(named)
    assert ours["latency_source"] == "a function of the program that ran it"


def test_each_pool_may_have_a_function_of_its_own(rows: list[Row]) -> None:
    def both(prefill: Any, decode: Any) -> str:
        report = servecast.run_trace_replay(rows, prefill_engine_args=prefill, decode_engine_args=decode)
        return results(report)

    slow_prefill = both({"latency": "linear:10000,5,50"}, {"latency": "linear:1000,0.5,5"})
    assert both(EngineArgs(latency=slow), {"latency": linear}) == slow_prefill
    assert both(EngineArgs(latency=linear), EngineArgs(latency=slow)) != slow_prefill


def test_a_batch_says_what_is_computed(rows: list[Row]) -> None:
    seen: list[Batch] = []

    def note(batch: Batch) -> float:
        seen.append(batch)
        return 1.0

    report = servecast.run_trace_replay(rows[:1], latency=note, extra_engine_args={"num_gpu_blocks": 100})
    prompt, *decodes = seen
    assert (prompt.requests, prompt.tokens, prompt.prompt_requests, prompt.prompt_tokens) == (1, 1500, 1, 1500)
    assert (prompt.prompt_start_tokens, prompt.attention_pairs) == (0, 1500 * 1501 // 2)
    assert prompt.kv_capacity_tokens == 6400
    assert [batch.decode_requests for batch in decodes] == [1] * (report.total_output_tokens - 1)
    assert [batch.decode_context_tokens for batch in decodes[:2]] == [1501, 1502]
    assert repr(prompt).startswith("Batch(requests=1, tokens=1500, ")
    with pytest.raises(AttributeError):
        prompt.tokens = 3  # type: ignore[misc]


def test_what_a_function_raises_ends_the_replay(rows: list[Row]) -> None:
    def broken(batch: Batch) -> float:
        raise LookupError(batch.tokens)

    with pytest.raises(LookupError, match="1500"):
        servecast.run_trace_replay(rows, latency=broken)
    with pytest.raises(LookupError, match="1500"):
        servecast.replay_many([{"trace_file": rows}, {"trace_file": rows, "latency": broken}])
    with pytest.raises(TypeError):
        servecast.run_trace_replay(rows, latency=lambda: 1.0)  # type: ignore[arg-type, misc]


@pytest.mark.parametrize("answer", [-1.0, float("nan"), float("inf"), "3", None])
def test_what_is_no_time_is_refused(rows: list[Row], answer: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        servecast.run_trace_replay(rows, latency=lambda batch: answer)
    message = str(caught.value)
    assert message.startswith(f"`latency` returned {answer!r} for Batch(requests=1, tokens=1500, ")
    assert message.endswith("must return milliseconds: a finite number of at least 0")


def test_numbers_of_other_kinds_are_times(rows: list[Row]) -> None:
    numpy = pytest.importorskip("numpy")
    expected = servecast.run_trace_replay(rows, latency=lambda batch: 2.0).duration_ms
    for answer in (2, numpy.float64(2), numpy.int32(2), numpy.array(2.0)):

        def constant(batch: Batch, answer: Any = answer) -> Any:
            return answer

        assert servecast.run_trace_replay(rows, latency=constant).duration_ms == expected


def test_several_runs_have_their_own_functions(rows: list[Row]) -> None:
    runs: list[dict[str, Any]] = [{"trace_file": rows, "latency": latency} for latency in (linear, slow, linear)]
    many = servecast.replay_many(runs, threads=3)
    alone = [servecast.run_trace_replay(**run) for run in runs]
    assert [without_wall_time(one.to_json()) for one in many] == [without_wall_time(one.to_json()) for one in alone]
    assert many[0]["mean_ttft_ms"] < many[1]["mean_ttft_ms"]


def test_settings_hold_a_function() -> None:
    args = EngineArgs(block_size=16, latency=linear)
    for same in (args.copy(), copy.copy(args), pickle.loads(pickle.dumps(args)), EngineArgs(**args.to_dict())):
        assert same == args and hash(same) == hash(args) and same.latency is linear
    assert args != EngineArgs(block_size=16, latency=slow) and args != EngineArgs(block_size=16)
    assert args.copy(latency=None) == EngineArgs(block_size=16)
    assert args.to_dict(defaults=True)["latency"] is linear
    with pytest.raises(ConfigError, match="EngineArgs: `latency` is a function, which has no JSON value"):
        args.to_json()
    with pytest.raises(ConfigError, match="both name a latency model"):
        EngineArgs(latency=linear, planner_profile_data="h100.npz")
    with pytest.raises(ConfigError, match="no JSON value"):
        EngineArgs(max_num_seqs=linear)


def test_a_name_alone_is_no_function(rows: list[Row]) -> None:
    with pytest.raises(ConfigError, match="`latency` is `callable:mine`, but no latency model of that name"):
        servecast.run_trace_replay(rows, latency="callable:mine")


def test_ctrl_c_ends_a_replay_within_a_function() -> None:
    program = (
        "import servecast, time\n"
        "def price(batch):\n"
        "    print('begin', flush=True) if batch.prompt_requests else None\n"
        "    return 1 + len(range(1000)) * 0.001\n"
        "try:\n"
        "    long = {'max_model_len': 999999, 'num_gpu_blocks': 999999, 'max_num_seqs': 1}\n"
        "    servecast.run_synthetic_trace_replay(2000, 900000, 20, latency=price, extra_engine_args=long)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begin\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        try:
            text, _ = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert text.splitlines()[-1] == "interrupted"
        assert time.monotonic() - began < 5
