"""Preprocessor of the docs site (book.toml): links to files that are no page of the book lead to the repository.

mdBook calls it with `supports RENDERER`, or gives it `[context, book]` as JSON and takes the book from it.
"""

from __future__ import annotations

import json
import posixpath
import re
import sys
from typing import Any

import markdown_links

REPOSITORY = "https://github.com/servecast/servecast/blob/main/"
TARGET = re.compile(r"(\]\(|^\s{0,3}\[[^\]^]+\]:\s*)(\.\./[^)\s]*)", re.MULTILINE)


def outward(text: str, folder: str) -> str:
    """The text of a page in `folder` of the repository, with links out of the book made absolute."""
    lines = text.split("\n")
    for number, line in markdown_links.prose(text):
        # What is code in a line is blank in `line`, at the same places.
        for match in reversed(list(TARGET.finditer(line))):
            path = posixpath.normpath(posixpath.join(folder, match.group(2)))
            start, end = match.span(2)
            lines[number - 1] = lines[number - 1][:start] + REPOSITORY + path + lines[number - 1][end:]
    return "\n".join(lines)


def walk(items: list[Any]) -> None:
    for item in items:
        chapter = item.get("Chapter") if isinstance(item, dict) else None
        if chapter:
            if chapter["path"]:
                folder = posixpath.join("docs", posixpath.dirname(chapter["path"]))
                chapter["content"] = outward(chapter["content"], folder)
            walk(chapter["sub_items"])


def main() -> int:
    if len(sys.argv) > 1 and sys.argv[1] == "supports":
        return 0
    _, book = json.load(sys.stdin)
    walk(book.get("items") or book.get("sections") or [])
    json.dump(book, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
