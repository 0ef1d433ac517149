"""tools/fit_constants.py on runs whose constants are known."""

import csv
import gzip
import hashlib
import importlib.util
import json
import os
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import tomllib

np = pytest.importorskip("numpy")
ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "fit_constants.py"
CONSTANTS = ROOT / "crates" / "ops" / "data" / "constants.toml"
FACTORS = {"Llama": 0.9, "DeepSeek": 1.2}


def load() -> Any:
    spec = importlib.util.spec_from_file_location("fit_constants", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def results() -> dict[str, Any]:
    """Runs on servers with a front end of 20 ms and 3 ms each 1,000 tokens, whose decodes are off by a factor."""
    rows = []
    for family, factor in FACTORS.items():
        for isl in (1024, 4096, 8192):
            for slots in (1, 2, 4, 8, 16, 32, 64, 128):
                tpot, inner, prompts = 5.0 + slots / 8.0, isl / 100.0 + slots, 0.001 * slots
                rows.append(
                    {
                        "judged": True,
                        "model": family,
                        "family": family,
                        "generation": "Hopper",
                        "gpu": "H200",
                        "engine": "vllm",
                        "dtype": "fp8",
                        "isl": isl,
                        "osl": 1024,
                        "measured_tpot_ms": tpot * (prompts + factor * (1.0 - prompts)),
                        "measured_ttft_ms": inner + 20.0 + 3.0 * isl * 0.9 / 1000.0,
                        "simulated": {
                            "tpot_ms": tpot,
                            "ttft_ms": inner + 3.0,
                            "front_end_ms": 3.0,
                            "prompt_share": prompts,
                        },
                    }
                )
    rows.append({**rows[0], "judged": False, "measured_tpot_ms": 1e9})
    rows.append({**rows[0], "simulated": None})
    return {"latency": "ops", "rows": rows}


def test_known_constants_are_found() -> None:
    constants, left_out, scores = load().fit(results(), "0" * 64)
    found = tomllib.loads(constants)
    front_end = found["front_end"]["vllm"]
    assert (front_end["us"], front_end["us_per_1k_prompt_tokens"], front_end["n"]) == (20_000, 3_000, 48)
    for factor in found["factor"]:
        # Drawn to 1 by 24 / 28.
        expected = FACTORS[factor["family"]] ** (24 / 28)
        assert factor["factor"] == pytest.approx(expected, abs=0.005)
        assert factor["n"] == 24
        assert (factor["front_end_us"], factor["front_end_us_per_1k_prompt_tokens"]) == (20_000, 3_000)
    assert {fold["without"] for fold in tomllib.loads(left_out)["fold"]} == {"scenario", "family", "gpu"}
    # A family that is left out has no factor, a scenario that is left out has that of the others.
    assert scores["family"]["with factors"] == scores["family"]["without"]
    assert scores["scenario"]["with factors"]["tpot_mape"] < scores["scenario"]["without"]["tpot_mape"] * 0.6


def test_an_error_bar_needs_twelve_runs() -> None:
    few = results()
    few["rows"] = [row for row in few["rows"] if row["family"] == "Llama"] + few["rows"][24:35]
    found = tomllib.loads(load().fit(few, "0" * 64)[0])
    assert {factor["family"] for factor in found["factor"]} == {"Llama"}
    families = {bar.get("family") for bar in found["error"]}
    assert families == {"Llama", None}
    assert "engine" not in found["error"][-1] and found["error"][-1]["n"] == 35
    assert [(bar["gpu"], bar["n"]) for bar in found["gpu"]] == [("H200", 35)]


def measured() -> Path:
    """The table that the constants were fitted to."""
    data = os.environ.get("SERVECAST_DATA")
    if data is None:
        is_required = os.environ.get("SERVECAST_REQUIRE_ORACLE") == "1"
        (pytest.fail if is_required else pytest.skip)("SERVECAST_DATA names no folder with measured runs")
    return Path(data) / "silicon" / "visible.csv.gz"


def cheapest(rows: list[dict[str, str]], module: Any, simulate: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The factor of constants.toml whose runs compute least, and those runs, simulated."""
    judged = [row for row in rows if row["client"] == "inferencex" and row["maybe_speculative"] == "0"]
    by_model: defaultdict[tuple[str, str, str], list[dict[str, str]]] = defaultdict(list)
    for row in judged:
        by_model[row["engine"], row["gpu"], row["model"]].append(row)
    # Which family and generation a model and a GPU are of is known to the binary: a row of each is enough to ask.
    asked = simulate([min(own, key=lambda row: int(row["concurrency"])) for own in by_model.values()])
    of_group: defaultdict[tuple[str, str, str], list[dict[str, str]]] = defaultdict(list)
    for answer in asked:
        of_group[module.group(answer)] += by_model[answer["engine"], answer["gpu"], answer["model"]]
    factors = tomllib.loads(CONSTANTS.read_text())["factor"]

    def cost(factor: dict[str, Any]) -> int:
        own = of_group[factor["engine"], factor["generation"], factor["family"]]
        return sum(int(row["concurrency"]) * int(row["osl"]) for row in own)

    least = min(factors, key=cost)
    own = of_group[least["engine"], least["generation"], least["family"]]
    return least, [row for row in simulate(own) if row["judged"] and row["simulated"]]


def test_constants_are_what_the_table_gives(tmp_path: Path, binary_path: Path) -> None:
    """The factor and the front end of the family that costs least, fitted anew; .ci/long does it for all of them."""
    table, module = measured(), load()
    constants = tomllib.loads(CONSTANTS.read_text())
    digest = hashlib.sha256(table.read_bytes()).hexdigest()[:16]
    for name in ("constants.toml", "cross-validation.toml"):
        source = tomllib.loads((ROOT / "crates" / "ops" / "data" / name).read_text())["source"]
        assert source == constants["source"] and digest in source, f"{name} is fitted to another table"
    with gzip.open(table, "rt", newline="") as lines:
        rows = list(csv.DictReader(lines))

    def simulate(chosen: list[dict[str, str]]) -> list[dict[str, Any]]:
        sample = tmp_path / "sample.csv"
        with sample.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(chosen)
        latency = f"ops:constants={CONSTANTS},factors=off"
        command = [str(binary_path), "validate", "--silicon", str(sample), "--latency", latency]
        text = subprocess.run([*command, "--format", "json"], check=True, stdout=subprocess.PIPE, text=True).stdout
        return list(json.loads(text)["rows"])

    known, runs = cheapest(rows, module, simulate)
    engine, n = known["engine"], known["n"]
    assert len(runs) == n >= module.LEAST_ROWS
    fitted = module.Constants.__new__(module.Constants)
    # The runs were simulated with the factor of prompts that is in the file, and without one of the family.
    fitted.prompts = {engine: (1.0, n)}
    of_engine = constants["front_end"][engine]
    fitted.front_ends = {engine: (of_engine["us"] / 1e3, of_engine["us_per_1k_prompt_tokens"] / 1e3, 0.0, n)}
    factor, tpot_mape = fitted._factor(runs)
    assert factor == pytest.approx(known["factor"], abs=0.01)
    assert tpot_mape == pytest.approx(known["tpot_mape"], abs=0.5)
    base, slope, ttft_mape = fitted._drawn(runs, n)
    # The front end of the simulated runs sets their pace, so that the fit goes to and fro by a few ms.
    assert base * 1e3 == pytest.approx(known["front_end_us"], rel=0.03, abs=3000.0)
    assert slope * 1e3 == pytest.approx(known["front_end_us_per_1k_prompt_tokens"], abs=300.0)
    assert ttft_mape == pytest.approx(known["ttft_mape"], abs=1.0)


def test_a_check_lets_pass_what_one_more_fit_would_move() -> None:
    apart = load().apart
    fit: dict[str, Any] = {
        "schema": 1,
        "front_end": {"vllm": {"us": 14000.0, "us_per_1k_prompt_tokens": 4000.0, "n": 380, "ttft_mape": 18.4}},
        "factor": [{"family": "Llama", "factor": 0.965, "front_end_us": 9e3, "front_end_us_per_1k_prompt_tokens": 0.0}],
    }

    def other(**changes: Any) -> list[str]:
        factor = fit["factor"][0] | changes
        return list(apart(fit, fit | {"factor": [factor]}, "c"))

    assert other(factor=0.967, front_end_us=6.5e3) == []
    # A part of it may as well go by the length of the prompt.
    assert other(front_end_us=4e3, front_end_us_per_1k_prompt_tokens=4e3) == []
    assert other(factor=0.99) == ["c.factor[0].factor: 0.965 and 0.99"]
    assert other(front_end_us=2e4) == ["c.factor[0].front_end_us: 9000 and 20000 with 1,000 prompt tokens"]
    assert other(family="Kimi") == ["c.factor[0].family: Llama and Kimi"]
    assert apart(fit, fit | {"factor": []}, "c") != []
    assert apart(fit, fit | {"schema": 2}, "c") == ["c.schema: 1 and 2"]
    assert apart(fit, {"schema": 1}, "c") == ["c: other keys"]
