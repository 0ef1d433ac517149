# %% [markdown]
# # Should four GPUs prefill and decode together, or apart?
#
# Long prompts hold up the tokens of others where a worker does both. Workers that only prefill keep them apart, but the
# KV cache of each prompt has to move, and a split of GPUs may not fit the load. Which is better depends on the load:
# here it is long prompts with short replies, at three rates.

# %%
from __future__ import annotations

import servecast
from servecast import Trace

DEPLOYMENT = {"model": "meta-llama/Llama-3.1-8B", "gpu": "H100-SXM", "engine_preset": "vllm-0.33"}
SPLITS = {
    "4 aggregated": {"num_workers": 4},
    "1 prefill + 3 decode": {"num_prefill_workers": 1, "num_decode_workers": 3},
    "2 prefill + 2 decode": {"num_prefill_workers": 2, "num_decode_workers": 2},
}
RATES = (4.0, 8.0, 16.0)

# %% [markdown]
# ## Run all of them
#
# The runs share nothing, so they take a core each.

# %%
loads = {rate: Trace.poisson(rate, 300, input_tokens=6000, output_tokens=150, seed=3) for rate in RATES}
cases = [(name, rate) for name in SPLITS for rate in RATES]
reports = servecast.replay_many({"trace_file": loads[rate], **DEPLOYMENT, **SPLITS[name]} for name, rate in cases)

# %% [markdown]
# ## What users see
#
# TTFT is until the first token, ITL between two of them. An aggregated worker has the lower TTFT while there is little
# to do, a split the steadier ITL.

# %%
print(f"{'':24}{'requests/s':>12}{'TTFT p50':>12}{'TTFT p95':>12}{'ITL p50':>12}{'ITL p99':>12}")
for (name, rate), report in zip(cases, reports):
    figures = (report[key] for key in ("median_ttft_ms", "p95_ttft_ms", "median_itl_ms", "p99_itl_ms"))
    print(f"{name:24}{rate:12.0f}" + "".join(f"{figure:12,.1f}" for figure in figures))

# %% [markdown]
# ## Where the time goes
#
# The parts of the TTFT add up to it: what a split saves in one place it may lose in another.

# %%
PARTS = ("engine_queue_ms", "prefill_compute_ms", "kv_transfer_ms", "decode_wait_ms")
print(f"{'at ' + format(RATES[-1], '.0f') + '/s, mean ms':24}" + "".join(f"{part[:-3]:>17}" for part in PARTS))
for (name, rate), report in zip(cases, reports):
    if rate == RATES[-1]:
        print(f"{name:24}" + "".join(f"{sum(report.requests[part]) / report.num_requests:17,.1f}" for part in PARTS))

# %%
by_case = dict(zip(cases, reports))
steadiest = min(SPLITS, key=lambda name: by_case[name, RATES[-1]].p99_itl_ms or float("inf"))
quickest = min(SPLITS, key=lambda name: by_case[name, RATES[-1]].p95_ttft_ms or float("inf"))
print(f"Answer: at {RATES[-1]:.0f}/s tokens are steadiest with {steadiest}, the first comes soonest with {quickest}")
