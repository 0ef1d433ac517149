"""Dead links of all Markdown in the repository: files that are not there, headings that a page does not have, pages
that the table of contents of the docs site leaves out. Links to elsewhere are not followed.

    tools/check_links.py

Prints each with its file and line; exit status 1 if there are any.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import markdown_links

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = ("http://", "https://", "mailto:", "data:")


@cache
def anchors(path: Path) -> set[str]:
    return markdown_links.anchors(path.read_text())


def problem(page: Path, target: str) -> str | None:
    """What is wrong with a link of a page, if anything is."""
    name, _, anchor = target.partition("#")
    path = (page.parent / unquote(name)).resolve() if name else page
    if not path.is_relative_to(ROOT):
        return "leads out of the repository"
    if not path.exists():
        return "there is no such file"
    if anchor and path.suffix == ".md" and unquote(anchor) not in anchors(path):
        return f"{path.relative_to(ROOT)} has no heading #{anchor}"
    return None


def main() -> int:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True,
    ).stdout  # fmt: skip
    pages = sorted(path for name in listed.split("\0") if name and (path := ROOT / name).exists())
    found, count = [], 0
    for page in pages:
        for line, target in markdown_links.links(page.read_text()):
            if target.startswith(ELSEWHERE):
                continue
            count += 1
            if what := problem(page, target):
                found.append(f"{page.relative_to(ROOT)}:{line}: {target}: {what}")
    docs = ROOT / "docs"
    summary = {(docs / target).resolve() for _, target in markdown_links.links((docs / "SUMMARY.md").read_text())}
    for page in sorted(docs.glob("*.md")):
        if page.name != "SUMMARY.md" and page not in summary:
            found.append(f"docs/SUMMARY.md: {page.name} is in no chapter")
    print("\n".join(found), end="\n" if found else "")
    print(f"{len(pages)} pages, {count} links within the repository, {len(found)} dead")
    return min(len(found), 1)


if __name__ == "__main__":
    sys.exit(main())
