"""KV events of a served deployment, as subscribers with pyzmq have them."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

BLOCK = 16
Message = tuple[bytes, int, Any]


def free_ports(count: int) -> int:
    """Find so many ports in a row that are free, and name the first."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first: int = probe.getsockname()[1]
        probes = [socket.socket() for _ in range(count)]
        try:
            for port, probe in enumerate(probes, first):
                probe.bind(("0.0.0.0", port))
        except (OSError, OverflowError):
            continue
        else:
            return first
        finally:
            for probe in probes:
                probe.close()


@contextmanager
def served(binary: Path, *arguments: str, **config: Any) -> Iterator[str]:
    """Serve a deployment that publishes events; the address of its API."""
    events = json.dumps({"enable_kv_cache_events": True, **config})
    command = [str(binary), "serve", "--port", "0", "--latency", "linear:1000,0,0", "--block-size", str(BLOCK)]
    command += ["--num-gpu-blocks", "100", "--kv-events-config", events, *arguments]
    environment = {"PYTHONHASHSEED": "0"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stderr is not None
        try:
            for line in server.stderr:
                if found := re.search(r"at (http://\S+)/v1", line):
                    yield found[1]
                    break
            else:
                pytest.fail("the server does not start")
        finally:
            server.terminate()


def ask(address: str, prompt: list[int], **more: Any) -> dict[str, Any]:
    """Ask for two tokens."""
    body = json.dumps({"prompt": prompt, "max_tokens": 2, "return_token_ids": True, **more}).encode()
    head = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/v1/completions", body, head)
    with urllib.request.urlopen(request, timeout=30) as answer:
        result: dict[str, Any] = json.load(answer)
    return result


def read(frames: list[bytes]) -> Message:
    """Topic, number and content of a message."""
    topic, number, payload = frames
    return topic, int.from_bytes(number, "big"), msgpack.unpackb(payload)


def replayed(context: zmq.Context[Any], port: int, start: int) -> list[Message]:
    """Ask for the messages from one on."""
    with context.socket(zmq.DEALER) as late:
        late.setsockopt(zmq.LINGER, 0)
        late.setsockopt(zmq.RCVTIMEO, 20_000)
        late.connect(f"tcp://127.0.0.1:{port}")
        late.send_multipart([b"", start.to_bytes(8, "big")])
        messages: list[Message] = []
        while True:
            empty, *frames = late.recv_multipart()
            assert empty == b""
            if frames[1] == b"\xff" * 8:
                return messages
            messages.append(read(frames))


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    """ZeroMQ, closed at the end."""
    with zmq.Context() as context:
        yield context


def subscribe(context: zmq.Context[Any], port: int, topic: str = "") -> zmq.Socket[Any]:
    """Subscribe to events."""
    subscriber: zmq.Socket[Any] = context.socket(zmq.SUB)
    subscriber.setsockopt(zmq.LINGER, 0)
    subscriber.setsockopt(zmq.RCVTIMEO, 20_000)
    subscriber.setsockopt(zmq.HEARTBEAT_IVL, 100)
    subscriber.subscribe(topic)
    subscriber.connect(f"tcp://127.0.0.1:{port}")
    return subscriber


def test_who_comes_late_catches_up(binary_path: Path, context: zmq.Context[Any]) -> None:
    port = free_ports(2)
    endpoints = {"endpoint": f"tcp://*:{port}", "replay_endpoint": f"tcp://*:{port + 1}", "topic": "kv@mock"}
    with served(binary_path, **endpoints) as address:
        early = subscribe(context, port, "kv@")
        # The subscription takes its way.
        time.sleep(0.3)
        for number in range(5):
            ask(address, [number] * 1000)
        late = subscribe(context, port)
        # It hears of something, and asks for what was before.
        messages: list[Message] = []
        while not messages:
            number += 1
            ask(address, [number] * 1000)
            if late.poll(200):
                messages.append(read(late.recv_multipart()))
        first = messages[0][1]
        assert first >= 5
        ask(address, [999] * 1000)
        # Without a gap, whatever is in both.
        caught_up = [message for message in replayed(context, port + 1, 0) if message[1] < first]
        heard = [read(early.recv_multipart()) for _ in range(first + 2)]
        assert caught_up + messages + [read(late.recv_multipart())] == heard
        assert [(topic, number) for topic, number, _ in heard] == [(b"kv@mock", at) for at in range(first + 2)]
        assert len(replayed(context, port + 1, 3)) == first - 1
        assert replayed(context, port + 1, 1_000_000) == []
        early.close()
        late.close()
    # What an index makes of it fits into the cache.
    stored: set[int] = set()
    for _, _, (_, events, rank) in heard:
        assert rank == 0
        for event in events:
            match event["type"]:
                case "BlockStored":
                    stored.update(event["block_hashes"])
                case "BlockRemoved":
                    stored.difference_update(event["block_hashes"])
    assert 50 < len(stored) < 100


@pytest.mark.parametrize("layout", ["map", "array"])
def test_blocks_are_identified_as_vllm_does(binary_path: Path, context: zmq.Context[Any], layout: str) -> None:
    port = free_ports(2)
    endpoints = {"endpoint": f"tcp://*:{port}", "replay_endpoint": f"tcp://*:{port + 1}"}
    with served(binary_path, "--kv-events-format", layout, **endpoints) as address:
        answer = ask(address, list(range(100, 140)), max_tokens=25)
        again = ask(address, list(range(100, 150)))
        messages = replayed(context, port + 1, 0)
    tokens = list(range(100, 140)) + answer["choices"][0]["token_ids"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 32

    def digest(value: object) -> bytes:
        return hashlib.sha256(pickle.dumps(value, protocol=5)).digest()

    parent, expected = digest("0"), []
    for start in range(0, 64, BLOCK):
        parent = digest((parent, tuple(tokens[start : start + BLOCK]), None))
        expected.append((int.from_bytes(parent[-8:], "big"), tokens[start : start + BLOCK]))
    found = []
    for _, _, (_, events, _) in messages:
        for event in events:
            hashes, ids = (event["block_hashes"], event["token_ids"]) if layout == "map" else event[1:4:2]
            found += [(number, ids[at * BLOCK :][:BLOCK]) for at, number in enumerate(hashes)]
    assert found[:4] == expected
