"""Loads in hand: rows of requests that are made, read or given, to look at, to change and to replay."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from servecast import _native
from servecast._config import plain
from servecast._errors import ConfigError, TraceError
from servecast._parquet import is_parquet, parquet_text

if TYPE_CHECKING:
    from servecast._settings import LoadSettings, ReadSettings
    from typing_extensions import Unpack

__all__ = ["Trace"]


class Trace(Sequence[dict[str, Any]]):
    """Requests as rows by the keys of ``docs/traces.md``, to replay once or often.

    Attributes:
        block_size: Prompt tokens that an id of ``hash_ids`` stands for, which a replay takes for its
            ``trace_block_size``; None if that is not known.
        notes: What there is to know of how the rows were read, in sentences.
    """

    block_size: int | None
    notes: list[str]

    def __init__(self, rows: Iterable[Mapping[str, Any]], *, block_size: int | None = None) -> None:
        """Take rows as they are; they are checked when they are replayed.

        Args:
            rows: A dict for each request, as ``{"timestamp": 0, "input_length": 900, "output_length": 20}``.
            block_size: Prompt tokens that an id of ``hash_ids`` stands for; 512 where nobody says.

        Raises:
            TraceError: A row is no dict, or has no JSON value.
        """
        self._text = text_of(rows)
        self.block_size = block_size
        self.notes = []

    @classmethod
    def from_arrays(cls, *, block_size: int | None = None, **columns: Any) -> Trace:
        """Take columns in place of rows: lists, arrays of NumPy or series, all of one length.

        Args:
            block_size: As of the constructor.
            **columns: Columns by the keys of rows: ``timestamp`` in milliseconds, ``input_length``, ``output_length``
                and perhaps ``session_id``, ``hash_ids`` or any other. ``**frame`` of pandas will do. What is None or
                NaN is not there.

        Raises:
            TraceError: A column is missing, is none, or is of another length.
        """
        if not columns:
            raise TraceError("a trace has no columns", "give it timestamp=, input_length= and output_length=")
        lists = {name: _values(name, column) for name, column in columns.items()}
        first, *others = ((name, len(values)) for name, values in lists.items())
        for name, length in others:
            if length != first[1]:
                raise TraceError(
                    f"`{name}` has {length} values, but `{first[0]}` has {first[1]}: give each a value a row"
                )
        rows = (dict(zip(lists, values)) for values in zip(*lists.values()))
        return cls(
            ({key: value for key, value in row.items() if _is_there(value)} for row in rows), block_size=block_size
        )

    @classmethod
    def read(cls, trace_file: str | os.PathLike[str], **settings: Unpack[ReadSettings]) -> Trace:
        """Read a trace of any format, or a part of it, as rows.

        Args:
            trace_file: A path to a trace (``docs/traces.md``).
            **settings: How it is read and what is made of it, by the keys of a configuration file: ``columns``,
                ``time_unit``, ``turns``, ``time_range``, ``sample``, ``repeat``, ``request_rate``, ``max_requests`` and
                so on.

        Raises:
            ConfigError: A setting cannot be used, or says nothing of a load.
            TraceError: The trace cannot be read.
        """
        path = os.fspath(trace_file)
        if is_parquet(path):
            return cls._made(settings, parquet_text(path, settings.get("columns") is not None))
        return cls._made({"trace_file": path, **settings})

    @classmethod
    def poisson(
        cls, rate: float, requests: int, *, input_tokens: int, output_tokens: int, **settings: Unpack[LoadSettings]
    ) -> Trace:
        """Make requests that arrive at random, independently of each other.

        Args:
            rate: Requests a second.
            requests: How many there are.
            input_tokens: Prompt length, the mean if ``length_distribution`` is given.
            output_tokens: Output length, likewise.
            **settings: Other settings of a synthetic load, such as ``length_distribution="lognormal"``,
                ``length_spread``, ``shared_prefix_ratio``, ``num_prefix_groups`` and ``seed``.

        Raises:
            ConfigError: A setting cannot be used, or says nothing of a load.
        """
        return cls.gamma(
            rate, requests, burstiness=1.0, input_tokens=input_tokens, output_tokens=output_tokens, **settings
        )

    @classmethod
    def gamma(
        cls,
        rate: float,
        requests: int,
        *,
        burstiness: float,
        input_tokens: int,
        output_tokens: int,
        **settings: Unpack[LoadSettings],
    ) -> Trace:
        """Make requests whose gaps follow a gamma distribution, as those of ``vllm bench serve --burstiness``.

        Args:
            rate: Requests a second.
            requests: How many there are.
            burstiness: Shape of the gaps: 1 is ``poisson``, less has bursts, more is even.
            input_tokens: Prompt length, the mean if ``length_distribution`` is given.
            output_tokens: Output length, likewise.
            **settings: Other settings of a synthetic load, as of ``poisson``.

        Raises:
            ConfigError: A setting cannot be used, or says nothing of a load.
        """
        load = {"request_rate": rate, "burstiness": burstiness, "request_count": requests}
        return cls._made({**load, "input_tokens": input_tokens, "output_tokens": output_tokens, **settings})

    @classmethod
    def sessions(
        cls,
        rate: float,
        sessions: int,
        *,
        turns: int,
        input_tokens: int,
        output_tokens: int,
        delay_ms: float = 0.0,
        history: bool = True,
        **settings: Unpack[LoadSettings],
    ) -> Trace:
        """Make sessions of several turns, which begin at random; a turn is sent when the one before it has its reply.

        With ``history`` the prompt of a turn begins with the turns before it and their replies, as in a chat.

        Args:
            rate: Sessions that begin in a second.
            sessions: How many there are.
            turns: Requests of each.
            input_tokens: What a turn adds to the prompt, or all of it without ``history``; the mean if
                ``length_distribution`` is given.
            output_tokens: Output length, likewise.
            delay_ms: From the end of a reply to the next turn.
            history: Whether a turn sends what was said before.
            **settings: Other settings of a synthetic load, as of ``poisson``.

        Raises:
            ConfigError: A setting cannot be used, or says nothing of a load.
        """
        turned: dict[str, Any] = {"turns_per_session": turns}
        if delay_ms:
            turned["inter_turn_delay_ms"] = delay_ms
        lengths = {"input_tokens": input_tokens, "output_tokens": output_tokens}
        made = cls.poisson(rate, sessions, **{**lengths, **turned, **settings})
        return cls._made({"turns": "delta", "trace_block_size": made.block_size}, made._text) if history else made

    @classmethod
    def _made(cls, settings: Mapping[str, Any], text: bytes | None = None) -> Trace:
        try:
            given = json.dumps(dict(settings), default=plain, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"a load cannot be made: {error}") from None
        trace = cls(())
        trace._text, trace.block_size, trace.notes = _native.load_rows(given, text)
        return trace

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        return json.loads(b"[" + b",".join(self._text.splitlines()) + b"]")  # type: ignore[no-any-return]

    def to_jsonl(self) -> bytes:
        """Return the rows as JSON Lines, a row a line."""
        return self._text + b"\n" * bool(self._text and not self._text.endswith(b"\n"))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the rows as JSON Lines into a file, which every command replays (``--trace-block-size``)."""
        Path(path).write_bytes(self.to_jsonl())

    @overload
    def __getitem__(self, place: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, place: slice) -> Trace: ...
    def __getitem__(self, place: int | slice) -> dict[str, Any] | Trace:
        if isinstance(place, slice):
            return Trace(self._rows[place], block_size=self.block_size)
        return dict(self._rows[place])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (dict(row) for row in self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Trace):
            return NotImplemented
        return self._rows == other._rows and self.block_size == other.block_size

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        size = "" if self.block_size is None else f", block_size={self.block_size}"
        return f"Trace({len(self)} requests{size})"


def text_of(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Return rows as JSON Lines."""
    lines = []
    for place, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise TraceError(f"trace: row {place} is a {type(row).__name__}, but must be a dict")
        try:
            lines.append(json.dumps(dict(row), default=plain, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise TraceError(f"trace: row {place}: {error}") from None
    return "\n".join(lines).encode()


def _values(name: str, column: Any) -> list[Any]:
    for method in ("tolist", "to_list", "to_pylist"):
        if hasattr(column, method):
            return list(getattr(column, method)())
    if isinstance(column, (str, bytes, Mapping)) or not isinstance(column, Iterable):
        raise TraceError(f"`{name}` is {column!r}, but must be a column: a value for each row")
    return list(column)


def _is_there(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and value != value)
