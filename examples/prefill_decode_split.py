# %% [markdown]
# # How many of eight workers should prefill?
#
# Eight GPUs serve the same requests as 2 prefill and 6 decode workers, or as 3 and 5. Which split gives the better time
# to first token (TTFT), and what does it cost between tokens (ITL)?
#
# The cells run as they are, in a notebook (Jupyter and VS Code open this file as one) or as a script:
#
# ```console
# $ python examples/prefill_decode_split.py mooncake_conversation.jsonl
# ```
#
# Charts need matplotlib and are left out without it.

# %%
from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

import servecast
from servecast import EngineArgs, Report

ARGUMENTS = [argument for argument in sys.argv[1:] if argument.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst"))]
TRACE = ARGUMENTS[0] if ARGUMENTS else "mooncake_conversation.jsonl"
SPLITS = {"2 prefill + 6 decode": (2, 6), "3 prefill + 5 decode": (3, 5)}

# %% [markdown]
# ## Run both
#
# A prompt's KV cache of 128 KiB a token goes to its decode worker over a link of 25 GB/s. The two runs share nothing,
# so they take a core each.

# %%
ENGINE = EngineArgs(kv_bytes_per_token=131072, kv_transfer_bandwidth=25)


def run(splits: dict[str, tuple[int, int]]) -> dict[str, Report]:
    """Return a report for each split, by its name."""
    runs = [
        {
            "trace_file": TRACE,
            "prefill_engine_args": ENGINE,
            "decode_engine_args": ENGINE,
            "num_prefill_workers": prefill,
            "num_decode_workers": decode,
            "router_mode": "kv_router",
        }
        for prefill, decode in splits.values()
    ]
    return dict(zip(splits, servecast.replay_many(runs)))


reports = run(SPLITS)

# %% [markdown]
# ## In numbers


# %%
def known(values: Sequence[float | None]) -> list[float]:
    """Return the values in order, without those of requests that have none: they were rejected."""
    return sorted(float(value) for value in values if value is not None and value == value)


def quantile(values: Sequence[float | None], share: float) -> float:
    """Return the value that a share of the values does not exceed."""
    in_order = known(values)
    return in_order[min(int(share * len(in_order)), len(in_order) - 1)]


def print_table(reports: dict[str, Report]) -> None:
    """Print the TTFT of both at some quantiles, and what else they differ in."""
    rows = [("", *reports)]
    for share in (0.5, 0.75, 0.9, 0.99):
        figures = (quantile(report.requests["ttft_ms"], share) for report in reports.values())
        rows.append((f"TTFT p{share * 100:.0f} (ms)", *(f"{figure:,.0f}" for figure in figures)))
    for title, key in (("ITL mean (ms)", "mean_itl_ms"), ("ITL p99 (ms)", "p99_itl_ms")):
        rows.append((title, *(f"{report[key]:,.2f}" for report in reports.values())))
    for part in ("router_queue", "engine_queue", "prefill_compute", "kv_transfer", "decode_wait"):
        parts = (known(report.requests[f"{part}_ms"]) for report in reports.values())
        figures = (sum(values) / len(values) for values in parts)
        rows.append((f"of the mean TTFT: {part} (ms)", *(f"{figure:,.1f}" for figure in figures)))
    for row in rows:
        print(f"{row[0]:40}" + "".join(f"{cell:>24}" for cell in row[1:]))


print_table(reports)

# %% [markdown]
# ## As curves
#
# The cumulative distribution says which share of requests had their first token by then.


# %%
def plot(reports: dict[str, Report], path: str) -> None:
    """Draw the distribution of the TTFT of each, with a logarithmic axis."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for name, report in reports.items():
        ttft = known(report.requests["ttft_ms"])
        axes.step(ttft, [(place + 1) / len(ttft) for place in range(len(ttft))], where="post", label=name)
    axes.set(xscale="log", xlabel="TTFT (ms)", ylabel="share of requests", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)
    print(f"wrote {path}")


if find_spec("matplotlib") is not None:
    plot(reports, "ttft_cdf.png")
else:
    print("no chart: matplotlib is not installed")
