"""Compare the index of Dynamo with the router of servecast, both fed by the KV events of a served deployment.

As a program: `python follow_events.py BINARY [PROMPTS]`. Four workers behind `kv_router` serve conversations that share
prefixes, short of KV memory, while a subscriber a worker collects their messages. Then Dynamo's radix tree
(`ai-dynamo-runtime`) and `servecast.Router` get all of them, and have to find the same blocks of each worker for every
prompt.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgpack
import zmq
from dynamo._core import RadixTree, compute_block_hash_for_seq
from servecast import Router
from test_kv_events import BLOCK, ask, free_ports, served

WORKERS = 4
Scores = dict[int, int]
Frames = list[bytes]


def prompts(count: int) -> list[list[int]]:
    """Draw prompts that share beginnings of several lengths."""
    draw = random.Random(7)
    shared = [[draw.randrange(1000, 100_000) for _ in range(800)] for _ in range(12)]
    own = [[draw.randrange(1000, 100_000) for _ in range(draw.randrange(0, 100))] for _ in range(count)]
    return [draw.choice(shared)[: draw.randrange(40, 800)] + tail for tail in own]


def serve(binary: Path, asked: list[list[int]]) -> tuple[list[tuple[int, Frames]], int]:
    """Serve prompts; the messages of all workers, and how many tokens were cached."""
    port = free_ports(2 * WORKERS)
    arguments = ["--workers", str(WORKERS), "--router-mode", "kv_router"]
    endpoints = {"endpoint": f"tcp://*:{port}", "replay_endpoint": f"tcp://*:{port + WORKERS}"}
    with zmq.Context() as context, served(binary, *arguments, **endpoints) as address:
        with ThreadPoolExecutor(16) as clients:
            answers = list(clients.map(lambda prompt: ask(address, prompt, max_tokens=8), asked))
        # The last pass of a worker may be under way.
        time.sleep(0.5)
        messages = []
        for worker in range(WORKERS):
            with context.socket(zmq.DEALER) as late:
                late.setsockopt(zmq.LINGER, 0)
                late.setsockopt(zmq.RCVTIMEO, 20_000)
                late.connect(f"tcp://127.0.0.1:{port + WORKERS + worker}")
                late.send_multipart([b"", bytes(8)])
                while (frames := late.recv_multipart()[1:])[1] != b"\xff" * 8:
                    messages.append((worker, frames))
    cached = sum(answer["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in answers)
    return messages, cached


def of_dynamo(messages: list[tuple[int, Frames]]) -> Callable[[list[int]], Scores]:
    """Give messages to Dynamo's radix tree; what it finds of a prompt by worker."""
    tree, number = RadixTree(), 0
    for worker, frames in messages:
        for event in msgpack.unpackb(frames[2])[1]:
            data: Any = "cleared"
            match event["type"]:
                case "BlockStored":
                    contents = compute_block_hash_for_seq(event["token_ids"], event["block_size"])
                    pairs = zip(event["block_hashes"], contents, strict=True)
                    blocks = [{"block_hash": block, "tokens_hash": content} for block, content in pairs]
                    data = {"stored": {"parent_hash": event["parent_block_hash"], "blocks": blocks}}
                case "BlockRemoved":
                    data = {"removed": {"block_hashes": event["block_hashes"]}}
            number += 1
            tree.apply_event(worker, json.dumps({"event_id": number, "data": data}).encode())

    def scores(prompt: list[int]) -> Scores:
        found: Any = tree.find_matches(compute_block_hash_for_seq(prompt, BLOCK)).scores
        return {worker: blocks for (worker, _), blocks in found.items()}

    return scores


def of_servecast(messages: list[tuple[int, Frames]]) -> Callable[[list[int]], Scores]:
    """Give messages to the router of servecast; what it finds of a prompt by worker."""
    router = Router(block_size=BLOCK, time="explicit")
    for worker in range(WORKERS):
        # Behind one port each worker says that it is the rank of its number.
        router.register_worker(worker, dp_rank_start=worker, now_ms=0)
    for number, (worker, frames) in enumerate(messages):
        applied = router.apply_message(frames, worker=worker, dp_rank=worker, now_ms=number)
        assert not applied.problems, applied

    def scores(prompt: list[int]) -> Scores:
        loads = router.potential_loads(prompt, now_ms=len(messages))
        return {load.worker: load.overlap_blocks for load in loads if load.overlap_blocks}

    return scores


def main() -> None:
    """Run the comparison and say what came out."""
    binary, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 200
    asked = prompts(4 * count)
    messages, cached = serve(binary, asked[: 3 * count])
    theirs, ours = of_dynamo(messages), of_servecast(messages)
    # Half of them were served.
    compared = asked[2 * count + count // 2 :][:count]
    different = [prompt for prompt in compared if theirs(prompt) != ours(prompt)]
    found = sum(bool(theirs(prompt)) for prompt in compared)
    blocks = sum(sum(theirs(prompt).values()) for prompt in compared)
    print(f"{len(messages)} messages of {WORKERS} workers, {cached} tokens were cached when asked for")
    print(f"{count} prompts, {found} of them found, {blocks} blocks: {len(different)} with other scores")
    if different or not blocks:
        sys.exit(1)


if __name__ == "__main__":
    main()
