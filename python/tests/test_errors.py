"""What is refused, with which exception and in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import servecast
from conftest import Row
from servecast import (
    ConfigError,
    EngineArgs,
    KvRouterConfig,
    ReplayError,
    RouterConfigOverride,
    ServecastError,
    TraceError,
)

LLAMA = {"model": "meta-llama/Llama-3.1-70B", "gpu": "H100-SXM"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_worker": 3}, "unknown key `num_worker`, did you mean `num_workers`?"),
        ({"num_workers": 0}, "`num_workers`"),
        ({"num_workers": -1}, "`num_workers`"),
        ({"num_workers": "two"}, "`num_workers`"),
        ({"num_workers": 1.5}, "`num_workers`"),
        ({"num_workers": 2, "num_prefill_workers": 1}, "`num_workers` and `num_prefill_workers` cannot be combined"),
        ({"num_prefill_workers": 2}, "`num_prefill_workers` is given without `num_decode_workers`"),
        ({"num_decode_workers": 2}, "`num_decode_workers` is given without `num_prefill_workers`"),
        ({"time_unit": "min"}, "`time_unit`"),
        ({"turns": "new"}, "`turns`"),
        ({"num_workers": 1, "num_decode_workers": 1}, "`num_workers` and `num_decode_workers` cannot be combined"),
        ({"prefill_engine_args": EngineArgs()}, "`prefill_engine_args` is given without `decode_engine_args`"),
        ({"decode_engine_args": {}}, "`decode_engine_args` is given without `prefill_engine_args`"),
        (
            {"extra_engine_args": {}, "num_prefill_workers": 2},
            "`engine_args` and `num_prefill_workers` cannot be combined",
        ),
        ({"extra_engine_args": {"block_siz": 3}}, "did you mean `block_size`?"),
        ({"extra_engine_args": {"block_size": "x"}}, "`block_size`"),
        ({"extra_engine_args": []}, "`engine_args` is [], but must be an object"),
        ({"extra_engine_args": "[]"}, "expected a JSON object"),
        ({"extra_engine_args": object()}, "has no JSON value"),
        ({**LLAMA, "tensor_parallel_size": 4, "dtype": "nvfp4"}, "`dtype` is nvfp4: H100-SXM has no matrices"),
        ({**LLAMA, "tensor_parallel_size": 3}, "`tensor_parallel_size` is 3: meta-llama/Llama-3.1-70B: 3 GPUs"),
        ({**LLAMA, "tensor_parallel_size": 16}, "8 of them are connected by nvlink4"),
        ({**LLAMA, "expert_parallel_size": 2}, "`expert_parallel_size` is 2: "),
        ({**LLAMA, "engine_version": "newest"}, "`engine_version` is newest: expected numbers"),
        ({"model": "nobody/Nothing-7B", "gpu": "H200"}, "the shape of the model `nobody/Nothing-7B` is not known"),
        ({"model": "meta-llama/Llama-3.1-8B"}, "`gpu` is missing"),
        ({"latency": "auto"}, "is missing: times of a model on GPUs follow from"),
        ({**LLAMA, "latency": "ops:pack=nowhere.ops"}, "cannot read `nowhere.ops`"),
        ({"cudagraph_capture_sizes": [8, 0]}, "`cudagraph_capture_sizes` is [8, 0]: expected batches of 1 to 65536"),
        ({"cudagraph_capture_sizes": 8}, "`cudagraph_capture_sizes` is 8, but must be a list"),
        (
            {"extra_engine_args": {"engine_type": "trtllm", "trtllm": {"cuda_graph_config": {"padding": True}}}},
            "cuda_graph_config",
        ),
        ({"router_mode": "magic"}, "`router_mode`"),
        ({"router_mode": "kv_router", "router_config": {"router_temperature": -1}}, "`router_temperature` is -1"),
        ({"replay_mode": "live"}, "`replay_mode`"),
        ({"replay_mode": "online", "speed": 0.0}, "`speed` is 0, but must be above 0"),
        ({"speed": 2.0}, "`speed` is for an online replay"),
        ({"max_requests": 0}, "`max_requests` is 0"),
        ({"replay_concurrency": 0}, "`replay_concurrency`"),
        ({"replay_concurrency": 2, "arrival_speedup_ratio": 2.0}, "which has no arrival times"),
        ({"arrival_speedup_ratio": 0.0}, "`arrival_speedup_ratio`"),
        ({"arrival_speedup_ratio": float("nan")}, "`arrival_speedup_ratio`: Out of range float"),
        ({"trace_block_size": 0}, "`trace_block_size`"),
        ({"aic_perf_config": {}}, "`aic_perf_config` is not there yet"),
        ({"aic_backend": "vllm"}, "unknown key `aic_backend`: not there yet"),
        ({"input_tokens": 5}, "`trace_file` and `input_tokens` cannot be combined"),
        ({"report_json": "x.json"}, "`report_json` is for the command line only"),
        ({"vary": ["num_workers=1,2"]}, "`vary` is for the command line only"),
        ({"engine_args": {}, "extra_engine_args": {"block_size": 8}}, "is given by two names"),
    ],
)
def test_settings_that_cannot_be_used(rows: list[Row], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        servecast.run_trace_replay(rows, **arguments)
    assert message in str(caught.value)
    assert "--" not in str(caught.value), "messages name arguments, not flags"


def test_an_argument_that_is_missing_is_pythons_own_error() -> None:
    with pytest.raises(TypeError):
        servecast.run_synthetic_trace_replay(3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("sizes", "name"), [((0, 5, 5), "input_tokens"), ((5, 0, 5), "output_tokens"), ((5, 5, 0), "request_count")]
)
def test_a_synthetic_workload_of_nothing(sizes: tuple[int, int, int], name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        servecast.run_synthetic_trace_replay(*sizes)


def test_traces_that_cannot_be_replayed(tmp_path: Path, rows: list[Row]) -> None:
    def refused(trace: Any, **arguments: Any) -> str:
        with pytest.raises(TraceError) as caught:
            servecast.run_trace_replay(trace, **arguments)
        return str(caught.value)

    assert "nowhere.jsonl" in refused(tmp_path / "nowhere.jsonl")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [1]}\n{"time\n')
    assert "line 2" in refused(bad)
    assert refused([3]) == "trace: row 1 is a int, but must be a dict"
    assert "row 2" in refused([rows[0], {"timestamp": object()}])
    assert "line 1: `timestamp`" in refused([{**rows[0], "timestamp": "soon"}])
    assert "trace: line 1" in refused([{"input_length": 5}])
    message = refused(rows, trace_block_size=16)
    assert "hint: trace_block_size says how many tokens a hash id stands for" in message
    assert refused([])


def test_exceptions_have_a_message_and_a_hint(rows: list[Row]) -> None:
    with pytest.raises(TraceError) as caught:
        servecast.run_trace_replay(rows, trace_block_size=16)
    error = caught.value
    assert error.hint and str(error) == f"{error.message}\nhint: {error.hint}"
    assert issubclass(ConfigError, ValueError) and issubclass(TraceError, ValueError)
    assert issubclass(ReplayError, RuntimeError)
    assert all(issubclass(one, ServecastError) for one in (ConfigError, TraceError, ReplayError))


def test_one_refused_run_among_many_is_told_by_its_place(rows: list[Row]) -> None:
    with pytest.raises(ConfigError, match="^run 1: `num_workers`"):
        servecast.replay_many([{"trace_file": rows}, {"trace_file": rows, "num_workers": 0}])
    for threads in (0, -2):
        with pytest.raises(ConfigError, match="`threads`"):
            servecast.replay_many([], threads=threads)
    with pytest.raises(ConfigError, match="`progress`"):
        servecast.replay_many([{"trace_file": rows, "progress": print}])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EngineArgs(block_siz=3), "did you mean `block_size`?"),  # type: ignore[call-arg]
        (lambda: EngineArgs(num_gpu_blocks=0), "`num_gpu_blocks`"),
        (lambda: EngineArgs(speedup_ratio=-1.0), "`speedup_ratio`"),
        (lambda: EngineArgs(engine_type="tgi"), "`engine_type`"),  # type: ignore[arg-type]
        (lambda: EngineArgs(is_prefill=True, worker_type="decode"), "`worker_type`"),
        (lambda: EngineArgs.from_json("[]"), "object"),
        (lambda: EngineArgs.from_json("null"), "object"),
        (lambda: EngineArgs.from_json("{"), "EngineArgs: no JSON object"),
        (lambda: EngineArgs(engine_type="sglang", block_size=16, sglang={"page_size": 8}), "page_size"),
        (lambda: KvRouterConfig(router_temperatur=1), "did you mean `router_temperature`?"),  # type: ignore[call-arg]
        (lambda: KvRouterConfig(overlap_score_weight=-1.0), "`overlap_score_weight` is -1"),
        (lambda: KvRouterConfig(durable_kv_events=True, use_kv_events=False), "needs `use_kv_events`"),
        (lambda: KvRouterConfig.from_json("[]"), "expected a JSON object"),
        (lambda: RouterConfigOverride(router_temperature=-1.0), "`router_temperature` is -1"),
        (lambda: RouterConfigOverride(track_prefill_token=True), "did you mean"),  # type: ignore[call-arg]
    ],
)
def test_settings_are_checked_where_they_are_made(make: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert message in str(caught.value)


def test_a_value_is_shown_as_it_was_given(rows: list[Row]) -> None:
    with pytest.raises(ConfigError) as caught:
        servecast.run_trace_replay(rows, latency="--num-workers")
    assert str(caught.value).startswith("`latency` is `--num-workers`: expected auto")


def test_notes_name_arguments(rows: list[Row]) -> None:
    report = servecast.run_trace_replay(rows, engine_args={"router_queue_policy": "fcfs"})
    assert any("needs router_mode kv_router" in note for note in report.notes)
