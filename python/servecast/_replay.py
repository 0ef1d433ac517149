"""Replays of traces and of synthetic workloads."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Union

from servecast import _native
from servecast._config import EngineArgs, KvRouterConfig, plain
from servecast._errors import ConfigError
from servecast._parquet import is_parquet, parquet_text
from servecast._progress import Bar, bar_for
from servecast._report import Report
from servecast._trace import Trace, text_of

if TYPE_CHECKING:
    from servecast._settings import SyntheticSettings, TraceSettings
    from typing_extensions import Unpack

__all__ = ["Prepared", "Progress", "replay_many", "run_synthetic_trace_replay", "run_trace_replay"]

TraceLike = Union[Trace, str, "os.PathLike[str]", Iterable[Mapping[str, Any]]]
EngineSettings = Union[EngineArgs, Mapping[str, Any], str]
RouterSettings = Union[KvRouterConfig, Mapping[str, Any], str]
TimeUnit = Literal["s", "ms", "us", "ns"]
RouterMode = Literal["round_robin", "random", "least_loaded", "power_of_two", "prefix_hash", "kv_router"]


class Progress(NamedTuple):
    """How far a replay is."""

    now_ms: float
    """Simulated time."""
    ended: int
    """Requests that are completed or rejected."""
    requests: int
    """All requests."""


ProgressCallback = Callable[[Progress], object]
LatencyFunction = Callable[[_native.Batch], float]
RouterFunction = Callable[[_native.RoutedRequest, "tuple[_native.Candidate, ...]"], Union[_native.Candidate, int]]
PriorityFunction = Callable[[_native.WaitingRequest], float]
RouterGiven = Union[RouterFunction, Callable[[], RouterFunction]]
PriorityGiven = Union[PriorityFunction, Callable[[], PriorityFunction]]
Prepared = tuple[
    str,
    Union[bytes, None],
    bool,
    "list[LatencyFunction]",
    str,
    "tuple[RouterGiven | None, PriorityGiven | None]",
]
"""A run as the native half takes it."""


def run_trace_replay(
    trace_file: TraceLike,
    *,
    extra_engine_args: EngineSettings | None = None,
    prefill_engine_args: EngineSettings | None = None,
    decode_engine_args: EngineSettings | None = None,
    router_config: RouterSettings | None = None,
    aic_perf_config: None = None,
    num_workers: int | None = None,
    num_prefill_workers: int | None = None,
    num_decode_workers: int | None = None,
    replay_concurrency: int | None = None,
    replay_mode: Literal["offline", "online"] = "offline",
    router_mode: RouterMode = "round_robin",
    arrival_speedup_ratio: float = 1.0,
    trace_block_size: int | None = None,
    time_unit: TimeUnit | None = None,
    columns: str | None = None,
    turns: Literal["whole", "delta"] | None = None,
    latency: str | LatencyFunction | None = None,
    router: RouterGiven | None = None,
    priority: PriorityGiven | None = None,
    iterations: bool = False,
    progress: ProgressCallback | bool | None = None,
    **settings: Unpack[TraceSettings],
) -> Report:
    """Replay a trace.

    Args:
        trace_file: A path to a trace (``docs/traces.md``; plain, gzip or Zstandard; Parquet if PyArrow or Polars is
            installed), a ``Trace``, or the rows themselves as dicts.
        extra_engine_args: The engine of aggregated workers.
        prefill_engine_args: The engine of prefill workers. Engine settings or counts of prefill and decode workers,
            which come in pairs, make the deployment disaggregated.
        decode_engine_args: The engine of decode workers.
        router_config: Settings of the KV-aware router.
        aic_perf_config: Not there: ``latency`` names a latency model.
        num_workers: Aggregated workers, 1 if not given.
        num_prefill_workers: Prefill workers; with ``num_decode_workers`` or, for 1 of each, neither.
        num_decode_workers: Decode workers.
        replay_concurrency: Sessions at a time, in place of the arrival times of the trace.
        replay_mode: Virtual time, or ``"online"``: the clock of the machine, ``speed`` times as fast.
        router_mode: How requests are spread over the workers of a pool.
        arrival_speedup_ratio: By how much faster than in the trace requests arrive.
        trace_block_size: Prompt tokens that a hash id stands for, 512 if not given (16 in rows with ``chat_id`` and
            ``parent_chat_id``).
        time_unit: Unit of timestamps and of ``delay``. Without it they are milliseconds (``arrival_time_ns``
            nanoseconds), unless they are beyond doubt in another unit, which a note says.
        columns: Columns of a table of requests, as ``"time=arrived,input=prompt_tokens,output=completion_tokens"``.
            Tables of Azure, BurstGPT, Vidur, BLIS and ServeGen need none.
        turns: What the rows of a session hold: ``"whole"`` prompts, or ``"delta"``, what is new in each turn. Without
            it what the form of the trace says, or whole prompts.
        latency: How long iterations take: a latency model by its name, or a function from a ``Batch`` to milliseconds,
            which is called for each iteration and has to answer equal batches alike. ``EngineArgs`` may have one for
            its pool alone.
        router: Which worker gets a request, in place of ``router_mode``: a function of a ``RoutedRequest`` and a tuple
            of ``Candidate``, in order of their numbers, that returns one of these or its number. A class is called for
            such a function for each pool of each run.
        priority: In which order requests wait on their workers: a function from a ``WaitingRequest`` to a number, the
            lowest of which goes first, called once for each stage of a request when it is sent to its worker. Or a
            class, which is called for one for each run.
        iterations: Keep a row an iteration, for ``Report.iterations``.
        progress: Called every 50 ms or so; what it raises ends the replay. True is a bar on standard error, False
            nothing; without it there is a bar in terminals and notebooks.
        **settings: Any other key of a configuration file, such as ``seed``, ``engine``, ``max_num_seqs`` or
            ``sla_ttft_ms``.

    Raises:
        ConfigError: A setting cannot be used, or some do not go together.
        TraceError: The trace cannot be read or replayed.
        ReplayError: The run cannot go on.
    """
    given = _given(run_trace_replay, locals())
    return _run(trace_of(given.pop("trace_file"), given), given, iterations, progress)


def run_synthetic_trace_replay(
    input_tokens: int,
    output_tokens: int,
    request_count: int,
    *,
    extra_engine_args: EngineSettings | None = None,
    prefill_engine_args: EngineSettings | None = None,
    decode_engine_args: EngineSettings | None = None,
    router_config: RouterSettings | None = None,
    aic_perf_config: None = None,
    num_workers: int | None = None,
    num_prefill_workers: int | None = None,
    num_decode_workers: int | None = None,
    replay_concurrency: int | None = None,
    replay_mode: Literal["offline", "online"] = "offline",
    router_mode: RouterMode = "round_robin",
    arrival_speedup_ratio: float = 1.0,
    arrival_interval_ms: float = 1.0,
    turns_per_session: int = 1,
    shared_prefix_ratio: float = 0.0,
    num_prefix_groups: int = 0,
    inter_turn_delay_ms: float = 0.0,
    latency: str | LatencyFunction | None = None,
    router: RouterGiven | None = None,
    priority: PriorityGiven | None = None,
    iterations: bool = False,
    progress: ProgressCallback | bool | None = None,
    **settings: Unpack[SyntheticSettings],
) -> Report:
    """Replay a synthetic workload.

    Args:
        input_tokens: Prompt length, the mean if ``length_distribution`` is given.
        output_tokens: Output length, likewise.
        request_count: Requests; sessions, if they have several turns.
        arrival_interval_ms: Time between arrivals, the mean if ``arrival_process`` is ``"poisson"``.
        turns_per_session: Requests of a session, each sent after the one before it completes.
        shared_prefix_ratio: Share of the blocks of a prompt that its prefix group has in common.
        num_prefix_groups: Number of prefix groups; a session joins one at random.
        inter_turn_delay_ms: Pause between a turn and the next of its session.
        extra_engine_args: This and everything below is as in ``run_trace_replay``.
        prefill_engine_args: The engine of prefill workers.
        decode_engine_args: The engine of decode workers.
        router_config: Settings of the KV-aware router.
        aic_perf_config: Not there: ``latency`` names a latency model.
        num_workers: Aggregated workers.
        num_prefill_workers: Prefill workers.
        num_decode_workers: Decode workers.
        replay_concurrency: Sessions at a time, in place of arrival times.
        replay_mode: Virtual time, or ``"online"``: the clock of the machine, ``speed`` times as fast.
        router_mode: How requests are spread over the workers of a pool.
        arrival_speedup_ratio: By how much faster requests arrive.
        latency: How long iterations take: the name of a latency model, or a function.
        router: Which worker gets a request: a function, or a class of them.
        priority: In which order requests wait on their workers: a function, or a class of them.
        iterations: Keep a row an iteration.
        progress: Called every 50 ms or so, or whether there is a bar.
        **settings: Any other key of a configuration file.

    Raises:
        ConfigError: A setting cannot be used, or some do not go together.
        ReplayError: The run cannot go on.
    """
    given = _given(run_synthetic_trace_replay, locals())
    return _run(({}, None), given, iterations, progress)


def replay_many(
    runs: Iterable[Mapping[str, Any]],
    *,
    threads: int | None = None,
    progress: Callable[[int, int], object] | bool | None = None,
) -> list[Report]:
    """Run several replays at once, and return their reports in order.

    Args:
        runs: The arguments of each, by name: those of ``run_trace_replay`` if there is a ``trace_file``, otherwise
            those of ``run_synthetic_trace_replay``.
        threads: Most runs at a time; without it, one for each core.
        progress: Called with how many are done and how many there are. True is a bar on standard error, False nothing;
            without it there is a bar in terminals and notebooks.

    Raises:
        ConfigError, TraceError, ReplayError: Of the first run in the list that is refused, with its place.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"`threads` is {threads}, but must be at least 1")
    ready = []
    for run in runs:
        if "progress" in run:
            raise ConfigError("`progress` is an argument of replay_many, not of one of its runs")
        ready.append(arguments_of(run))
    with bar_for(progress, "runs") as bar:
        told = bar or (progress if callable(progress) else None)
        outcomes = _native.run_many(ready, threads or os.cpu_count() or 1, told)
    return [Report(outcome) for outcome in outcomes]


