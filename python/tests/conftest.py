"""What the tests share."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Row = dict[str, Any]
ROOT = Path(__file__).parents[2]
# Taken out of the environment, where the binary would take it for a setting.
BINARY = os.environ.pop("SERVECAST_BINARY", None)


@pytest.fixture(autouse=True)
def no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Python reads no settings from the environment; the binary would."""
    for name in list(os.environ):
        if name.startswith(("SERVECAST_ROUTER", "DYN_")):
            monkeypatch.delenv(name)
    yield


@pytest.fixture
def rows() -> list[Row]:
    """A small trace with prefixes in common."""
    return [
        {
            "timestamp": 40 * line,
            "input_length": 1500,
            "output_length": 5 + line % 7,
            "hash_ids": [line % 3, 100 + line % 5, 200 + line],
        }
        for line in range(30)
    ]


@pytest.fixture
def trace(tmp_path: Path, rows: list[Row]) -> Path:
    """The same as a file."""
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def binary_path() -> Path:
    """Find the binary that cargo built; without one, skip unless it was named."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    path = Path(BINARY) if BINARY else target / "debug" / "servecast"
    if not path.exists():
        (pytest.fail if BINARY else pytest.skip)(f"{path} is not built")
    return path.resolve()


@pytest.fixture
def binary(binary_path: Path) -> Callable[..., str]:
    """Run the binary, and return what it prints."""

    def run(*arguments: str | Path) -> str:
        command = [str(binary_path), *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout

    return run


def without_wall_time(report: str) -> str:
    """Return a report without the one figure that differs from run to run."""
    return re.sub(r'"wall_time_ms": [0-9.]+', '"wall_time_ms": 0', report)
