"""What a mutant is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A known fault, put into a copy of the package by replacing one piece of text.

    Attributes:
        fault: what is wrong with it, as a sentence about what the program then does.
        file: where, from the package's folder.
        text: what is replaced; it has to stand there exactly once.
        replacement: what it is replaced by.
        tests: the tests of which one has to fail, as arguments of pytest.
    """

    fault: str
    file: str
    text: str
    replacement: str
    tests: tuple[str, ...]