def arguments_of(run: Mapping[str, Any]) -> Prepared:
    """Return a run, given by the arguments of one of the functions above, as the native half takes it."""
    function = run_trace_replay if "trace_file" in run else run_synthetic_trace_replay
    bound = inspect.signature(function).bind(**run)
    given = _given(function, bound.arguments)
    trace = trace_of(given.pop("trace_file"), given) if "trace_file" in given else ({}, None)
    return prepared(trace, given, bool(run.get("iterations", False)))


def _given(function: Callable[..., Report], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings among the arguments that are no defaults."""
    parameters = inspect.signature(function).parameters
    given = {
        name: arguments[name]
        for name, parameter in parameters.items()
        if name not in ("iterations", "progress", "settings")
        and name in arguments
        and arguments[name] is not None
        and not _is_same(arguments[name], parameter.default)
    }
    if "aic_perf_config" in given:
        raise ConfigError(
            "`aic_perf_config` is not there yet", "latency chooses among the latency models that there are"
        )
    return {**given, **arguments.get("settings", {})}


def _is_same(value: object, default: object) -> bool:
    return type(value) is type(default) and value == default


def trace_of(trace: TraceLike, given: Mapping[str, Any]) -> tuple[dict[str, Any], bytes | None]:
    """Return a trace as a setting, or as the text of its rows."""
    if isinstance(trace, Trace):
        # Another size may be given beside it, and is refused if it does not fit.
        size = trace.block_size if given.get("trace_block_size") is None else None
        return {} if size is None else {"trace_block_size": size}, trace.to_jsonl()
    if isinstance(trace, (str, os.PathLike)):
        path = os.fspath(trace)
        if is_parquet(path):
            return {}, parquet_text(path, given.get("columns") is not None)
        return {"trace_file": path}, None
    return {}, text_of(trace)


def prepared(trace: tuple[dict[str, Any], bytes | None], given: dict[str, Any], iterations: bool) -> Prepared:
    named, text = trace
    given = dict(given)
    router, priority = (_callable(name, given.pop(name, None)) for name in ("router", "priority"))
    functions: list[LatencyFunction] = []
    members = []
    for key, value in {**named, **_with_names(given, functions)}.items():
        try:
            members.append(f"{json.dumps(key)}: {json.dumps(value, default=plain, allow_nan=False)}")
        except (TypeError, ValueError) as error:
            raise ConfigError(f"`{key}`: {error}") from None
    return f"{{{', '.join(members)}}}", text, iterations, functions, "[]", (router, priority)


def _callable(name: str, value: Any) -> Any:
    if value is not None and not callable(value):
        hint = "router_mode names a policy that there is" if name == "router" else None
        raise ConfigError(f"`{name}` is {value!r}, but must be a function", hint)
    return value


def _with_names(given: dict[str, Any], functions: list[LatencyFunction]) -> dict[str, Any]:
    """Return settings with names in place of latency functions, which go to ``functions``."""

    def named(settings: Mapping[str, Any]) -> dict[str, Any]:
        latency = settings.get("latency")
        if not callable(latency):
            return dict(settings)
        functions.append(latency)
        return {**settings, "latency": f"callable:{len(functions) - 1}"}

    def engines(settings: Mapping[str, Any]) -> dict[str, Any]:
        settings = dict(settings)
        for key in ("extra_engine_args", "engine_args", "prefill_engine_args", "decode_engine_args"):
            engine = settings.get(key)
            if isinstance(engine, EngineArgs):
                settings[key] = named(engine.to_dict())
            elif isinstance(engine, Mapping):
                settings[key] = named(engine)
        for key in ("pool", "group"):
            if isinstance(tables := settings.get(key), (list, tuple)):
                settings[key] = [engines(table) if isinstance(table, Mapping) else table for table in tables]
        return settings

    return engines(named(given))


def _run(
    trace: tuple[dict[str, Any], bytes | None],
    given: dict[str, Any],
    iterations: bool,
    progress: ProgressCallback | bool | None,
) -> Report:
    ready = prepared(trace, given, iterations)
    with bar_for(progress, "requests") as bar:
        if bar is not None:
            told: Callable[[float, int, int], object] | None = partial(_move, bar)
        else:
            told = partial(_tell, progress) if callable(progress) else None
        return Report(_native.run(ready, told))


def _move(bar: Bar, now_ms: float, ended: int, requests: int) -> None:
    bar(ended, requests, f"{now_ms / 1000:,.0f} s simulated")


def _tell(progress: ProgressCallback, now_ms: float, ended: int, requests: int) -> None:
    progress(Progress(now_ms, ended, requests))
