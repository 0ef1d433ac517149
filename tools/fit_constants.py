#!/usr/bin/env python3
"""Fits the constants around operator tables to a table of measured runs, and says how far off they are elsewhere.

    tools/fit_constants.py measured.csv.gz --servecast target/release/servecast

runs `servecast validate --silicon` with the front ends of constants.toml and without factors, fits, and rewrites, in
crates/ops/data,

- constants.toml: front end by engine, factors by engine, generation and family, and how far off TPOT and TTFT are
  on runs that were left out of the fit;
- cross-validation.toml: the same constants fitted without each fifth of the scenarios, each family and each GPU,
  which `servecast validate --cross-validate` replays the left-out runs with.

A scenario is model, GPU, engine, number format and lengths: all of its parallelism and loads are in one fold. Only runs
that are judged count (docs/accuracy.md). Front ends slow a closed loop down, so run it again until they no longer
change by more than a few per cent. They never quite settle: `--check` lets them, and what follows from them, be as far
off as one more fit moves them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

# A run, as `servecast validate --silicon` prints it.
Row: TypeAlias = dict[str, Any]
Rows: TypeAlias = list[Row]
Floats: TypeAlias = NDArray[np.float64]
# Engine, generation of the GPU, family of the model.
Group: TypeAlias = tuple[str, str, str]

FOLDS = 5
# Rows that a factor of a family needs, and how many rows of factor 1 it is averaged with.
LEAST_ROWS = 12
SHRINK_ROWS = 4
# Rows that an error bar needs.
LEAST_BAR = 12
# Front-end times that are tried: ms, and ms for each 1,000 prompt tokens.
BASES_MS = np.arange(0.0, 300.0, 1.0)
SLOPES_MS = np.arange(0.0, 4.1, 0.2)
# Factors of passes with prompts that are tried.
PROMPT_FACTORS = np.round(np.arange(0.8, 1.41, 0.01), 2)
# By how much, as a share, a slope has to lower the error.
LEAST_GAIN = 0.02
# Factors that are tried.
FACTORS = np.exp(np.linspace(-0.6, 0.6, 601))
# Lengths are uniform in 80 to 100 % of the nominal ones.
MEAN_SHARE = 0.9
# How far figures move from one fit to the next, by key, and µs of the front end of a prompt of 1,000 tokens.
NEAR = {"factor": 0.02, "tpot_mape": 1.0, "ttft_mape": 1.5, "tpot_p90": 2.0, "ttft_p90": 4.0}
NEAR_FRONT_END_US = 4000.0
ROOT = Path(__file__).resolve().parent.parent


def fnv1a(text: str) -> int:
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    # The low bits of FNV-1a are mixed badly.
    return value ^ (value >> 32)


def scenario(row: Row) -> str:
    return "|".join(str(row[key]) for key in ("model", "gpu", "engine", "dtype", "isl", "osl"))


def left_out(row: Row, kind: str) -> str:
    """The name of the fold that a row is in."""
    if kind == "scenario":
        return str(fnv1a(scenario(row)) % FOLDS)
    return str(row[kind])


def usable(results: dict[str, Any]) -> Rows:
    return [row for row in results["rows"] if row["judged"] and row["simulated"]]


def group(row: Row) -> Group:
    return (row["engine"], row["generation"], row["family"])


class Constants:
    """Front ends by engine, and factors and front ends by engine, generation and family."""

    def __init__(self, rows: Rows, families: bool = True) -> None:
        # Base and slope in ms, the error that is left, and runs.
        self.front_ends: dict[str, tuple[float, float, float, int]] = {}
        self.prompts: dict[str, tuple[float, int]] = {}
        self.factors: dict[Group, tuple[float, float, int]] = {}
        self.own_front_ends: dict[Group, tuple[float, float, float]] = {}
        for engine in sorted({row["engine"] for row in rows}):
            chosen = [row for row in rows if row["engine"] == engine]
            self.prompts[engine], self.front_ends[engine] = self._prompts(chosen)
        if families:
            groups = np.array(["|".join(group(row)) for row in rows])
            for name in sorted(set(groups)):
                chosen = [row for row, own in zip(rows, groups, strict=True) if own == name]
                if len(chosen) >= LEAST_ROWS:
                    self.factors[tuple(name.split("|"))] = (*self._factor(chosen), len(chosen))
        for key, (_, _, n) in self.factors.items():
            chosen = [row for row in rows if group(row) == key]
            self.own_front_ends[key] = self._drawn(chosen, n)

    def _drawn(self, rows: Rows, n: int) -> tuple[float, float, float]:
        """The front end of a family, drawn to that of its engine, and the error that is left."""
        engine = rows[0]["engine"]
        prompt_factor, of_engine = self.prompts[engine][0], self.front_ends[engine]
        base, slope, _ = self._front_end(rows, prompt_factor)
        share = n / (n + SHRINK_ROWS)
        base = round(share * base + (1.0 - share) * of_engine[0], 1)
        slope = round(share * slope + (1.0 - share) * of_engine[1], 1)
        predicted = prompt_factor * inner_ttft(rows) + base + slope * column(rows, "isl") * MEAN_SHARE / 1000.0
        error = np.abs(predicted / column(rows, "measured_ttft_ms") - 1.0).mean()
        return base, slope, round(float(error) * 100.0, 1)

    def _prompts(self, rows: Rows) -> tuple[tuple[float, int], tuple[float, float, float, int]]:
        """What multiplies passes with prompts, and the front end, with the least sum of both mean errors."""
        measured = column(rows, "measured_tpot_ms") / simulated_column(rows, "tpot_ms")
        share = simulated_column(rows, "prompt_share")
        tried = []
        for factor in PROMPT_FACTORS:
            front_end = self._front_end(rows, factor)
            loss = np.abs((share * factor + 1.0 - share) / measured - 1.0).mean() * 100.0 + front_end[2]
            tried.append((float(loss), float(factor), front_end))
        # Of those that are about as good, the one that changes least.
        least = min(loss for loss, _, _ in tried)
        best = min((abs(np.log(one[1])), one) for one in tried if one[0] <= least * (1.0 + LEAST_GAIN))[1]
        return (best[1], len(rows)), (*best[2], len(rows))

    def _factor(self, rows: Rows) -> tuple[float, float]:
        """What multiplies passes without prompts with the least mean error of TPOT, drawn to 1, and that error."""
        measured = column(rows, "measured_tpot_ms") / simulated_column(rows, "tpot_ms")
        own = self.prompts[rows[0]["engine"]][0]
        share = simulated_column(rows, "prompt_share")
        prompts = own * share

        def losses(factors: Floats) -> Floats:
            return np.abs((prompts + factors[:, None] * (1.0 - share)) / measured - 1.0).mean(axis=1)

        best = np.log(FACTORS[int(losses(FACTORS).argmin())])
        drawn = round(float(np.exp(best * len(rows) / (len(rows) + SHRINK_ROWS))), 3)
        return drawn, round(float(losses(np.array([drawn]))[0] * 100.0), 1)

    @staticmethod
    def _front_end(rows: Rows, prompt_factor: float) -> tuple[float, float, float]:
        """Base and slope with the least mean error of TTFT, and that error."""
        measured = column(rows, "measured_ttft_ms")
        inner = prompt_factor * inner_ttft(rows)
        thousands = column(rows, "isl") * MEAN_SHARE / 1000.0
        best = (np.inf, 0.0, 0.0)
        for slope in SLOPES_MS:
            predicted = inner + slope * thousands + BASES_MS[:, None]
            losses = np.abs(predicted / measured - 1.0).mean(axis=1)
            place = int(losses.argmin())
            # A slope has to be worth it.
            if losses[place] < best[0] * (1.0 - (LEAST_GAIN if best[2] == 0.0 and slope > 0.0 else 0.0)):
                best = (float(losses[place]), float(BASES_MS[place]), float(slope))
        return round(best[1], 1), round(best[2], 1), round(best[0] * 100.0, 1)

    def factor(self, row: Row) -> float:
        return self.factors.get(group(row), (1.0, 0.0, 0))[0]

    def predict(self, row: Row) -> tuple[float, float]:
        """TPOT and TTFT in ms, to first order: a front end does not slow the engine down."""
        of_engine = self.front_ends.get(row["engine"], (0.0, 0.0, 0.0, 0))
        base, slope, *_ = self.own_front_ends.get(group(row), of_engine)
        prompt_factor = self.prompts.get(row["engine"], (1.0, 0))[0]
        prompts = row["simulated"]["prompt_share"]
        factor = prompt_factor * prompts + self.factor(row) * (1.0 - prompts)
        front_end = base + slope * row["isl"] * MEAN_SHARE / 1000.0
        return factor * row["simulated"]["tpot_ms"], front_end + prompt_factor * float(inner_ttft([row])[0])


def column(rows: Rows, key: str) -> Floats:
    return np.array([row[key] for row in rows], dtype=float)


def simulated_column(rows: Rows, key: str) -> Floats:
    return np.array([row["simulated"][key] for row in rows], dtype=float)


def inner_ttft(rows: Rows) -> Floats:
    """TTFT without what the run had of a front end."""
    return simulated_column(rows, "ttft_ms") - simulated_column(rows, "front_end_ms")


def cross_validate(rows: Rows, kind: str, families: bool = True) -> tuple[dict[str, Constants], Floats]:
    """Constants by left-out fold, and errors of TPOT and TTFT of each row in percent."""
    folds = {}
    errors = np.zeros((len(rows), 2))
    for name in sorted({left_out(row, kind) for row in rows}):
        folds[name] = Constants([row for row in rows if left_out(row, kind) != name], families)
        for place, row in enumerate(rows):
            if left_out(row, kind) == name:
                tpot, ttft = folds[name].predict(row)
                errors[place] = (
                    (tpot / row["measured_tpot_ms"] - 1.0) * 100.0,
                    (ttft / row["measured_ttft_ms"] - 1.0) * 100.0,
                )
    return folds, errors


def score(errors: Floats) -> dict[str, Any]:
    """n, MAPE and p90 of TPOT, and of TTFT."""
    sizes = np.abs(errors)
    return {
        "n": len(sizes),
        "tpot_mape": round(float(sizes[:, 0].mean()), 1),
        "tpot_p90": round(float(np.percentile(sizes[:, 0], 90)), 1),
        "ttft_mape": round(float(sizes[:, 1].mean()), 1),
        "ttft_p90": round(float(np.percentile(sizes[:, 1], 90)), 1),
    }


def bars(rows: Rows, by_scenario: Floats, by_family: Floats) -> list[dict[str, Any]]:
    """Error bars, from the closest basis to the widest."""
    keys = np.array(["|".join(group(row)) for row in rows])
    table = []

    def add(fields: dict[str, str], chosen: NDArray[np.bool_], errors: Floats) -> None:
        if chosen.sum() >= LEAST_BAR:
            table.append({**fields, **score(errors[chosen])})

    def parts(place: int) -> NDArray[np.str_]:
        return np.array([key.split("|")[place] for key in keys])

    engine, family = parts(0), parts(2)
    for name in sorted(set(keys)):
        one, two, three = name.split("|")
        add({"engine": one, "generation": two, "family": three}, keys == name, by_scenario)
    for one in sorted(set(engine)):
        for three in sorted(set(family)):
            add({"engine": one, "family": three}, (engine == one) & (family == three), by_scenario)
    for one in sorted(set(engine)):
        add({"engine": one}, engine == one, by_family)
    table.append(score(by_family))
    return table


def bars_of_gpus(rows: Rows, by_scenario: Floats) -> list[dict[str, Any]]:
    """Error bars of all runs on a GPU."""
    gpus = np.array([row["gpu"] for row in rows])
    chosen = [(name, gpus == name) for name in sorted(set(gpus))]
    return [{"gpu": str(name), **score(by_scenario[own])} for name, own in chosen if own.sum() >= LEAST_BAR]


def toml_value(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)


def tables(name: str, entries: list[dict[str, Any]]) -> list[str]:
    lines = []
    for entry in entries:
        lines.append(f"[[{name}]]")
        lines += [f"{key} = {toml_value(value)}" for key, value in entry.items()]
        lines.append("")
    return lines


def constants_tables(constants: Constants, before: dict[str, float], prefix: str = "") -> list[str]:
    """`before`: factors of passes with prompts that the runs were simulated with."""
    lines = []
    for engine, (factor, n) in constants.prompts.items():
        value = round(factor * before.get(engine, 1.0), 3)
        lines += [f"[{prefix}prompt.{engine}]", f"factor = {value}", f"n = {n}", ""]
    for engine, (base, slope, mape, n) in constants.front_ends.items():
        lines += [
            f"[{prefix}front_end.{engine}]",
            f"us = {base * 1000.0}",
            f"us_per_1k_prompt_tokens = {slope * 1000.0}",
            f"n = {n}",
            f"ttft_mape = {mape}",
            "",
        ]
    factors = []
    for (engine, generation, family), (value, mape, n) in sorted(constants.factors.items()):
        base, slope, ttft_mape = constants.own_front_ends[engine, generation, family]
        factors.append(
            {
                "engine": engine,
                "generation": generation,
                "family": family,
                "factor": value,
                "front_end_us": base * 1000.0,
                "front_end_us_per_1k_prompt_tokens": slope * 1000.0,
                "n": n,
                "tpot_mape": mape,
                "ttft_mape": ttft_mape,
            }
        )
    return lines + tables(f"{prefix}factor", factors)


def fit(
    results: dict[str, Any], table_hash: str, before: dict[str, float] | None = None
) -> tuple[str, str, dict[str, Any]]:
    """The text of both files, and the scores."""
    rows, before = usable(results), before or {}
    if not rows:
        raise SystemExit("no judged row was simulated")
    folds, errors, scores = {}, {}, {}
    for kind in ("scenario", "family", "gpu"):
        folds[kind], errors[kind] = cross_validate(rows, kind)
        without = cross_validate(rows, kind, families=False)[1]
        scores[kind] = {"with factors": score(errors[kind]), "without": score(without)}
    source = f"{len(rows)} measured runs (InferenceX, Apache-2.0; table sha-256 {table_hash[:16]})"
    header = [
        "# Written by tools/fit_constants.py; do not edit.",
        "",
        "schema = 1",
        f"source = {toml_value(source)}",
        "",
    ]
    constants = [
        "# What surrounds the GPU, and how far off times are, as fitted to measured servers. Times are in",
        "# microseconds, errors in",
        "# per cent.",
        "#",
        "# `front_end`: from sending a request to when it is at the engine, with the least mean error of TTFT.",
        "# `prompt`: what multiplies passes with prompts, with the least sum of the mean errors of TPOT and TTFT.",
        "# `factor`: what multiplies passes without prompts, with the least mean error of TPOT over 12",
        "# runs or more of a family, drawn to 1 by n / (n + 4); and their own front end, drawn to that of",
        "# the engine in the same way.",
        "# `error`: how far off runs are that were left out of the fit, for 12 runs or more: other",
        "# scenarios (model, GPU, engine, number format, lengths) where there is a family, other families",
        "# where there is none. `gpu`: the same scenarios by GPU.",
        "#",
        *header,
        *constants_tables(Constants(rows), before),
        *tables("error", bars(rows, errors["scenario"], errors["family"])),
        *tables("gpu", bars_of_gpus(rows, errors["scenario"])),
    ]
    left = [
        "# The constants of constants.toml, fitted without some runs, for `servecast validate --cross-validate`.",
        "#",
        *header,
    ]
    for kind, by_name in folds.items():
        for name, fold in by_name.items():
            left += ["[[fold]]", f"without = {toml_value(kind)}", f"name = {toml_value(name)}", ""]
            left += constants_tables(fold, before, "fold.")
    return "\n".join(constants).rstrip() + "\n", "\n".join(left).rstrip() + "\n", scores


def apart(old: Any, new: Any, path: str = "") -> list[str]:
    """Where two fits differ by more than one more fit of the same table would move them."""
    if isinstance(old, dict) and isinstance(new, dict):
        if old.keys() != new.keys():
            return [f"{path}: other keys"]
        found = []
        for base in {"us", "front_end_us"} & old.keys():
            ends = [one[base] + one[f"{base}_per_1k_prompt_tokens"] for one in (old, new)]
            if abs(ends[0] - ends[1]) > NEAR_FRONT_END_US:
                found.append(f"{path}.{base}: {ends[0]:g} and {ends[1]:g} with 1,000 prompt tokens")
        others = [key for key in old if not key.startswith(("us", "front_end_us"))]
        return found + [line for key in others for line in apart(old[key], new[key], f"{path}.{key}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for at, (one, other) in pairs for line in apart(one, other, f"{path}[{at}]")]
    near = NEAR.get(path.rpartition(".")[2])
    if old == new or near is not None and isinstance(old, float) and abs(old - new) <= near:
        return []
    return [f"{path}: {old} and {new}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="measured runs, as for `servecast validate --silicon`")
    parser.add_argument("--servecast", type=Path, default=ROOT / "target/release/servecast")
    parser.add_argument("--results", type=Path, help="what the binary printed, instead of running it")
    parser.add_argument("--out", type=Path, default=ROOT / "crates" / "ops" / "data")
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing, and fail if a file would change by more than one more fit moves it",
    )
    args = parser.parse_args()
    if args.results:
        text = args.results.read_text()
    else:
        # Front ends set the pace of a closed loop, so runs are simulated with those that were fitted before.
        latency = f"ops:constants={args.out / 'constants.toml'},factors=off"
        command = [args.servecast, "validate", "--silicon", args.table, "--latency", latency, "--format", "json"]
        text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    table_hash = hashlib.sha256(args.table.read_bytes()).hexdigest()
    used = tomllib.loads((args.out / "constants.toml").read_text())
    before = {engine: prompt["factor"] for engine, prompt in used.get("prompt", {}).items()}
    constants, left, scores = fit(json.loads(text), table_hash, before)
    json.dump(scores, sys.stderr, indent=1)
    sys.stderr.write("\n")
    found = []
    for name, content in (("constants.toml", constants), ("cross-validation.toml", left)):
        path = args.out / name
        if not args.check:
            path.write_text(content)
        else:
            found += apart(tomllib.loads(path.read_text()), tomllib.loads(content), name)
    if found:
        raise SystemExit("\n".join([*found, "not what the table gives; run tools/fit_constants.py"]))


if __name__ == "__main__":
    main()
