"""The documentation: what it shows is what happens."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import ROOT

FENCE = re.compile(r"```pycon\n(.*?)```", re.DOTALL)


def test_the_tour_shows_what_happens() -> None:
    pytest.importorskip("numpy")
    text = (ROOT / "docs" / "python.md").read_text()
    blocks = FENCE.findall(text)
    assert len(blocks) > 10
    examples = doctest.DocTestParser().get_examples("\n".join(blocks))
    for example in examples:
        example.want = re.sub(r"Wall time: .*", "Wall time: ...", example.want)
        if "pandas" in example.source and find_spec("pandas") is None:
            example.options[doctest.SKIP] = True
    told: list[str] = []
    test = doctest.DocTest(examples, {}, "docs/python.md", None, None, None)
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=told.append)
    assert not told, "".join(told)


@pytest.mark.parametrize("tool", ["stubs", "api"])
def test_what_is_written_by_tools_is_up_to_date(tool: str) -> None:
    command = [sys.executable, str(ROOT / "python" / "tools" / f"{tool}.py"), "--check"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("with_chart", [False, True])
def test_the_example_compares_two_splits(tmp_path: Path, trace: Path, with_chart: bool) -> None:
    example = ROOT / "examples" / "prefill_decode_split.py"
    program = f"import runpy, sys; sys.argv[1:] = [{str(trace)!r}]; runpy.run_path({str(example)!r})"
    if with_chart:
        pytest.importorskip("matplotlib")
    else:
        program = f"import importlib.util as util; util.find_spec = lambda name: None; {program}"
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[0].split("  ")[-1].strip() == "3 prefill + 5 decode"
    assert any(line.startswith("TTFT p99 (ms)") for line in lines)
    assert (tmp_path / "ttft_cdf.png").exists() == with_chart
