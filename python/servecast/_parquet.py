"""Traces in Parquet, read by PyArrow or Polars, whichever is installed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

from servecast._errors import TraceError

__all__ = ["is_parquet", "parquet_text"]

MAGIC = b"PAR1"


def is_parquet(path: str) -> bool:
    """Whether a file is one of Parquet by its first bytes, or, if it cannot be read, by its name."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def parquet_text(path: str, has_columns: bool) -> bytes:
    """Return the rows of a file as a trace of text that says the same.

    With named columns, and where values are lists, these are JSON objects, a row a line; otherwise a table with a
    header, by which those of known tools are recognised. Line numbers in errors are those of rows, from 1; behind the
    header of a table, from 2.
    """
    names, batches = _read(path)
    rows = _rows(batches)
    if has_columns:
        return _objects(rows, path)
    first = next(rows, None)
    kept = [] if first is None else [first]
    nested = any(isinstance(value, (list, tuple, dict)) for row in kept for value in row.values())
    rest = (row for part in (kept, rows) for row in part)
    return _objects(rest, path) if nested else _table(names, rest)


def _read(path: str) -> tuple[list[str], Iterable[list[dict[str, Any]]]]:
    """Return the columns of a file, and its rows in batches."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return _read_with_polars(path)
    try:
        file = parquet.ParquetFile(path)
        return list(file.schema_arrow.names), (batch.to_pylist() for batch in file.iter_batches())
    except pyarrow.ArrowException as error:
        raise TraceError(f"{path}: cannot be read as Parquet: {error}") from None


def _read_with_polars(path: str) -> tuple[list[str], Iterable[list[dict[str, Any]]]]:
    try:
        import polars
    except ImportError:
        raise TraceError(
            f"{path}: this is a Parquet file, which PyArrow or Polars reads, but neither is installed",
            "pip install pyarrow, or write it out as JSON Lines or CSV",
        ) from None
    try:
        frame = polars.read_parquet(path)
    except polars.exceptions.PolarsError as error:
        raise TraceError(f"{path}: cannot be read as Parquet: {error}") from None
    return list(frame.columns), (part.to_dicts() for part in frame.iter_slices(1 << 16))


def _rows(batches: Iterable[list[dict[str, Any]]]) -> Any:
    for batch in batches:
        yield from batch


def _plain(value: Any) -> Any:
    """Return a value that JSON and CSV do not have as one that readers of traces know."""
    if isinstance(value, datetime):
        # Dates without a zone are taken for what they say, as in text.
        at = value if value.tzinfo is None else value.astimezone(timezone.utc)
        return at.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    raise TypeError(f"a {type(value).__name__} is nothing that a trace has")


def _objects(rows: Iterable[Mapping[str, Any]], path: str) -> bytes:
    lines = []
    for number, row in enumerate(rows, 1):
        try:
            lines.append(json.dumps({key: value for key, value in row.items() if value is not None}, default=_plain))
        except TypeError as error:
            raise TraceError(f"{path}: row {number}: {error}") from None
    return "\n".join(lines).encode()


def _table(names: list[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow(["" if value is None else _cell(value) for value in row.values()])
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    return value if isinstance(value, (str, int, float)) else _plain(value)
