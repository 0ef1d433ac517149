"""The gallery: each of its questions gets an answer."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

GALLERY = sorted((ROOT / "examples" / "gallery").glob("*.py"))


def test_there_are_seven_and_all_are_linked() -> None:
    assert len(GALLERY) == 7
    text = (ROOT / "docs" / "python.md").read_text()
    for path in GALLERY:
        assert f"(../examples/gallery/{path.name})" in text, path.name


@pytest.mark.parametrize("path", GALLERY, ids=lambda path: path.stem)
def test_a_notebook_runs_and_answers_its_question(tmp_path: Path, path: Path) -> None:
    cells = re.split(r"^# %%.*$", path.read_text(), flags=re.MULTILINE)
    assert len(cells) > 4 and cells[1].lstrip().startswith("# # "), "it begins with its question"
    assert re.search(r"^# # .*\?$", cells[1], flags=re.MULTILINE)
    run = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, timeout=55, check=False, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    assert re.search(r"^Answer: \S", run.stdout, flags=re.MULTILINE), run.stdout
    assert run.stderr == ""
