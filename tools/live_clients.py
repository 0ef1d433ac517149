"""Load generators and a gateway that people use, against servers: what they report is what the servers say.

Each part is left out whose program is not named. Clients share the processors with all else that runs: on a busy
machine they see tokens late that servers send in time, unless all of this has priority (`nice -n -15`).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "python" / "tests"))

from serving import Server, Times, recorded, serving  # noqa: E402

# Passes of 8 ms, and 20 µs a token of a prompt.
DEPLOYMENT = ("--latency", "linear:8000,20,0", "--num-gpu-blocks", "4000", "--max-num-seqs", "64")
problems: list[str] = []


def check(what: str, is_so: bool, said: str) -> None:
    """Say what came of a check."""
    print(f"{'ok  ' if is_so else 'FAIL'} {what}: {said}", flush=True)
    if not is_so:
        problems.append(what)


def run(command: list[str], folder: Path, **environment: str) -> None:
    """Run a client; its output is in a file."""
    log = folder / f"{Path(command[0]).name}-{time.monotonic_ns()}.txt"
    with log.open("w") as out:
        done = subprocess.run(
            command, stdout=out, stderr=out, cwd=folder, env={**os.environ, **environment}, timeout=600
        )
    if done.returncode:
        print(log.read_text()[-3000:])
        raise SystemExit(f"{command[0]} failed")


def find(value: Any, key: str) -> Iterator[Any]:
    """All values of a key, however deep."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == key:
                yield inner
            yield from find(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from find(inner, key)


def aiperf(program: str, binary: Path, tokenizer: Path, folder: Path) -> None:
    """AIPerf, by concurrency and by rate, chats and completions.

    Where all outputs are equally long, eight requests end in one pass and the next eight start at once, one after the
    other in the client's thread, which stamps each before it sends it. There the client's queue is as long as what is
    measured, so its time between the last byte of a request and the first of an answer is compared.
    """
    loads = [
        ("chat", ["--concurrency", "2"], "time_to_first_token"),
        ("chat", ["--concurrency", "8", "--output-tokens-stddev", "10"], "time_to_first_token"),
        ("chat", ["--concurrency", "8"], "http_req_waiting"),
        ("completions", ["--request-rate", "12"], "time_to_first_token"),
    ]
    for kind, load, first in loads:
        with serving(
            binary, folder, *DEPLOYMENT, "--served-model-name", "mock", "--tokenizer", str(tokenizer)
        ) as server:
            out = folder / f"aiperf-{kind}{''.join(load)}"
            run(
                [
                    *[program, "profile", "--model", "mock", "--url", server.url, "--endpoint-type", kind],
                    *["--streaming", "--tokenizer", str(tokenizer), "--synthetic-input-tokens-mean", "200"],
                    *["--output-tokens-mean", "40", "--extra-inputs", "ignore_eos:true", "--request-count", "60"],
                    *load,
                    *["--export-http-trace", "--ui", "none", "--artifact-dir", str(out)],
                ],
                folder,
            )
            [path] = out.rglob("profile_export_aiperf.json")
            report = json.loads(path.read_text())
            seen = Times(
                report[first]["p50"],
                report["inter_token_latency"]["p50"],
                int(report["request_count"]["avg"]),
            )
            own = recorded(server.requests())
            what = f"aiperf {kind} {' '.join(load)}"
            by_client = f"{first} {seen.ttft:.2f} ms of a TTFT of {report['time_to_first_token']['p50']:.2f} ms"
            agree = seen.agrees(own) and seen.requests == 60
            check(what, agree, f"{by_client}, ITL {seen.itl:.2f} ms ({seen.requests} requests); the server: {own}")


def guidellm(program: str, binary: Path, tokenizer: Path, folder: Path) -> None:
    """GuideLLM at a constant rate."""
    with serving(binary, folder, *DEPLOYMENT, "--served-model-name", "mock", "--tokenizer", str(tokenizer)) as server:
        out = folder / "guidellm.json"
        run(
            [
                *[program, "run", "--backend", f"kind=openai_http,target={server.url},model=mock"],
                *["--profile", "kind=constant,rate=8", "--constraint", "kind=max_requests,count=40"],
                *["--tokenizer", f"kind=huggingface_auto,model={tokenizer}"],
                *["--data", "kind=synthetic_text,prompt_tokens=200,output_tokens=40"],
                *["--output", f"kind=json,path={out}", "--disable-console-interactive"],
            ],
            folder,
        )
        report = json.loads(out.read_text())

        def median(key: str) -> float:
            values = [value["successful"]["median"] for value in find(report, key) if isinstance(value, dict)]
            return float(values[0])

        own = recorded(server.requests())
        seen = Times(median("time_to_first_token_ms"), median("inter_token_latency_ms"), own.requests)
        check("guidellm", seen.agrees(own), f"{seen}; the server: {own}")


def free_ports(count: int) -> int:
    """The first of some ports that nobody has, below those that the system gives to whoever asks for any."""
    while True:
        first = random.randrange(15_000, 30_000)
        with ExitStack() as taken:
            try:
                for port in range(first, first + count):
                    taken.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first


@contextmanager
def gateway(program: str, folder: Path, arguments: list[str]) -> Iterator[str]:
    """An SMG gateway in front of workers."""
    port = free_ports(1)
    log = (folder / f"smg-{time.monotonic_ns()}.txt").open("w")
    command = [program, "launch", "--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_ports(1))]
    process = subprocess.Popen([*command, *arguments], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 60
        while True:
            try:
                ask(url, "x", 1)
                break
            except OSError as error:
                if process.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"smg does not serve: {Path(log.name).read_text()[-3000:]}") from error
                time.sleep(0.3)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def ask(url: str, prompt: str, tokens: int) -> dict[str, Any]:
    """A completion."""
    body = {"model": "mock", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True}
    head = {"Content-Type": "application/json"}
    request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(), head)
    with urllib.request.urlopen(request, timeout=60) as answer:
        result: dict[str, Any] = json.loads(answer.read())
        return result


def prompts() -> list[str]:
    """Requests in random order: 12 groups with 600 words in common, 15 of each."""
    rng = random.Random(11)

    def words(count: int) -> str:
        return " ".join(f"w{rng.randrange(10_000)}" for _ in range(count))

    groups = [words(600) for _ in range(12)]
    all_prompts = [f"{group} {words(20)}" for group in groups for _ in range(15)]
    rng.shuffle(all_prompts)
    return all_prompts


def smg(program: str, binary: Path, folder: Path) -> None:
    """SMG in front of four workers, whose caches hold a part of the prompts each."""
    reuse = {}
    for policy in ["round_robin", "power_of_two", "cache_aware"]:
        first = free_ports(4)
        workers = ["--workers", "4", "--worker-port", str(first), "--num-gpu-blocks", "600", "--block-size", "16"]
        with serving(
            binary, folder, "--latency", "linear:4000,20,0", "--served-model-name", "mock", *workers
        ) as server:
            with gateway(program, folder, ["--policy", policy, "--worker-urls", *server.ports]) as url:
                before = totals(server)
                with ThreadPoolExecutor(8) as pool:
                    usages = [answer["usage"] for answer in pool.map(lambda prompt: ask(url, prompt, 8), prompts())]
                after = totals(server)
        queries, hits, requests = (sum(two) - sum(one) for one, two in zip(before, after, strict=True))
        told = sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in usages)
        spread = [two - one for one, two in zip(before[2], after[2], strict=True)]
        reuse[policy] = hits / queries
        check(
            f"smg {policy}",
            hits == told and requests == len(usages),
            f"{hits / queries:.1%} reused; answers say {told} tokens and workers {hits:.0f}; requests {spread}",
        )
    check("smg cache_aware reuses more", reuse["cache_aware"] > reuse["round_robin"] + 0.05, str(reuse))


