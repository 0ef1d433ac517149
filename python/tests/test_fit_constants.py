"""tools/fit_constants.py on runs whose constants are known."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import tomllib

np = pytest.importorskip("numpy")
TOOL = Path(__file__).parents[2] / "tools" / "fit_constants.py"
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
