"""Clients of all kinds against a served deployment for a long time: nothing may leak, and nothing may break it.

As a program: `python soak.py BINARY [SECONDS]`. Clients connect, stream, read slowly, go away in the middle and send
what is no request, while workers fail and come back; then 10,000 connections do nothing. Whoever reads to the end gets
there. At the end the server still answers, no request is left in the engines, and its memory is what it was after a
quarter of the time.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

CLIENTS = 24
CONNECTIONS = 10_000
# That a port serves at a time; so many more wait to be taken as the system lets wait.
SERVED = 8192
WORKERS = 3
# Memory may still settle a little.
GROWTH_MB = 24.0


class Server:
    """A server, its ports and what it needs."""

    def __init__(self, binary: Path) -> None:
        command = [str(binary), "serve", "--port", "0", "--admin-port", "0", "--workers", str(WORKERS), "--seed", "7"]
        command += ["--latency", "linear:2000,5,20", "--num-gpu-blocks", "600", "--block-size", "16"]
        command += ["--router-mode", "kv_router", "--max-queue", "200", "--fail", "rate=0.01", "--startup-s", "0.2"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        ports: list[int] = []
        for line in self.process.stderr:
            ports += [int(port) for port in re.findall(r"at http://127\.0\.0\.1:(\d+)", line)]
            if len(ports) == 2:
                break
        self.admin, self.port = ports

    def rss_mb(self) -> float:
        """Memory of the server."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found[1]) / 1e3

    def get(self, path: str, port: int | None = None, method: str = "GET") -> str:
        """Ask for a page."""
        with socket.create_connection(("127.0.0.1", port or self.port), 30) as client:
            head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            client.sendall(head.encode())
            return b"".join(iter(lambda: client.recv(65536), b"")).decode()


def request(body: bytes, length: int | None = None) -> bytes:
    """A request to complete something."""
    length = len(body) if length is None else length
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body


def prompt(draw: random.Random, most: int) -> bytes:
    """The body of a request that streams."""
    tokens = [draw.randrange(50)] * draw.randrange(1, 400) + [draw.randrange(1000) for _ in range(draw.randrange(200))]
    return json.dumps({"prompt": tokens, "max_tokens": draw.randrange(1, most), "stream": draw.random() < 0.8}).encode()


def bad(draw: random.Random) -> bytes:
    """What is no request, or none that is served."""
    return draw.choice(
        [
            b"\x16\x03\x01\x02\x00\x01\x00" * 20,
            b"GET\r\n\r\n",
            b"POST /v1/completions HTTP/1.1\r\nContent-Length: x\r\n\r\n",
            request(b"[" * 100_000),
            request(b"\xff\xfe{}"),
            request(b'{"prompt": "\\ud800"}'),
            request(b" " * 10_000, 100 << 20),
            request(b'{"prompt": "x", "max_tokens": -1}'),
            request(b"{", 200),
            b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        ]
    )


def listen(peer: socket.socket, seconds: float) -> None:
    """Listen for so long; whoever has heard nothing by then goes away."""
    peer.settimeout(seconds)
    with contextlib.suppress(TimeoutError):
        peer.recv(1000)


def client(server: Server, seed: int, until: float, done: Counter[str]) -> None:
    """One client after the other."""
    draw = random.Random(seed)
    while time.monotonic() < until:
        kind = draw.choices(["reads", "leaves", "slow", "bad"], [5, 3, 1, 2])[0]
        try:
            with socket.create_connection(("127.0.0.1", server.port), 30) as peer:
                if kind == "bad":
                    peer.sendall(bad(draw))
                    listen(peer, 0.2)
                elif kind == "leaves":
                    peer.sendall(request(prompt(draw, 2000)))
                    listen(peer, draw.random() * 0.3)
                else:
                    peer.sendall(request(prompt(draw, 60)))
                    while peer.recv(100 if kind == "slow" else 65536):
                        time.sleep(0.02 if kind == "slow" else 0)
            done[kind] += 1
        except OSError as error:
            done[f"{kind}: {type(error).__name__}"] += 1


def failures(server: Server, seed: int, until: float, done: Counter[str]) -> None:
    """Let workers fail and come back."""
    draw = random.Random(seed)
    while time.monotonic() < until:
        worker = draw.randrange(WORKERS)
        for act in ("fail", "restart"):
            server.get(f"/workers/{worker}/{act}", server.admin, "POST")
            time.sleep(draw.random() * 2)
        done["worker failed"] += 1


def idle_connections(server: Server) -> int:
    """Open connections that do nothing; how many there could be. With half of them gone the server answers others."""
    peers = []
    try:
        for _ in range(CONNECTIONS):
            peers.append(socket.create_connection(("127.0.0.1", server.port), 5))
    except TimeoutError:
        # The queue of connections that were not taken yet is full (net.core.somaxconn).
        assert len(peers) >= SERVED, f"{len(peers)} connections, then none for 5 s"
    for peer in peers[: len(peers) // 2]:
        peer.close()
    assert "200 OK" in server.get("/health")
    for peer in peers:
        peer.close()
    return len(peers)


def left(server: Server) -> float:
    """Requests in the engines."""
    page = server.get("/metrics")
    gauges = re.findall(r"^vllm:num_requests_(?:running|waiting)\{.*\} (\S+)$", page, re.MULTILINE)
    assert len(gauges) == 2 * WORKERS
    return sum(map(float, gauges))


def main() -> None:
    """Run the clients and say what came of it."""
    binary, seconds = Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 600.0
    server = Server(binary)
    done: Counter[str] = Counter()
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=client, args=(server, seed, until, done)) for seed in range(CLIENTS)]
    threads.append(threading.Thread(target=failures, args=(server, 99, until, done)))
    for thread in threads:
        thread.start()
    memory = []
    while time.monotonic() < until:
        time.sleep(min(seconds / 40, 5))
        memory.append(server.rss_mb())
    for thread in threads:
        thread.join()
    opened = idle_connections(server)
    for worker in range(WORKERS):
        server.get(f"/workers/{worker}/restart", server.admin, "POST")
    deadline = time.monotonic() + 30
    while left(server) > 0 and time.monotonic() < deadline:
        time.sleep(0.2)
    remaining, after = left(server), server.rss_mb()
    assert server.process.poll() is None, "the server has ended"
    server.process.terminate()
    assert server.process.wait(20) == 0
    settled = memory[len(memory) // 4]
    most = max(memory[len(memory) // 4 :])
    print(", ".join(f"{kind} {count}" for kind, count in sorted(done.items())))
    print(f"{seconds:.0f} s, {opened} idle connections; {remaining:.0f} requests are left; memory {settled:.0f} MB")
    print(
        f"after a quarter, {most:.0f} at most from then on, "
        f"{memory[-1]:.0f} with the last client, {after:.0f} at the end"
    )
    starved = sum(count for kind, count in done.items() if "TimeoutError" in kind)
    if remaining or starved or most > settled + GROWTH_MB:
        sys.exit(1)


if __name__ == "__main__":
    main()
