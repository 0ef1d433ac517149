"""Which deployment keeps its targets."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple, Union

from servecast import _native
from servecast._columns import Columns, columns_of_rows
from servecast._config import plain
from servecast._errors import ConfigError
from servecast._executors import checked, evaluator, wants_no_function
from servecast._progress import Bar, bar_for
from servecast._replay import TraceLike, prepared, trace_of
from servecast._report import JsonMapping, table_as_html, with_notes
from servecast._results import RecommendationKeys

if TYPE_CHECKING:
    from servecast._settings import SearchSettings
    from typing_extensions import Unpack

__all__ = ["Recommendation", "SearchProgress", "Varied", "recommend"]

Varied = Union[Mapping[str, Union[str, Iterable[Any]]], Sequence[str], str]


class SearchProgress(NamedTuple):
    """How far a search is."""

    factor: float
    """Of the load."""
    runs: int
    """Runs that are over, those of other loads and iteration times included."""
    deployments: int
    """Deployments to look at."""
    kept: int
    """Deployments of the last step of the search that keep their targets."""
    best: str | None
    """One of the best so far, in a few words."""


class Recommendation(JsonMapping, RecommendationKeys):
    """Which deployments keep the targets: a mapping by the keys of ``servecast schema recommendation``.

    In print and in a notebook it is the table that the command line shows. Where no deployment keeps all targets,
    ``best`` is None, and ``nearest`` of a load has what comes nearest.
    """

    def __init__(self, answer: _native.Answer) -> None:
        self._answer = answer

    def to_json(self) -> str:
        """Return the answer as ``servecast recommend --format json`` prints it."""
        return self._answer.json()

    def to_csv(self) -> str:
        """Return the ranking as ``servecast recommend --csv`` writes it."""
        return self._answer.csv()

    @cached_property
    def notes(self) -> list[str]:
        """What there is to know of the search, in sentences: settings without effect, oddities of the trace."""
        return self._answer.notes()

    @property
    def best(self) -> dict[str, Any] | None:
        """The first deployment of the first load, if one keeps all targets."""
        ranking: list[dict[str, Any]] = self["loads"][0]["ranking"]
        return ranking[0] if ranking else None

    @property
    def start(self) -> str:
        """The command lines that start the best deployment for real; empty if there is none."""
        return self._answer.start()

    @cached_property
    def ranking(self) -> Columns:
        """The deployments that keep all targets, the best first: their settings, figures and costs as columns."""
        entries = [(load["factor"], place, entry) for load in self["loads"] for place, entry in _placed(load)]
        keys = dict.fromkeys(key for _, _, entry in entries for key in entry["settings"])
        return columns_of_rows([_row(factor, place, entry, list(keys)) for factor, place, entry in entries])

    def __repr__(self) -> str:
        return with_notes(self._answer.table(), self.notes)

    def _repr_html_(self) -> str:
        return table_as_html(self._answer.table(), self.notes)


def _placed(load: dict[str, Any]) -> Iterable[tuple[int, dict[str, Any]]]:
    return enumerate(load["ranking"], 1)


def _row(factor: float, place: int, entry: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    cost = entry.get("cost") or {}
    return {
        "load": factor,
        "rank": place,
        "deployment": entry["deployment"],
        "gpus": entry["gpus"],
        **{slo["objective"]: slo["value"] for slo in entry["figures"]["slo"]},
        "headroom": (entry.get("headroom") or {}).get("factor"),
        "cost_per_hour": cost.get("per_hour"),
        "cost_per_million_output_tokens": cost.get("per_million_output_tokens"),
        **{key: entry["settings"].get(key) for key in keys},
    }


def recommend(
    trace_file: TraceLike | None = None,
    *,
    slo: str | Sequence[str],
    objective: str | Sequence[str] | None = None,
    max_gpus: int | None = None,
    gpus: int | None = None,
    node_gpus: int | None = None,
    spare: int = 0,
    growth: float | Sequence[float] = (),
    gpu_hour: Mapping[str, float] | None = None,
    vary: Varied = (),
    resume: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    threads: int | None = None,
    progress: Callable[[SearchProgress], object] | bool | None = None,
    **settings: Unpack[SearchSettings],
) -> Recommendation:
    """Recommend the deployment that keeps its targets with the fewest GPUs, or at the lowest cost.

    The arguments are those of ``servecast recommend``: settings that are given are fixed, what is not given is tried.
    The answer is that of trying everything, and has the same bytes wherever it is computed.

    Args:
        trace_file: A path to a trace, a ``Trace``, or rows as dicts; without it, the load that ``input_tokens`` and so
            on describe.
        slo: The targets, such as ``"p95 ttft <= 1s"`` or ``"goodput >= 99% (ttft <= 2s, tpot <= 50ms)"``.
        objective: What is best: ``"gpus"``, ``"cost"``, ``"goodput_per_gpu"``, ``"latency"`` or ``"headroom"``; two of
            them for the deployments that no other one beats in both.
        max_gpus: GPUs up to which deployments are looked at, 64 if not given.
        gpus: GPUs of which the best is to be made.
        node_gpus: GPUs of a node, where whole nodes are taken.
        spare: Workers of each pool that stand by.
        growth: Factors of the load, a search for each.
        gpu_hour: What a GPU costs an hour, by its name.
        vary: Settings and the values to try, as ``{"num_workers": range(1, 9)}`` or ``["num_workers=1..8"]``; they
            take the place of what would be tried by itself.
        resume: A file that keeps what was tried, with which an interrupted search goes on.
        executor: Where deployments are simulated: any ``concurrent.futures.Executor``. Without it, threads of this
            process, outside the interpreter's lock.
        threads: Runs at a time without an executor, one for each core if not given.
        progress: Called when a run is over; what it raises ends the search. True is a line on standard error, False
            nothing; without it there is a line in terminals and notebooks.
        **settings: What deployments have in common: ``model``, ``gpu`` and any other key of a configuration file, as in
            ``run_trace_replay``.

    Raises:
        ConfigError: A setting or an argument cannot be used, or no deployment can be built.
        TraceError: The trace cannot be read or replayed.
        ReplayError: A worker of the executor was lost.
    """
    own = [name for name in inspect.signature(recommend).parameters if name != "settings"]
    for name in settings:
        similar = _native.similar_argument(name, own)
        if similar is not None:
            raise ConfigError(f"unknown argument `{name}`, did you mean `{similar}`?")
    pool = checked(executor, threads)
    targets = [slo] if isinstance(slo, str) else list(slo)
    trace: tuple[dict[str, Any], bytes | None] = ({}, None)
    if trace_file is not None:
        trace = trace_of(trace_file, settings)
    given = prepared(trace, {"slo": targets, **settings}, iterations=False)
    for name, function in zip(("router", "priority"), given[5]):
        if function is not None:
            raise ConfigError(f"`{name}` is a function, but a search looks at policies of servecast only")
    if pool is not None:
        wants_no_function(given)
    asked = {
        "objective": objective if objective is None or isinstance(objective, str) else ",".join(objective),
        "max_gpus": _whole("max_gpus", max_gpus),
        "gpus": _whole("gpus", gpus),
        "node_gpus": _whole("node_gpus", node_gpus),
        "spare": _whole("spare", spare),
        "growth": _numbers("growth", growth),
        "gpu_hour": [f"{gpu}={price!r}" for gpu, price in _prices(gpu_hour or {}).items()],
        "vary": varied("vary", vary),
        "threads": _whole("threads", threads),
        "resume": None if resume is None else os.fspath(resume),
    }
    with bar_for(progress, "runs") as bar:
        told = _Told(partial(_move, bar)) if bar is not None else _Told(progress) if callable(progress) else None
        answer = _native.recommend(given, json.dumps(asked), None if pool is None else evaluator(pool), told)
    return Recommendation(answer)


def _move(bar: Bar, reached: SearchProgress) -> None:
    best = f", best so far: {reached.best}" if reached.best else ""
    bar(reached.runs, None, f"{reached.deployments:,} deployments{best}")


class _Told:
    """Tells how far a search is, in a tuple with names."""

    def __init__(self, progress: Callable[[SearchProgress], object]) -> None:
        self._progress = progress

    def __call__(self, factor: float, runs: int, deployments: int, kept: int, best: str | None) -> None:
        self._progress(SearchProgress(factor, runs, deployments, kept, best))


def varied(name: str, given: Varied) -> list[str]:
    """Return settings and their values as ``--vary`` has them."""
    if isinstance(given, str):
        return [given]
    if not isinstance(given, Mapping):
        return list(given)
    texts = []
    for key, values in given.items():
        if not isinstance(values, str):
            if not isinstance(values, Iterable):
                raise ConfigError(f"`{name}` gives `{key}` {values!r}, but must give it a list of values")
            values = ",".join(_value(name, key, value) for value in values)
        texts.append(f"{key}={values}")
    return texts


def _value(name: str, key: str, value: Any) -> str:
    """Return a value as it is written between commas: text by itself where nothing in it means something else."""
    if isinstance(value, str) and value.strip() == value and value and not set(value) & set(',"{}[]'):
        return value
    try:
        return json.dumps(value, default=plain, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"`{name}`: `{key}`: {error}") from None


def _whole(name: str, value: int | None) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**32):
        raise ConfigError(f"`{name}` is {value!r}, but must be a whole number of at least 0")
    return value


def _numbers(name: str, values: float | Sequence[float]) -> list[float]:
    values = [values] if isinstance(values, (int, float)) else list(values)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            raise ConfigError(f"`{name}` is {value!r}, but must be a factor of the load above 0")
    return [float(value) for value in values]


def _prices(prices: Mapping[str, float]) -> dict[str, float]:
    for gpu, price in prices.items():
        if isinstance(price, bool) or not isinstance(price, (int, float)) or not 0 < price < float("inf"):
            raise ConfigError(f"`gpu_hour` gives {gpu} the price {price!r}, but must give it a number above 0")
    return {gpu: float(price) for gpu, price in prices.items()}
