# %% [markdown]
# # How many GPUs does this load need?
#
# A chat service with Llama-3.1-8B on H100s is to answer 12 requests a second, with a first token within 300 ms and
# 25 ms between tokens for 95 % of them. How many GPUs is that, and what would they do under twice the load?
#
# The cells run as they are, in a notebook (Jupyter and VS Code open this file as one) or as a script.

# %%
from __future__ import annotations

from typing import Any

import servecast
from servecast import Trace

LOAD = Trace.poisson(
    12.0,
    600,
    input_tokens=1800,
    output_tokens=220,
    length_distribution="lognormal",
    length_spread=0.6,
    seed=1,
)
TARGETS = ["p95 ttft <= 300ms", "p95 itl <= 25ms"]
DEPLOYMENT: dict[str, Any] = {"model": "meta-llama/Llama-3.1-8B", "gpu": "H100-SXM", "engine_preset": "vllm-0.33"}

# %% [markdown]
# ## Search
#
# What is given is fixed, what is not given is tried: workers, tensor parallelism, routers, sizes of batches.

# %%
answer = servecast.recommend(LOAD, slo=TARGETS, max_gpus=8, **DEPLOYMENT)
print(answer)

# %% [markdown]
# ## How good is it?
#
# The first of the ranking is run by itself, beside the same deployment under twice the load.

# %%
best = answer.best
if best is None:
    raise SystemExit("no deployment of up to 8 GPUs keeps the targets")
runs = [
    {"trace_file": LOAD, **DEPLOYMENT, **best["settings"], "arrival_speedup_ratio": factor} for factor in (1.0, 2.0)
]
for factor, report in zip((1, 2), servecast.replay_many(runs)):
    print(f"{factor} x the load: TTFT p95 {report.p95_ttft_ms:,.0f} ms, ITL p95 {report.p95_itl_ms:,.1f} ms")

# %% [markdown]
# The commands that start it for real:

# %%
print(answer.start)
print(f"Answer: {best['deployment']}")
