"""The page that says which tests hold which promise speaks of tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

from trio_watchbus.testing import WATCHBUS_CHECKS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "guarantees.md").read_text()
TABLES = [
    # The first row has the headings.
    [re.split(r"\n  - ", row) for row in re.split(r"^\* - ", table, flags=re.MULTILINE)[2:]]
    for table in re.findall(r"^```\{list-table\}\n(.+?)^```$", PAGE, re.MULTILINE | re.DOTALL)
]
ROWS = [row for table in TABLES for row in table]
TEST = re.compile(r"(tests/[\w/]+\.py)(?:::(test_\w+))?")


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_every_promise_has_a_row() -> None:
    assert [int(row[0].split(":")[0]) for row in TABLES[0]] == list(range(1, 11))


def test_every_file_that_is_named_is_there_and_has_the_test() -> None:
    """Of a file without a test's name, any test."""
    named = [text for text in quoted(PAGE.replace("```", "")) if text.startswith("tests/")]
    assert len(named) > 30
    for text in named:
        if (match := TEST.fullmatch(text)) is None:
            assert (ROOT / text).is_dir(), text
            continue
        path, test = match.groups()
        definition = rf"^(?:async )?def {test or 'test_[a-z0-9_]+'}\("
        assert re.search(definition, (ROOT / path).read_text(), re.MULTILINE), text


def test_every_session_that_is_named_is_there() -> None:
    sessions = re.findall(r"nox -s (\w+)", PAGE)
    assert sessions
    for session in sessions:
        assert f"def {session}(session: nox.Session)" in (ROOT / "noxfile.py").read_text()


def test_every_check_is_in_a_row() -> None:
    """And a row names nothing else among them."""
    named = {name for row in ROWS for name in quoted(row[1])}
    assert named == {check.name for check in WATCHBUS_CHECKS}


def test_every_row_names_tests() -> None:
    """Checks or, where not all buses have what is promised, that there are none; and tests."""
    for row in ROWS:
        assert quoted(row[1]) or row[1].strip() in (
            "all checks",
            "(not applicable to every bus)",
        ), row
        assert quoted(row[2]), row
        assert all(TEST.fullmatch(name) for name in quoted(row[2])), row
