"""Sweeps: the comparison of the binary, wherever the runs are."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import servecast
from servecast import ConfigError, Sweep

Binary = Callable[..., str]

BASE: dict[str, Any] = {"input_tokens": 800, "output_tokens": 20, "request_count": 40, "arrival_interval_ms": 10}
OVER: dict[str, Any] = {"num_workers": [1, 2], "engine_args.max_num_seqs": "8,64", "router_mode": ["random"]}
FLAGS = ["--vary", "num_workers=1,2", "--vary", "engine_args.max_num_seqs=8,64", "--vary", "router_mode=random"]


def plain(comparison: str) -> str:
    """Return a comparison without the figure that differs from run to run."""
    return re.sub(r'"wall_time_ms": [0-9.e-]+', '"wall_time_ms": 0', comparison)


def test_a_sweep_is_the_comparison_of_the_binary(binary: Binary) -> None:
    load = [f"--{key.replace('_', '-')}={value}" for key, value in BASE.items()]
    expected = plain(binary("replay", "--quiet", "--format", "json", *load, *FLAGS))
    threads = servecast.sweep(BASE, OVER)
    assert plain(threads.to_json()) == expected
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert plain(servecast.sweep(BASE, OVER, executor=pool).to_json()) == expected


def test_a_sweep_is_a_table(trace: Path) -> None:
    told: list[tuple[int, int]] = []
    with ThreadPoolExecutor(2) as pool:
        found = servecast.sweep(
            {"trace_file": trace},
            {"num_workers": range(1, 4)},
            executor=pool,
            progress=lambda done, runs: told.append((done, runs)),
        )
    assert isinstance(found, Sweep) and told == [(1, 3), (2, 3), (3, 3)]
    assert list(found.rows["num_workers"]) == [1, 2, 3]
    alone = [servecast.run_trace_replay(trace, num_workers=workers) for workers in (1, 2, 3)]
    assert list(found.rows["mean_ttft_ms"]) == [report.mean_ttft_ms for report in alone]
    assert found.runs[2]["settings"] == {"num_workers": 3}
    assert "Comparison" in repr(found) and "<table>" in found._repr_html_()


def test_kinds_of_deployment_have_settings_of_their_own() -> None:
    found = servecast.sweep(BASE, {"num_workers": [2], "num_prefill_workers": [1], "num_decode_workers": [1]})
    assert any("the hand-off of KV" in note for note in found.notes)
    rows = found.rows
    assert [row["settings"] for row in found.runs] == [
        {"num_workers": 2},
        {"num_decode_workers": 1, "num_prefill_workers": 1},
    ]
    assert rows.num_rows == 2 and "num_decode_workers" in rows


def test_what_has_no_effect_is_told_once() -> None:
    found = servecast.sweep({**BASE, "inter_turn_delay_ms": 5}, {"num_workers": [1, 2]})
    (note,) = found.notes
    assert "inter_turn_delay_ms" in note
    assert (
        repr(found).endswith(f"\nnote: {note}")
        and "<br>" not in note
        and f"note: {note.split('`')[0]}" in found._repr_html_()
    )


@pytest.mark.parametrize(
    ("base", "over", "more", "message"),
    [
        ({}, {"num_worker": [1]}, {}, "unknown key `num_worker`, did you mean `num_workers`?"),
        ({}, {"num_workers": [1, 1]}, {}, "`num_workers` the value 1 twice"),
        ({}, {"num_workers": 1}, {}, "`over` gives `num_workers` 1, but must give it a list of values"),
        ({}, {"num_workers": [1, 0]}, {}, "num_workers=0: `num_workers` is 0"),
        ({}, {"report_json": ["x"]}, {}, "it cannot be varied"),
        ({"iterations": True}, {"num_workers": [1]}, {}, "`iterations` is of one run, but a sweep makes several"),
        ({}, {"num_workers": [1]}, {"executor": "dask"}, "`executor` is a str, but must be"),
        ({}, {"num_workers": [1]}, {"threads": 0}, "`threads` is 0, but must be at least 1"),
    ],
)
def test_what_cannot_be_swept_is_refused(
    base: dict[str, Any], over: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    with ThreadPoolExecutor(1) as pool:
        for arguments in (more, {"executor": pool} if not more else more):
            with pytest.raises(ConfigError) as refused:
                servecast.sweep({**BASE, **base}, over, **arguments)
            assert message in str(refused.value)
