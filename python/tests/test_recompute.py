"""Every figure of a report follows from the rows of its requests and iterations.

`recompute.py` computes them again for random deployments, a few here and thousands in `.ci/long`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import recompute
from deployments import HOST_TIMES, deployment

CASES = 200
PARTS = 4


@pytest.mark.parametrize("part", range(PARTS))
def test_reports_follow_from_rows(part: int, binary_path: Path, tmp_path: Path) -> None:
    found = [line for seed in range(part, CASES, PARTS) for line in recompute.check(binary_path, seed, tmp_path)]
    assert not found, "\n".join(found[:20])


@pytest.mark.parametrize("seed", [503, 3222, 5603, 7003])
def test_deployments_that_once_differed(seed: int, binary_path: Path, tmp_path: Path) -> None:
    """Iterations decided too early, admissions within an instant, a preemption behind a hand-off."""
    assert recompute.check(binary_path, seed, tmp_path) == []


def test_deployments_are_of_all_kinds() -> None:
    """Nothing that the figures depend on is missing among the deployments of the test above."""
    deployments = [deployment(seed) for seed in range(CASES)]
    words = [" ".join(one.arguments) for one in deployments]
    for word in [
        *("vllm-0.33", "vllm-0.14", "sglang-0.5", "--engine vllm", "--engine sglang", "--engine trtllm"),
        *("kv_router", "round_robin", "least_loaded", "prefix_hash", "power_of_two", "--decode-workers"),
        *(
            "--kv-transfer-bandwidth",
            "--replay-concurrency",
            "--sla-ttft-ms",
            "--sla-tpot-ms",
            "--sla-e2e-ms",
            "--sla-pooled-itl-ms",
        ),
        *(f"--{key.replace('_', '-')}" for key in HOST_TIMES),
        *("--warmup auto", "--warmup 7", "--warmup 40ms", "--cooldown", "--count-rejected"),
        "--kv-offloading-size",
        *("step:", "polynomial", "linear:", "priority", "enable_mixed_chunk"),
    ]:
        assert any(word in arguments for arguments in words), word
    assert any("session_id" in row for one in deployments for row in one.rows)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda report, _, __: report["pools"][0].update(utilization=0.5), "report.pools[0].utilization is 0.5"),
        (lambda report, _, __: report.update(p99_ttft_ms=1.0), "report.p99_ttft_ms is 1.0"),
        (lambda _, rows, __: rows[0].update(ttft_ms=1.0), "request 0.ttft_ms is 1.0"),
        (lambda _, __, rows: rows[1].update(scheduled_at_ms=0.0), "before the iteration before it had ended"),
        (lambda _, __, rows: rows.pop(), "report.total_output_tokens"),
    ],
)
def test_what_is_wrong_is_found(
    spoil: Callable[..., object], complaint: str, binary_path: Path, tmp_path: Path
) -> None:
    """A check that could not fail would show nothing."""
    one = recompute.simple()
    report, requests, iterations = recompute.replay(binary_path, one, tmp_path)
    assert recompute.compare(one, report, requests, iterations) == []
    spoil(report, requests, iterations)
    found = recompute.compare(one, report, requests, iterations)
    assert any(complaint in line for line in found), found
