"""tools/check_links.py and the docs site: links that lead nowhere are found, and there are none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import book_links  # noqa: E402
import check_links  # noqa: E402
import markdown_links  # noqa: E402

PAGE = """\
# A page, of `code` & more

See [one](other.md#a-heading), [two](other.md "title"), ![three](images/a.png) and [four][ref].

    indented

```text
[not](a-link.md)
```

`[neither](this.md)` and <a href="five.md">five</a>

[ref]: six.md
## A [linked](other.md) heading
## Twice
## Twice
"""


def test_links_of_a_page_are_found_outside_code() -> None:
    found = [(line, target) for line, target in markdown_links.links(PAGE) if target != "other.md" or line != 14]
    assert found == [
        (3, "other.md#a-heading"),
        (3, "other.md"),
        (3, "images/a.png"),
        (11, "five.md"),
        (13, "six.md"),
    ]


def test_headings_have_the_names_that_github_gives_them() -> None:
    assert markdown_links.anchors(PAGE) == {"a-page-of-code--more", "a-linked-heading", "twice", "twice-1"}


@pytest.mark.parametrize(
    ("target", "what"),
    [
        ("versions.md", None),
        ("../README.md#a-tour", None),
        ("#documentation", None),
        ("../crates", None),
        ("nowhere.md", "no such file"),
        ("versions.md#nothing", "no heading #nothing"),
        ("#nothing", "no heading #nothing"),
        ("../../elsewhere.md", "out of the repository"),
    ],
)
def test_a_link_leads_to_a_file_and_a_heading(target: str, what: str | None) -> None:
    problem = check_links.problem(ROOT / "docs" / "README.md", target)
    assert problem is None if what is None else problem is not None and what in problem


def test_no_link_of_the_repository_is_dead(capsys: pytest.CaptureFixture[str]) -> None:
    status = check_links.main()
    assert status == 0, capsys.readouterr().out


def test_links_out_of_the_book_lead_to_the_repository() -> None:
    base = "https://github.com/servecast/servecast/blob/main/"
    text = "[a](../README.md#x) and `[b](../c.md)`\n\n```\n[d](../e.md)\n```\n[f](g.md) ![h](../i/j.png)"
    assert book_links.outward(text, "docs") == (
        f"[a]({base}README.md#x) and `[b](../c.md)`\n\n```\n[d](../e.md)\n```\n[f](g.md) ![h]({base}i/j.png)"
    )
