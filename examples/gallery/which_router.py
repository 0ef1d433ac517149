# %% [markdown]
# # What does a router that knows caches bring?
#
# The users of four workers come back with their whole conversation. A router that sends a request where most of its
# prompt is cached saves that work, and may crowd one worker. Round robin and the least loaded worker know nothing of
# caches.

# %%
from __future__ import annotations

import servecast
from servecast import Trace

DEPLOYMENT = {"model": "meta-llama/Llama-3.1-8B", "gpu": "H100-SXM", "engine_preset": "vllm-0.33", "num_workers": 4}
ROUTERS = ["round_robin", "random", "least_loaded", "prefix_hash", "kv_router"]

# %% [markdown]
# ## A load with something to find
#
# 120 conversations of six turns, each of which adds 1,200 tokens.

# %%
load = Trace.sessions(
    6.0, 120, turns=6, input_tokens=1200, output_tokens=120, delay_ms=2000, trace_block_size=16, seed=5
)
print(load, "of", len({row.get("session_id") for row in load}), "sessions")

# %%
table = servecast.sweep({"trace_file": load, **DEPLOYMENT}, {"router_mode": ROUTERS})

# %% [markdown]
# ## Reuse, time and balance
#
# `prefix_cache_reused_ratio` is the share of prompt tokens that were cached. The busiest worker says what it costs to
# send requests where their prefix is.

# %%
print(f"{'router':16}{'reused':>10}{'TTFT p50':>12}{'TTFT p99':>12}{'busiest worker':>18}")
for run in table["runs"]:
    report = run["report"]
    most = report["pools"][0]["requests_per_worker"]["max"]
    print(
        f"{run['settings']['router_mode']:16}{report['prefix_cache_reused_ratio']:10.1%}"
        f"{report['median_ttft_ms']:12,.1f}{report['p99_ttft_ms']:12,.1f}{most:12,.0f} of {len(load)}"
    )

# %%
best = min(table["runs"], key=lambda run: run["report"]["mean_ttft_ms"])
print(f"Answer: {best['settings']['router_mode']} has the lowest mean TTFT, {best['report']['mean_ttft_ms']:,.1f} ms")
