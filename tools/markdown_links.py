"""Links and anchors of Markdown, as GitHub and mdBook understand them."""

from __future__ import annotations

import re
from collections.abc import Iterator

FENCE = re.compile(r"^\s*(`{3,}|~{3,})")
CODE = re.compile(r"(`+)(?:(?!\1).)*?\1(?!`)")
# [text](target "title"), where text may have an image in it, and [name]: target.
INLINE = re.compile(r"\]\(\s*<?([^()\s>]*(?:\([^()\s]*\)[^()\s>]*)*)>?(?:\s+\"[^\"]*\")?\s*\)")
DEFINITION = re.compile(r"^\s{0,3}\[[^\]^]+\]:\s*<?(\S+?)>?(?:\s|$)")
SOURCE = re.compile(r"<(?:a|img|source)\b[^>]*?\b(?:href|src|srcset)=\"([^\"]+)\"")
ANCHOR = re.compile(r"<a\b[^>]*?\b(?:id|name)=\"([^\"]+)\"")
HEADING = re.compile(r"^\s{0,3}(#{1,6})\s+(.*?)\s*#*\s*$")


def prose(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are no code, by their number from 1; what is code within one is blank."""
    fence = ""
    for number, line in enumerate(text.splitlines(), 1):
        mark = FENCE.match(line)
        if fence:
            if mark and mark.group(1).startswith(fence):
                fence = ""
        elif mark:
            fence = mark.group(1)
        else:
            yield number, CODE.sub(lambda code: " " * len(code.group()), line)


def links(text: str) -> Iterator[tuple[int, str]]:
    """The target of each link and image, with its line."""
    for number, line in prose(text):
        for form in (INLINE, DEFINITION, SOURCE):
            for match in form.finditer(line):
                yield number, match.group(1)


def anchors(text: str) -> set[str]:
    """The names that a link can lead to in a page: those of its headings, and what `<a id>` says."""
    found: set[str] = set()
    fenced = {number for number, _ in prose(text)}
    for number, line in enumerate(text.splitlines(), 1):
        if number not in fenced:
            continue
        found.update(ANCHOR.findall(line))
        if heading := HEADING.match(line):
            # The text of a link in a heading is kept, its target is not.
            title = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading.group(2))
            name = base = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            again = 0
            while name in found:
                again += 1
                name = f"{base}-{again}"
            found.add(name)
    return found
