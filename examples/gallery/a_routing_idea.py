# %% [markdown]
# # Would it help to keep documents off the workers that chat?
#
# Chats of a few hundred tokens share four GPUs with documents of 20,000. An idea: documents go to one worker, chats to
# the one of the others that has the fewest prompt tokens to compute; only when the worker for documents is far behind
# does it get help. No router has that policy, but a function can try it.

# %%
from __future__ import annotations

import random
from typing import Any

import servecast
from servecast import Candidate, RoutedRequest

DEPLOYMENT: dict[str, Any] = {"model": "meta-llama/Llama-3.1-8B", "gpu": "H100-SXM", "num_workers": 4}

# %% [markdown]
# ## The load
#
# Twenty chats a second, and a document every two seconds; each row says what it is.

# %%
draw = random.Random(5)


def rows(kind: str, rate: float, seconds: float, tokens: tuple[int, int], output: int) -> list[dict[str, Any]]:
    """Return requests of a kind by a Poisson process, with prompts of lengths between two."""
    made, at = [], 0.0
    while (at := at + draw.expovariate(rate)) < seconds:
        length = draw.randint(*tokens)
        made.append({"timestamp": 1000 * at, "input_length": length, "output_length": output, "class": kind})
    return made


load = rows("chat", 20, 40, (200, 800), 120) + rows("document", 0.5, 40, (15_000, 25_000), 200)

# %% [markdown]
# ## The idea
#
# A policy is a function of a request and the workers that it may go to. These say what they have to do.

# %%
FAR_BEHIND = 60_000


def apart(request: RoutedRequest, candidates: tuple[Candidate, ...]) -> Candidate:
    """Send documents to the last worker, chats to the others, by what each has to compute."""
    *others, last = candidates
    if request.class_name == "document" and last.prefill_tokens < FAR_BEHIND:
        return last
    return min(others, key=lambda one: (one.prefill_tokens, one.in_flight))


# %% [markdown]
# ## Against the policies that there are

# %%
policies: dict[str, dict[str, Any]] = {
    "round robin": {"router_mode": "round_robin"},
    "least loaded": {"router_mode": "least_loaded"},
    "KV router": {"router_mode": "kv_router"},
    "documents apart": {"router": apart},
}
reports = {name: servecast.run_trace_replay(load, **DEPLOYMENT, **policy) for name, policy in policies.items()}

print(f"{'p99 TTFT, ms':20}{'chat':>10}{'document':>10}{'p99 ITL':>10}")
for name, report in reports.items():
    chat, document = (report["classes"][kind]["ttft_ms"]["p99"] for kind in ("chat", "document"))
    print(f"{name:20}{chat:10,.0f}{document:10,.0f}{report.p99_itl_ms or 0.0:10,.1f}")

# %%
chats = {name: float(report["classes"]["chat"]["ttft_ms"]["p99"]) for name, report in reports.items()}
ours = chats.pop("documents apart")
best = min(chats, key=lambda name: chats[name])
verdict = "helps" if ours < chats[best] else "does not help"
print(f"Answer: it {verdict}: p99 TTFT of chats is {ours:,.0f} ms, with the best other ({best}) {chats[best]:,.0f} ms")
