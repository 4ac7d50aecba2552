"""What a page of the documentation shows: its fenced blocks, and what it says is printed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

_FENCE = re.compile(
    r"^(?P<fence> *`{3,})(?P<language>\S*).*\n(?P<text>(?:.*\n)*?)(?P=fence)\n", re.MULTILINE
)
_COMMENT = re.compile(r"<!-- (?P<mark>[^:>]+)(?:: (?P<detail>[^>]+))? -->\n+ *\Z")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page, with the mark in the comment before it."""

    language: str
    text: str
    line: int
    mark: str = ""
    detail: str = ""


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    content = page.read_text()
    found = []
    for match in _FENCE.finditer(content):
        comment = _COMMENT.search(content, 0, match.start())
        found.append(
            Block(
                match["language"],
                dedent(match["text"]),
                content.count("\n", 0, match.start()) + 1,
                comment["mark"] if comment else "",
                (comment["detail"] if comment else "") or "",
            )
        )
    return found


class Shown:
    """What a page says is printed; ``…`` in it stands for anything."""

    def __init__(self, text: str) -> None:
        self._lines = [
            re.compile(".*".join(map(re.escape, line.rstrip().split("…"))))
            for line in text.splitlines()
        ]

    def is_all(self, printed: list[str]) -> bool:
        """Whether it is what was printed, the whole of it."""
        return len(printed) == len(self._lines) and all(
            expected.fullmatch(line.rstrip())
            for expected, line in zip(self._lines, printed, strict=True)
        )

    def is_among(self, printed: list[str]) -> bool:
        """Whether lines of `printed` that follow each other are it."""
        starts = range(len(printed) - len(self._lines) + 1)
        return any(self.is_all(printed[start : start + len(self._lines)]) for start in starts)
