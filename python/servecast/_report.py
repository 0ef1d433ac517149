"""What came of a replay."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from servecast import _native
from servecast._columns import Columns, columns_of
from servecast._errors import ConfigError
from servecast._results import ReportKeys

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

__all__ = ["JsonMapping", "Report", "table_as_html", "with_notes"]


class JsonMapping(Mapping[str, Any]):
    """A result as a mapping by the keys of its JSON, which are attributes too."""

    def to_json(self) -> str:
        """Return the result as the command line writes it."""
        raise NotImplementedError

    @cached_property
    def _values(self) -> dict[str, Any]:
        return json.loads(self.to_json())  # type: ignore[no-any-return]

    def to_dict(self) -> dict[str, Any]:
        """Return a dict of all keys."""
        return json.loads(self.to_json())  # type: ignore[no-any-return]

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    if not TYPE_CHECKING:
        # Type checkers go by the keys that `_results.pyi` lists, and so find those that are misspelt.
        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):
                raise AttributeError(name)
            try:
                return self[name]
            except KeyError:
                raise AttributeError(f"a {type(self).__name__.lower()} has no {name!r}") from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self]


class Report(JsonMapping, ReportKeys):
    """A report: a mapping by the keys of ``servecast schema report``, which are attributes too.

    A figure of which the run has no sample is None. ``p50_x`` is another name of ``median_x``.

    In print and in a notebook it is the table that the command line shows, in a notebook with a small chart.
    """

    def __init__(self, outcome: _native.Outcome) -> None:
        self._outcome = outcome

    def to_json(self) -> str:
        """Return the report as ``servecast replay --report-json`` writes it."""
        return self._outcome.report_json()

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write ``report.json`` and ``requests.jsonl`` into a folder, which is made if it is not there.

        Args:
            folder: Where to; ``compare``, ``calibrate`` and their commands take it.
            overwrite: Replace the files of another run.

        Raises:
            FileExistsError: One of them is there already.
        """
        place = Path(folder)
        files = {"report.json": self.to_json().encode(), "requests.jsonl": self._outcome.requests_jsonl()}
        for name in files:
            if not overwrite and (place / name).exists():
                raise FileExistsError(f"{place / name} is there already; overwrite=True replaces it")
        place.mkdir(exist_ok=True)
        for name, content in files.items():
            # A reader never sees half a file.
            unfinished = place / f".{name}.{os.getpid()}"
            try:
                unfinished.write_bytes(content)
                unfinished.replace(place / name)
            finally:
                unfinished.unlink(missing_ok=True)

    def to_html(self) -> str:
        """Return the page of the run, as ``servecast replay --report-html`` writes it: one file, which loads nothing.

        The replay is run once more for it, so that nobody pays for a page that nobody looks at; the wall time shown is
        that of the first run. Files that it reads have to be there still.

        Raises:
            ReplayError: A file has changed, or a latency function answers otherwise, so that it is another run.
        """
        return self._outcome.page()

    def timeline(self, *, window: tuple[float | None, float | None] | None = None, sample: int = 1) -> str:
        """Return the run as Chrome trace events, as ``servecast replay --timeline`` writes it, for Perfetto.

        The replay is run once more for it, as for ``to_html``.

        Args:
            window: The part of the run to show, from and to, in seconds of the simulated clock; None is open.
            sample: One request in so many is shown, and so many iterations of a worker without a pause are one slice.

        Raises:
            ConfigError: There is no such part, or the replay was by the clock of the machine, which is no run twice.
            ReplayError: As of ``to_html``.
        """
        if isinstance(sample, bool) or not isinstance(sample, int) or not 1 <= sample < 2**32:
            raise ConfigError(f"`sample` is {sample!r}, but must be at least 1: one request in so many is shown")
        return self._outcome.timeline(_seconds(window), sample).decode()

    @cached_property
    def notes(self) -> list[str]:
        """What there is to know of the run, in sentences: settings without effect, what follows from others, oddities
        of the trace. They are below the table that the report shows itself as.
        """
        return self._outcome.notes()

    @cached_property
    def _tables(self) -> tuple[Columns, Columns]:
        requests, stages = self._outcome.request_columns()
        return columns_of(requests), columns_of(stages)

    @property
    def requests(self) -> Columns:
        """The requests in order of arrival, with the keys of ``--requests-jsonl``.

        The parts of the TTFT are columns of their own: ``router_queue_ms`` and so on. ``stages`` has the rest.
        """
        return self._tables[0]

    @property
    def stages(self) -> Columns:
        """The stays of requests on workers, with the keys of ``stages`` in ``--requests-jsonl``.

        ``request`` says whose it is. There is one of a request, or one in each pool; none of one rejected on arrival.
        """
        return self._tables[1]

    @cached_property
    def iterations(self) -> Columns:
        """The iterations of the engines, with the keys of ``--iterations-jsonl``.

        Raises:
            ConfigError: The replay was not asked for them.
        """
        columns = self._outcome.iteration_columns()
        if columns is None:
            raise ConfigError("the replay kept no iterations", "run it with iterations=True")
        return columns_of(columns)

    def to_arrow(self) -> pyarrow.Table:
        """Return the requests as a table of PyArrow, which has to be installed."""
        return self.requests.to_arrow()

    def to_pandas(self) -> pandas.DataFrame:
        """Return the requests as a data frame of pandas, which has to be installed."""
        return self.requests.to_pandas()

    def to_polars(self) -> polars.DataFrame:
        """Return the requests as a data frame of Polars, which has to be installed."""
        return self.requests.to_polars()

    def __getitem__(self, key: str) -> Any:
        # The 50th percentile goes by both names.
        return super().__getitem__(f"median_{key[4:]}" if key.startswith("p50_") else key)

    def __repr__(self) -> str:
        return with_notes(self._outcome.table(), self.notes)

    def _repr_html_(self) -> str:
        return self._outcome.chart() + table_as_html(self._outcome.table(), self.notes)


def _seconds(window: tuple[float | None, float | None] | None) -> str | None:
    """Return a part of a run as the command line has it."""
    if window is None:
        return None
    ends = list(window) if isinstance(window, (tuple, list)) else []
    if len(ends) != 2 or not all(end is None or _is_number(end) for end in ends):
        raise ConfigError(f"`window` is {window!r}, but must be a pair of a start and an end in seconds, or None")
    return "..".join("" if end is None else repr(float(end)) for end in ends)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def with_notes(table: str, notes: list[str]) -> str:
    """Return a printed table, with notes below it."""
    return "\n".join([table.rstrip("\n"), *(f"note: {note}" for note in notes)])


def table_as_html(table: str, notes: list[str]) -> str:
    """Return the printed table as HTML: its frame is cells, what is below it lines, notes among them."""
    rows: list[str] = []
    below: list[str] = []
    for line in table.splitlines():
        if line.startswith(("┃", "│")):
            tag = "th" if line.startswith("┃") else "td"
            cells = [html.escape(cell.strip()) for cell in line.strip("┃│").replace("┆", "│").split(line[0])]
            aligned = ["left", *["right"] * (len(cells) - 1)]
            rows.append(
                "".join(f'<{tag} style="text-align: {side}">{cell}</{tag}>' for cell, side in zip(cells, aligned))
            )
        elif rows and not line.startswith(("┡", "└", "├")):
            below.append(html.escape(line))
    below += [html.escape(f"note: {note}") for note in notes]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table>{body}</table><p>{'<br>'.join(below)}</p>"
