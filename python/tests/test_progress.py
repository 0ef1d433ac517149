"""How far a run is: who sees it, and what is left of it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import servecast
from servecast import ConfigError
from servecast._progress import Bar, line


class Clock:
    """A clock that is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bar_says_how_far_and_how_fast() -> None:
    assert line("requests", 250, 1000, 5.0, "9 s simulated") == (
        " 25%|█████               | 250/1,000 requests [00:05<00:15, 50 requests/s, 9 s simulated]"
    )
    assert line("runs", 1, 3, 4000.0) == " 33%|██████▋             | 1/3 runs [1:06:40<2:13:20, 0.00 runs/s]"
    assert line("runs", 0, 3, 1.0) == "  0%|                    | 0/3 runs [00:01<?, 0.00 runs/s]"
    assert line("runs", 3, 3, 1.5) == "100%|████████████████████| 3/3 runs [00:01<00:00, 2.00 runs/s]"
    assert line("runs", 7, None, 2.0, "9 deployments") == "7 runs [00:02, 3.50 runs/s, 9 deployments]"


def test_a_bar_is_late_seldom_and_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    stream, clock = io.StringIO(), Clock()
    bar = Bar("runs", stream, clock)
    bar(1, 9)
    assert stream.getvalue() == "", "what is over sooner has no bar"
    clock.now += 0.5
    bar(2, 9)
    first = stream.getvalue()
    assert first.startswith("\r") and len(first) == 1 + 29, "no line is wider than the terminal"
    bar(3, 9)
    assert stream.getvalue() == first
    clock.now += 0.1
    bar(4, 9)
    bar.close()
    assert stream.getvalue().endswith("\r" + " " * 29 + "\r")
    untouched = io.StringIO()
    Bar("runs", untouched, clock).close()
    assert untouched.getvalue() == ""


LONG = "servecast.run_synthetic_trace_replay(50, 2000, 40000, plain=True{})"


def run_on(stderr: int, call: str) -> None:
    program = f"import servecast\n{call}"
    subprocess.run(
        [sys.executable, "-c", program], stderr=stderr, check=True, timeout=50, env={**os.environ, "COLUMNS": "100"}
    )


def on_a_terminal(call: str) -> str:
    """What a call writes to standard error if that is a terminal."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    try:
        run_on(theirs, call)
        os.close(theirs)
        parts = []
        while True:
            try:
                part = os.read(ours, 1 << 16)
            except OSError:
                break
            if not part:
                break
            parts.append(part)
        return b"".join(parts).decode()
    finally:
        os.close(ours)


def test_a_terminal_shows_how_far_a_run_is() -> None:
    told = on_a_terminal(LONG.format(""))
    assert "/40,000 requests [" in told and "s simulated" in told
    assert told.rstrip(" \r").split("\r")[-1].strip() != told and told.endswith(" \r"), "the line is taken away"
    assert on_a_terminal(LONG.format(", progress=False")) == ""
    assert on_a_terminal(LONG.format(", progress=print")) == ""


@pytest.mark.parametrize(("given", "is_shown"), [("", False), (", progress=True", True)])
def test_a_pipe_shows_nothing_unless_asked(given: str, is_shown: bool) -> None:
    program = f"import servecast\n{LONG.format(given)}"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=True)
    assert ("requests [" in run.stderr) == is_shown


def test_a_notebook_shows_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("servecast._progress.QUIET_S", 0.0)
    calls: list[Callable[[], Any]] = [
        lambda: servecast.run_synthetic_trace_replay(50, 2000, 3000, plain=True),
        lambda: servecast.replay_many([{"input_tokens": 50, "output_tokens": 9, "request_count": 9}] * 3),
        lambda: servecast.sweep({"input_tokens": 50, "output_tokens": 9, "request_count": 9}, {"num_workers": [1, 2]}),
    ]
    for call in calls:
        call()
    assert capsys.readouterr().err == ""
    kernel = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    for call, unit in zip(calls, ["requests", "runs", "runs"]):
        call()
        assert f" {unit} [00:0" in capsys.readouterr().err
    shell = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace())
    monkeypatch.setitem(sys.modules, "IPython", shell)
    calls[0]()
    assert capsys.readouterr().err == ""


def test_a_bar_is_taken_away_when_a_run_ends_early(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("servecast._progress.QUIET_S", 0.0)

    def price(batch: servecast.Batch) -> float:
        price.calls += 1  # type: ignore[attr-defined]
        if price.calls > 100_000:  # type: ignore[attr-defined]
            raise KeyError("late")
        return 5.0

    price.calls = 0  # type: ignore[attr-defined]
    with pytest.raises(KeyError, match="late"):
        servecast.run_synthetic_trace_replay(50, 2000, 30000, latency=price, progress=True)
    told = capsys.readouterr().err
    assert "requests [" in told and told.endswith(" \r")


def test_what_is_no_progress_is_refused() -> None:
    for wrong in (5, "yes"):
        with pytest.raises(ConfigError, match="`progress` is .* must be a function, or True or False"):
            servecast.run_synthetic_trace_replay(50, 2, 3, progress=wrong)  # type: ignore[arg-type]
