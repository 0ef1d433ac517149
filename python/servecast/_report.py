"""What came of a replay."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from servecast import _native
from servecast._errors import ConfigError
from servecast._results import ReportKeys

if TYPE_CHECKING:
    import pandas
    import polars

__all__ = ["Columns", "JsonMapping", "Report", "table_as_html"]


class Columns(Mapping[str, Any]):
    """Rows as columns by name: NumPy arrays if NumPy is installed, otherwise lists.

    A number that does not exist is NaN in an array and None in a list.
    """

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._lists: dict[str, list[Any]] = {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}
        self._arrays: dict[str, Any] = {}
        self.num_rows = len(rows)

    def __getitem__(self, name: str) -> Any:
        values = self._lists[name]
        if find_spec("numpy") is None:
            return values
        if name not in self._arrays:
            self._arrays[name] = _array(values)
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._lists)

    def __len__(self) -> int:
        return len(self._lists)

    def __repr__(self) -> str:
        return f"Columns({self.num_rows} rows: {', '.join(self)})"

    def to_pandas(self) -> pandas.DataFrame:
        """Return a data frame of pandas, which has to be installed."""
        import pandas

        return pandas.DataFrame(dict(self))

    def to_polars(self) -> polars.DataFrame:
        """Return a data frame of Polars, which has to be installed."""
        import polars

        return polars.DataFrame(self._lists, infer_schema_length=None)


def _array(values: list[Any]) -> Any:
    import numpy

    kinds = {type(value) for value in values if value is not None}
    if kinds and kinds <= {int, float}:
        is_whole = kinds == {int} and None not in values
        return numpy.array(values, dtype=numpy.int64 if is_whole else numpy.float64)
    array: Any = numpy.empty(len(values), dtype=object)
    array[:] = values
    return array


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

    In print and in a notebook it is the table that the command line shows.
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

    @cached_property
    def requests(self) -> Columns:
        """The requests in order of arrival, with the columns of ``--requests-jsonl``.

        The parts of the TTFT are columns of their own: ``router_queue_ms`` and so on.
        """
        rows = _rows(self._outcome.requests_jsonl())
        parts: dict[str, Any] = next((row["ttft_breakdown"] for row in rows if row["ttft_breakdown"]), {})
        for row in rows:
            breakdown = row.pop("ttft_breakdown") or dict.fromkeys(parts)
            row.update(breakdown)
        return Columns(rows)

    @cached_property
    def iterations(self) -> Columns:
        """The iterations of the engines, with the columns of ``--iterations-jsonl``.

        Raises:
            ConfigError: The replay was not asked for them.
        """
        rows = self._outcome.iterations_jsonl()
        if rows is None:
            raise ConfigError("the replay kept no iterations", "run it with iterations=True")
        return Columns(_rows(rows))

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
        return self._outcome.table().rstrip("\n")

    def _repr_html_(self) -> str:
        return table_as_html(self._outcome.table())


def _rows(text: bytes) -> list[dict[str, Any]]:
    return json.loads(b"[" + b",".join(text.splitlines()) + b"]")  # type: ignore[no-any-return]


def table_as_html(table: str) -> str:
    """Return the printed table as HTML: its frame is cells, what is below it lines."""
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
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table>{body}</table><p>{'<br>'.join(below)}</p>"
