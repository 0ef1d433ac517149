"""Several runs beside each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from functools import cached_property
from typing import Any

from servecast import _native
from servecast._columns import Columns, columns_of_rows
from servecast._errors import ConfigError
from servecast._executors import checked, results, run, wants_no_function
from servecast._progress import bar_for
from servecast._recommend import Varied, varied
from servecast._replay import arguments_of
from servecast._report import JsonMapping, table_as_html, with_notes
from servecast._results import ComparisonKeys

__all__ = ["Sweep", "sweep"]


class Sweep(JsonMapping, ComparisonKeys):
    """Runs that differ in some settings: a mapping by the keys of ``servecast schema comparison``.

    In print and in a notebook it is the table that the command line shows.
    """

    notes: list[str]
    """What there is to know of the runs, in sentences, each once: settings without effect, oddities of the trace."""

    def __init__(self, compared: _native.Compared, notes: list[str]) -> None:
        self._compared = compared
        self.notes = notes

    def to_json(self) -> str:
        """Return the runs as ``servecast replay --vary --format json`` prints them."""
        return self._compared.json()

    @cached_property
    def rows(self) -> Columns:
        """The runs as columns: the settings in which they differ, then every figure of a report that is a number."""
        return columns_of_rows(list(_filled([{**run["settings"], **_figures(run["report"])} for run in self["runs"]])))

    def to_pandas(self) -> Any:
        """Return the runs as a data frame of pandas, which has to be installed."""
        return self.rows.to_pandas()

    def to_polars(self) -> Any:
        """Return the runs as a data frame of Polars, which has to be installed."""
        return self.rows.to_polars()

    def __repr__(self) -> str:
        return with_notes(self._compared.table(), self.notes)

    def _repr_html_(self) -> str:
        return table_as_html(self._compared.table(), self.notes)


def _figures(report: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in report.items() if value is None or isinstance(value, (int, float))}


def _filled(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Give each row all columns: deployments of two kinds have settings of their own."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return ({key: row.get(key) for key in keys} for row in rows)


def sweep(
    base: Mapping[str, Any],
    over: Varied,
    *,
    executor: Executor | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], object] | bool | None = None,
) -> Sweep:
    """Run all combinations of some settings, and return a table of what came of them.

    Args:
        base: The arguments that all runs have in common: those of ``run_trace_replay`` if there is a ``trace_file``,
            otherwise those of ``run_synthetic_trace_replay``.
        over: Settings and the values of each, as ``{"num_workers": [1, 2], "router_mode": ["random", "kv_router"]}``.
            The last one changes fastest. A setting of an engine or of the router is within another, as
            ``"engine_args.max_num_seqs"``.
        executor: Where the runs are: any ``concurrent.futures.Executor``. Without it, threads of this process, outside
            the interpreter's lock.
        threads: Most runs at a time without an executor, one for each core if not given.
        progress: Called with how many are done and how many there are; what it raises ends the runs. True is a bar on
            standard error, False nothing; without it there is a bar in terminals and notebooks.

    Raises:
        ConfigError, TraceError, ReplayError: Of the first run that is refused, with its settings.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"`threads` is {threads}, but must be at least 1")
    pool = checked(executor, threads)
    for name in ("iterations", "progress"):
        if name in base:
            raise ConfigError(f"`{name}` is of one run, but a sweep makes several")
    given = arguments_of(base)
    differences = _native.differences(varied("over", over))
    with bar_for(progress, "runs") as bar:
        told = bar or (progress if callable(progress) else None)
        if pool is None:
            runs = [(*given[:4], difference, given[5]) for difference in differences]
            outcomes = _native.run_many(runs, threads or os.cpu_count() or 1, told)
            ended = [(outcome.report_json(), outcome.notes()) for outcome in outcomes]
        else:
            wants_no_function(given)
            ended = _on(pool, given[0], given[1], differences, told)
    notes = dict.fromkeys(note for _, notes in ended for note in notes)
    return Sweep(_native.Compared(differences, [report for report, _ in ended]), list(notes))


def _on(
    executor: Executor,
    settings: str,
    trace: bytes | None,
    differences: list[str],
    progress: Callable[[int, int], object] | None,
) -> list[tuple[str, list[str]]]:
    ended: dict[int, tuple[str, list[str]]] = {}
    tasks = [(settings, trace, difference) for difference in differences]
    for place, result in results(executor, run, tasks, lambda place: differences[place]):
        ended[place] = result
        if progress is not None:
            progress(len(ended), len(differences))
    return [ended[place] for place in range(len(differences))]
