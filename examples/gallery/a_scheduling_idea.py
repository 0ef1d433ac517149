# %% [markdown]
# # Would it help to serve short prompts first?
#
# A queue of mixed prompts has the short ones wait for the long ones. An idea: let the engine take short prompts first.
# SGLang goes by a `priority` that each request brings along, so that the idea needs no change of the engine: the rows
# of the trace say what is urgent. Who pays for it?

# %%
from __future__ import annotations

from typing import Any

import servecast
from servecast import Trace

DEPLOYMENT: dict[str, Any] = {
    "engine": "sglang",
    "model": "meta-llama/Llama-3.1-8B",
    "gpu": "H100-SXM",
    "max_running_requests": 24,
}

# %% [markdown]
# ## A queue
#
# Prompts are of 300 to 20,000 tokens, and come faster than 24 seats can serve them for a while.

# %%
load = Trace.gamma(
    9.0,
    400,
    burstiness=0.4,
    input_tokens=3000,
    output_tokens=160,
    length_distribution="lognormal",
    length_spread=1.5,
    seed=11,
)

# %% [markdown]
# ## The idea, as data
#
# Three classes of prompts by length; the shortest are the most urgent.

# %%
SHORT, LONG = 1000, 6000


def urgency(row: dict[str, Any]) -> int:
    """Return 2 for short prompts, 1 for those in between, 0 for long ones."""
    return int(row["input_length"] < LONG) + int(row["input_length"] < SHORT)


urgent = Trace(({**row, "priority": urgency(row)} for row in load), block_size=load.block_size)
runs = {
    "in order of arrival": servecast.run_trace_replay(load, **DEPLOYMENT),
    "short prompts first": servecast.run_trace_replay(urgent, enable_priority_scheduling=True, **DEPLOYMENT),
}

# %% [markdown]
# ## Who gains, who pays

# %%
CLASSES = {"short": (0, SHORT), "medium": (SHORT, LONG), "long": (LONG, 10**9)}


def mean_ttft(report: servecast.Report, low: int, high: int) -> float:
    """Return the mean TTFT of prompts of some lengths, in ms."""
    rows = zip(report.requests["input_length"], report.requests["ttft_ms"])
    times = [float(ttft) for length, ttft in rows if low <= length < high and ttft is not None]
    return sum(times) / len(times)


print(f"{'mean TTFT, ms':24}" + "".join(f"{name:>12}" for name in CLASSES) + f"{'all':>12}")
for name, report in runs.items():
    means = [mean_ttft(report, *limits) for limits in CLASSES.values()]
    print(f"{name:24}" + "".join(f"{mean:12,.0f}" for mean in [*means, report.mean_ttft_ms or 0.0]))

# %% [markdown]
# ## Is it more than noise?
#
# `compare` pairs the two runs request by request.

# %%
compared = servecast.compare(*runs.values(), different_workloads=True)
print(compared.runs[0]["name"], "against", compared.baseline["name"])

# %%
before, after = (report.mean_ttft_ms or 0.0 for report in runs.values())
verdict = "helps" if after < before else "does not help"
print(f"Answer: it {verdict}: the mean TTFT is {after:,.0f} ms instead of {before:,.0f} ms")
