"""How far something is, on a terminal or in a notebook."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from servecast._errors import ConfigError

__all__ = ["Bar", "bar_for"]

QUIET_S = 0.5
"""What is over sooner has no bar."""
REDRAW_S = 0.1
WIDTH = 20
EIGHTHS = " ▏▎▍▌▋▊▉█"


class Bar:
    """A line on standard error that says how much is done, taken away at the end."""

    def __init__(self, unit: str, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._unit = unit
        self._stream = stream
        self._clock = clock
        self._began = clock()
        self._due = self._began + QUIET_S
        self._written = 0

    def __call__(self, done: int, total: int | None, beside: str = "") -> None:
        """So many are done of all, if it is known how many these are, with something beside it."""
        now = self._clock()
        if now < self._due:
            return
        self._due = now + REDRAW_S
        self._write(line(self._unit, done, total, now - self._began, beside))

    def close(self) -> None:
        """Take the line away, if it was ever there."""
        if self._written:
            self._write("")
            self._stream.write("\r")
            self._stream.flush()

    def _write(self, text: str) -> None:
        # A line that wraps could not be taken away.
        text = text[: shutil.get_terminal_size().columns - 1]
        self._stream.write("\r" + text.ljust(self._written))
        self._stream.flush()
        self._written = len(text)


def line(unit: str, done: int, total: int | None, passed: float, beside: str = "") -> str:
    """Return what a bar says after so many seconds."""
    speed = done / passed if passed > 0 else 0.0
    told = f"{speed:,.0f} {unit}/s" if speed >= 10 else f"{speed:.2f} {unit}/s"
    more = f", {beside}" if beside else ""
    if not total:
        return f"{done:,} {unit} [{clock_of(passed)}, {told}{more}]"
    share = min(done / total, 1.0)
    full, rest = divmod(math.floor(share * WIDTH * 8), 8)
    bar = ("█" * full + EIGHTHS[rest] * (full < WIDTH)).ljust(WIDTH)
    left = clock_of((total - done) / speed) if speed > 0 else "?"
    return f"{share:4.0%}|{bar}| {done:,}/{total:,} {unit} [{clock_of(passed)}<{left}, {told}{more}]"


def clock_of(seconds: float) -> str:
    """Return a time as minutes and seconds, and hours if there are any."""
    minutes, rest = divmod(math.floor(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


@contextmanager
def bar_for(progress: object, unit: str) -> Iterator[Bar | None]:
    """Give a bar, if there is to be one: for True, and for None where somebody sees it."""
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise ConfigError(f"`progress` is {progress!r}, but must be a function, or True or False for a bar or none")
    if progress is True or (progress is None and _is_seen()):
        bar = Bar(unit, sys.stderr)
        try:
            yield bar
        finally:
            bar.close()
    else:
        yield None


def _is_seen() -> bool:
    """Whether standard error is a terminal or part of a notebook."""
    if sys.stderr is not None and sys.stderr.isatty():
        return True
    # Only a program that runs in a kernel of Jupyter has loaded it and has one.
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None