def disaggregated(program: str, binary: Path, folder: Path) -> None:
    """SMG that sends each request to a worker for prefill and to one for decode: ours hand nothing over."""
    for engine, count in [("vllm", "vllm:request_success_total"), ("sglang", "sglang:num_requests_total")]:
        workers = ["--engine", engine, "--workers", "2", "--worker-port", str(free_ports(2))]
        with serving(
            binary, folder, "--latency", "linear:4000,20,0", "--served-model-name", "mock", *workers
        ) as server:
            ports = ["--prefill", server.ports[0], "--decode", server.ports[1]]
            if engine == "sglang":
                ports.insert(2, str(free_ports(1)))
            with gateway(program, folder, ["--backend", engine, "--pd-disaggregation", *ports]) as url:
                before = [server.metric(count, port) for port in range(2)]
                tokens = [ask(url, f"prompt {number}", 8)["usage"]["completion_tokens"] for number in range(20)]
                after = [server.metric(count, port) for port in range(2)]
        came = [two - one for one, two in zip(before, after, strict=True)]
        check(f"smg prefill and decode, {engine}", tokens == [8] * 20 and came == [20, 20], f"requests {came}")


def totals(server: Server) -> list[list[float]]:
    """Queries, hits and requests of each worker."""
    names = ["vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total", "vllm:request_success_total"]
    return [[server.metric(name, port) for port in range(len(server.ports))] for name in names]


def main() -> int:
    """Run all parts that can be run."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ["servecast", "aiperf", "guidellm", "smg", "tokenizer"]:
        parser.add_argument(f"--{name}", type=Path, required=name == "servecast")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.aiperf:
            aiperf(str(given.aiperf), given.servecast, given.tokenizer, folder)
        if given.guidellm:
            guidellm(str(given.guidellm), given.servecast, given.tokenizer, folder)
        if given.smg:
            smg(str(given.smg), given.servecast, folder)
            disaggregated(str(given.smg), given.servecast, folder)
    print(f"load average {os.getloadavg()[0]:.1f}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
