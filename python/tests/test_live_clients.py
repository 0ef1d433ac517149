"""Clients that people use, against a server."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Server, Times, recorded, serving

openai = pytest.importorskip("openai")

# Passes of 5 ms.
DEPLOYMENT = ("--latency", "linear:5000,0,0", "--served-model-name", "mock", "--num-gpu-blocks", "2000")


@pytest.fixture
def server(binary_path: Path, tmp_path: Path) -> Iterator[Server]:
    """A deployment of one worker."""
    with serving(binary_path, tmp_path, *DEPLOYMENT) as server:
        yield server


def client(server: Server) -> Any:
    """Make a client, which tries nothing twice."""
    return openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0)


def test_answers_are_those_of_a_real_server(server: Server) -> None:
    """Answers as a whole."""
    with client(server) as api:
        assert [model.id for model in api.models.list()] == ["mock"]
        completion = api.completions.create(model="mock", prompt="One, two", max_tokens=7, n=2)
        assert [choice.finish_reason for choice in completion.choices] == ["length", "length"]
        assert completion.usage is not None and completion.usage.completion_tokens == 14
        messages = [{"role": "user", "content": "Why is the sky blue?"}]
        chat = api.chat.completions.create(model="mock", messages=messages, max_completion_tokens=5)
        assert chat.choices[0].message.role == "assistant" and chat.choices[0].message.content
        chat = api.chat.completions.create(model="mock", messages=messages, max_tokens=3, logprobs=True, top_logprobs=2)
        logprobs = chat.choices[0].logprobs.content
        assert len(logprobs) == 3 and all(len(token.top_logprobs) == 2 for token in logprobs)


def test_responses_come_whole_and_as_events(server: Server) -> None:
    """The other API of OpenAI."""
    with client(server) as api:
        whole = api.responses.create(model="mock", input="Why is the sky blue?", max_output_tokens=5)
        assert whole.status == "incomplete" and whole.usage is not None and whole.usage.output_tokens == 5
        events = list(
            api.responses.create(model="mock", input="Why is the sky blue?", max_output_tokens=5, stream=True)
        )
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text and len(deltas) == 5
    assert events[-1].type == "response.completed" and events[-1].response.output_text == whole.output_text


def test_streams_come_token_by_token(server: Server) -> None:
    """A stream has the text of the whole answer, and comes when the passes end."""
    messages = [{"role": "user", "content": "Why is the sky blue?"}]
    seen = []
    with client(server) as api:
        whole = api.chat.completions.create(model="mock", messages=messages, max_tokens=20)
        for _ in range(15):
            started = time.monotonic()
            times, text, usage = [], "", None
            stream = api.chat.completions.create(
                model="mock", messages=messages, max_tokens=20, stream=True, stream_options={"include_usage": True}
            )
            for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    times.append(time.monotonic() - started)
                    text += chunk.choices[0].delta.content
                usage = chunk.usage or usage
            assert text == whole.choices[0].message.content
            assert usage is not None and usage.completion_tokens == 20
            assert usage.prompt_tokens == whole.usage.prompt_tokens
            assert len(times) == 20 and times[-1] >= 0.1
            seen.append(Times(1e3 * times[0], 1e3 * (times[-1] - times[0]) / 19, 1))
    own = [recorded([line]) for line in server.requests() if line["stream"]]
    # The machine may have other things to do.
    assert best(seen).agrees(best(own)), f"{best(seen)} against {best(own)}"


def best(times: list[Times]) -> Times:
    """The best of many."""
    return Times(min(one.ttft for one in times), min(one.itl for one in times), len(times))


def test_errors_become_exceptions(server: Server) -> None:
    """With code, field and message."""
    with client(server) as api:
        with pytest.raises(openai.NotFoundError) as missing:
            api.completions.create(model="other", prompt="x")
        assert missing.value.body["param"] == "model"
        with pytest.raises(openai.BadRequestError) as bad:
            api.completions.create(model="mock", prompt="x", max_tokens=-1)
        assert bad.value.param == "max_tokens" and str(bad.value.code) == "400"
        with pytest.raises(openai.BadRequestError):
            api.chat.completions.create(model="mock", messages=[])


def test_a_stream_that_is_closed_frees_its_place(server: Server) -> None:
    """Long before its end."""
    with client(server) as api:
        stream = api.completions.create(model="mock", prompt="x", max_tokens=5000, stream=True)
        next(iter(stream))
        assert server.metric("vllm:num_requests_running") == 1
        stream.close()
        server.wait_until_idle()
    with pytest.raises(openai.APITimeoutError), client(server) as api:
        api.with_options(timeout=0.3).completions.create(model="mock", prompt="x", max_tokens=5000)
    server.wait_until_idle()
    assert [line["status"] for line in server.requests()] == ["aborted", "aborted"]


def test_many_clients_at_once(server: Server) -> None:
    """All get what they asked for."""

    async def ask(api: Any, number: int) -> int:
        stream = await api.completions.create(model="mock", prompt=f"{number}", max_tokens=number + 1, stream=True)
        return len([chunk async for chunk in stream if chunk.choices])

    async def ask_all() -> list[int]:
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0) as api:
            return await asyncio.gather(*(ask(api, number) for number in range(40)))

    assert asyncio.run(ask_all()) == list(range(1, 41))


def test_curl_gets_a_stream(server: Server) -> None:
    """As the documentation shows it."""
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "stream": True}
    command = ["curl", "-sN", server.url + "/v1/chat/completions", "-H", "Content-Type: application/json"]
    out = subprocess.run([*command, "-d", json.dumps(body)], check=True, capture_output=True, text=True).stdout
    events = [line[6:] for line in out.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]" and len(events) == 5
    assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length"


def test_clients_of_sglang(binary_path: Path, tmp_path: Path) -> None:
    """Both APIs of it."""
    with serving(binary_path, tmp_path, *DEPLOYMENT[:4], "--engine", "sglang") as server:
        with client(server) as api:
            stream = api.chat.completions.create(
                model="mock", messages=[{"role": "user", "content": "hi"}], max_tokens=4, stream=True
            )
            chunks = [chunk.choices[0] for chunk in stream]
        assert chunks[0].delta.role == "assistant" and chunks[-1].finish_reason == "length"
        assert len([chunk for chunk in chunks if chunk.delta.content]) == 4
        body = json.dumps({"text": "hi", "sampling_params": {"max_new_tokens": 3}})
        command = ["curl", "-s", server.url + "/generate", "-H", "Content-Type: application/json", "-d", body]
        answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        assert answer["meta_info"]["completion_tokens"] == 3
        assert server.metric("sglang:num_requests_total") == 2
