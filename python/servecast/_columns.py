"""Tables: columns by name, which NumPy, Arrow, pandas and Polars take as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow
    from servecast import _native

__all__ = ["Columns", "columns_of", "columns_of_rows"]


class Columns(Mapping[str, Any]):
    """A table as columns by name: NumPy arrays if NumPy is installed, otherwise lists.

    A number that does not exist is NaN in an array and None in a list, a name that does not exist is None. Arrays of
    numbers are views of the memory that the run was written into, without a copy.

    Libraries that know Arrow's PyCapsule interface, such as Polars and DuckDB, take it as it is if PyArrow is
    installed.
    """

    def __init__(self, columns: Mapping[str, _Column], num_rows: int) -> None:
        self._columns = dict(columns)
        self.num_rows = num_rows

    def __getitem__(self, name: str) -> Any:
        column = self._columns[name]
        return column.as_list if find_spec("numpy") is None else column.as_array

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __repr__(self) -> str:
        return f"Columns({self.num_rows} rows: {', '.join(self)})"

    def to_pandas(self) -> pandas.DataFrame:
        """Return a data frame of pandas, which has to be installed."""
        import pandas

        return pandas.DataFrame(dict(self))

    def to_polars(self) -> polars.DataFrame:
        """Return a data frame of Polars, which has to be installed; what does not exist is null."""
        import polars

        if find_spec("pyarrow") is not None:
            return polars.DataFrame(polars.from_arrow(self.to_arrow()))
        series = [polars.Series(name, column.as_list, strict=False) for name, column in self._columns.items()]
        return polars.DataFrame(series)

    def to_arrow(self) -> pyarrow.Table:
        """Return a table of PyArrow, which has to be installed; what does not exist is null.

        Numbers are the memory that the run was written into, without a copy.
        """
        import pyarrow

        return pyarrow.table({name: column.as_arrow for name, column in self._columns.items()})

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.to_arrow().__arrow_c_stream__(requested_schema)


class _Column:
    """Values of a column, in the three forms that somebody may ask for."""

    @cached_property
    def as_list(self) -> list[Any]:
        """The values as a list."""
        raise NotImplementedError

    @cached_property
    def as_array(self) -> Any:
        """The values as an array of NumPy."""
        raise NotImplementedError

    @cached_property
    def as_arrow(self) -> Any:
        """The values as an array of PyArrow."""
        raise NotImplementedError


class _Values(_Column):
    """Values of Python."""

    def __init__(self, values: list[Any]) -> None:
        self._values = values

    @cached_property
    def as_list(self) -> list[Any]:
        return self._values

    @cached_property
    def as_array(self) -> Any:
        import numpy

        kinds = {type(value) for value in self._values if value is not None}
        if kinds and kinds <= {int, float}:
            is_whole = kinds == {int} and None not in self._values
            return numpy.array(self._values, dtype=numpy.int64 if is_whole else numpy.float64)
        return _objects(self._values)

    @cached_property
    def as_arrow(self) -> Any:
        import pyarrow

        return pyarrow.array(self._values)


class _Numbers(_Column):
    """Numbers or truth values, a run of memory."""

    CODES = {"int": "q", "float": "d", "bool": "?"}

    def __init__(self, kind: str, memory: bytearray) -> None:
        self._kind = kind
        self._memory = memory

    @cached_property
    def as_list(self) -> list[Any]:
        values: list[Any] = memoryview(self._memory).cast(self.CODES[self._kind]).tolist()  # type: ignore[call-overload]
        return [None if value != value else value for value in values] if self._kind == "float" else values

    @cached_property
    def as_array(self) -> Any:
        import numpy

        return numpy.frombuffer(self._memory, dtype=self.CODES[self._kind])

    @cached_property
    def as_arrow(self) -> Any:
        import pyarrow
        from pyarrow import compute

        if self._kind == "bool":
            return pyarrow.array(self.as_list)
        kind = pyarrow.int64() if self._kind == "int" else pyarrow.float64()
        memory = pyarrow.py_buffer(self._memory)
        numbers = pyarrow.Array.from_buffers(kind, len(self._memory) // 8, [None, memory])
        if self._kind == "int":
            return numbers
        is_missing = compute.is_nan(numbers)
        return compute.if_else(is_missing, None, numbers) if compute.any(is_missing).as_py() else numbers


class _Names(_Column):
    """Names: places in a list of them, -1 for none."""

    def __init__(self, places: bytearray, names: list[str]) -> None:
        self._places = places
        self._names = names

    @cached_property
    def as_list(self) -> list[Any]:
        names = [*self._names, None]
        return [names[place] for place in memoryview(self._places).cast("i")]

    @cached_property
    def as_array(self) -> Any:
        import numpy

        return _objects([*self._names, None])[numpy.frombuffer(self._places, dtype=numpy.int32)]

    @cached_property
    def as_arrow(self) -> Any:
        import pyarrow
        from pyarrow import compute

        memory = pyarrow.py_buffer(self._places)
        places = pyarrow.Array.from_buffers(pyarrow.int32(), len(self._places) // 4, [None, memory])
        places = compute.if_else(compute.less(places, 0), None, places)
        return compute.take(pyarrow.array(self._names, pyarrow.string()), places)


class _Lists(_Column):
    """A list a row: where each ends, and the elements of all of them, which may be tuples of so many values."""

    def __init__(self, ends: bytearray, width: int | None, elements: _Column) -> None:
        self._ends = ends
        self._width = width
        self._elements = elements

    @cached_property
    def as_list(self) -> list[Any]:
        elements, width = self._elements.as_list, self._width
        if width is not None:
            elements = [elements[place : place + width] for place in range(0, len(elements), width)]
        ends = memoryview(self._ends).cast("q").tolist()
        return [elements[start:end] for start, end in zip([0, *ends], ends)]

    @cached_property
    def as_array(self) -> Any:
        elements = self._elements.as_array
        if self._width is not None:
            elements = elements.reshape(-1, self._width)
        ends = memoryview(self._ends).cast("q").tolist()
        return _objects([elements[start:end] for start, end in zip([0, *ends], ends)])

    @cached_property
    def as_arrow(self) -> Any:
        import pyarrow

        elements = self._elements.as_arrow
        if self._width is not None:
            elements = pyarrow.FixedSizeListArray.from_arrays(elements, self._width)
        ends = pyarrow.py_buffer(bytes(8) + self._ends)
        offsets = pyarrow.Array.from_buffers(pyarrow.int64(), len(self._ends) // 8 + 1, [None, ends])
        return pyarrow.LargeListArray.from_arrays(offsets, elements)


def columns_of(buffers: _native._Buffers) -> Columns:
    """Return a table of the native half."""
    num_rows, columns = buffers
    return Columns({name: _column(kind, content) for name, kind, content in columns}, num_rows)


def columns_of_rows(rows: list[dict[str, Any]]) -> Columns:
    """Return rows of Python as columns; all have the keys of the first."""
    columns = {key: _Values([row[key] for row in rows]) for key in (rows[0] if rows else ())}
    return Columns(columns, len(rows))


def _column(kind: str, content: tuple[Any, ...]) -> _Column:
    if kind == "text":
        return _Names(*content)
    if kind == "list":
        ends, width, of, elements = content
        return _Lists(ends, width, _column(of, elements))
    return _Numbers(kind, *content)


def _objects(values: list[Any]) -> Any:
    """Return an array of objects, whatever they are."""
    import numpy

    array: Any = numpy.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        array[place] = value
    return array
