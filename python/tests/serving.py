"""A server of a test, and what it says of itself."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

PATIENCE = 30.0


@dataclass
class Server:
    """A server at work."""

    ports: list[str]
    process: subprocess.Popen[str]
    log: Path

    @property
    def url(self) -> str:
        """Where it is."""
        return self.ports[0]

    def get(self, path: str, port: int = 0) -> str:
        """What it says to GET."""
        with urllib.request.urlopen(self.ports[port] + path, timeout=PATIENCE) as answer:
            return str(answer.read().decode())

    def metric(self, name: str, port: int = 0) -> float:
        """The sum of all series of a name."""
        lines = self.get("/metrics", port).splitlines()
        values = [float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0] == name]
        assert values, f"no {name}"
        return sum(values)

    def wait_until_idle(self) -> None:
        """Until no request is at work."""
        end = time.monotonic() + PATIENCE
        while self.metric("vllm:num_requests_running") > 0:
            assert time.monotonic() < end, "requests are at work"
            time.sleep(0.01)

    def requests(self) -> list[dict[str, Any]]:
        """What it wrote of each request."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["message"] == "request"]


@dataclass
class Times:
    """Medians of a load, in milliseconds."""

    ttft: float
    itl: float
    requests: int = field(default=0)

    def agrees(self, other: Times) -> bool:
        """Within 5 ms or 3 %."""
        pairs = [(self.ttft, other.ttft), (self.itl, other.itl)]
        return all(abs(one - two) <= max(5.0, 0.03 * two) for one, two in pairs)

    def __str__(self) -> str:
        """For people."""
        return f"TTFT {self.ttft:.2f} ms, ITL {self.itl:.2f} ms ({self.requests} requests)"


def recorded(requests: list[dict[str, Any]]) -> Times:
    """What the server says of the requests that it served."""
    done = [line for line in requests if line["status"] == "finished"]
    gaps = [
        (line["e2e_ms"] - line["ttft_ms"]) / (line["completion_tokens"] - 1)
        for line in done
        if line["completion_tokens"] > 1
    ]
    return Times(median(line["ttft_ms"] for line in done), median(gaps or [0.0]), len(done))


@contextmanager
def serving(binary: Path, folder: Path, *arguments: str) -> Iterator[Server]:
    """Start a server at free ports, with a line for each request; it stops at the end."""
    log = folder / f"serve-{time.monotonic_ns()}.log"
    ports = [] if "--worker-port" in arguments else ["--port", "0"]
    command = [str(binary), "serve", *ports, "--log-requests", "--log", "json", *arguments]
    with log.open("w") as out:
        process = subprocess.Popen(command, stderr=out, text=True)
    try:
        found: list[str] = []
        wanted = int(arguments[arguments.index("--workers") + 1]) if "--worker-port" in arguments else 1
        end = time.monotonic() + PATIENCE
        while len(found) < wanted:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.02)
            found = re.findall(r" at (http://[0-9.]+:[0-9]+)/v1", log.read_text())
        yield Server(found, process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, log.read_text()
