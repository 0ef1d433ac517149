# %% [markdown]
# # What does an agent cost that comes back thirty times?
#
# An agent sends its whole history with every call, so that its prompts become long, and nearly all of a prompt was
# computed before. Whether it is still cached when the agent comes back from a tool depends on how much KV fits: on the
# GPU, and in the memory of the host if that is used, too.

# %%
from __future__ import annotations

import servecast
from servecast import Trace

DEPLOYMENT = {"model": "meta-llama/Llama-3.1-8B", "gpu": "H100-SXM", "engine_preset": "vllm-0.33"}

# %% [markdown]
# ## The load
#
# 24 agents of 30 calls. Each call adds a tool's answer of 700 tokens, gets 90 tokens back, and the next one follows
# after four seconds of work elsewhere.

# %%
agents = Trace.sessions(
    0.5, 24, turns=30, input_tokens=700, output_tokens=90, delay_ms=4000, trace_block_size=16, seed=2
)
print(agents)
print("the last call of an agent has", max(row["input_length"] for row in agents), "prompt tokens")

# %% [markdown]
# ## Less and less memory
#
# Blocks have 16 tokens. The last two runs have the smallest GPU memory, with 16 GiB and 64 GiB of the host beside it.

# %%
CASES: dict[str, dict[str, object]] = {
    "30,000 blocks": {"num_gpu_blocks": 30_000},
    "12,000 blocks": {"num_gpu_blocks": 12_000},
    "6,000 blocks": {"num_gpu_blocks": 6_000},
    "6,000 + 16 GiB of the host": {"num_gpu_blocks": 6_000, "kv_offloading_size": 16},
    "6,000 + 64 GiB of the host": {"num_gpu_blocks": 6_000, "kv_offloading_size": 64},
}
reports = servecast.replay_many({"trace_file": agents, **DEPLOYMENT, **case} for case in CASES.values())

# %%
print(f"{'':28}{'reused':>10}{'TTFT p50':>12}{'TTFT p99':>12}{'preempted':>12}{'last agent done':>18}")
for name, report in zip(CASES, reports):
    last = max(report.requests["ended_ms"]) / 1000
    print(
        f"{name:28}{report.prefix_cache_reused_ratio:10.1%}{report.p50_ttft_ms:12,.1f}{report.p99_ttft_ms:12,.1f}"
        f"{report.total_preemptions:12,}{last:16,.0f} s"
    )

# %% [markdown]
# ## By call
#
# The first call of an agent computes all of its prompt, a later one only what is new, if the rest is still there.

# %%
for name in ("30,000 blocks", "6,000 blocks"):
    requests = dict(zip(CASES, reports))[name].requests
    rows = list(zip(requests["turn"], requests["input_length"], requests["reused_tokens"]))
    for turn in (0, 10, 29):
        of_turn = [(length, reused) for place, length, reused in rows if place == turn]
        computed = sum(length - reused for length, reused in of_turn) / len(of_turn)
        print(f"{name:20} call {turn + 1:2}: {computed:8,.0f} tokens computed")

# %%
enough = next(name for name, report in zip(CASES, reports) if (report.prefix_cache_reused_ratio or 0) > 0.5)
print(f"Answer: most of the prompts is found again with {enough}")
