"""The page that says which tests hold which promise speaks of tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

from trio_watchbus.testing import WATCHBUS_CHECKS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "guarantees.md").read_text()
ROWS = [line.split("|")[1:-1] for line in PAGE.splitlines() if re.match(r"\| [0-9]+\. ", line)]


def test_every_promise_has_a_row() -> None:
    assert [int(row[0].split(".")[0]) for row in ROWS] == list(range(1, 11))


def test_every_test_that_is_named_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)
    assert named
    for path, test in named:
        assert f"def {test}" in (ROOT / path).read_text(), (path, test)


def test_every_check_is_named() -> None:
    assert [check.name for check in WATCHBUS_CHECKS if f"`{check.name}`" not in PAGE] == []


def test_every_check_that_a_row_names_is_there() -> None:
    named = {name for row in ROWS for name in re.findall(r"`(\w+)`", row[1])}
    assert named <= {check.name for check in WATCHBUS_CHECKS}
