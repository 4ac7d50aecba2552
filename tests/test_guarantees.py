"""The page that says which tests hold which promise speaks of tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

from trio_watchbus.testing import WATCHBUS_CHECKS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "guarantees.md").read_text()


def test_every_promise_has_a_section() -> None:
    assert re.findall(r"^### (\d+)\. ", PAGE, re.MULTILINE) == [str(n) for n in range(1, 11)]


def test_every_test_that_is_named_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)
    assert named
    for path, test in named:
        assert f"def {test}" in (ROOT / path).read_text(), (path, test)


def test_every_check_is_named() -> None:
    assert [check.name for check in WATCHBUS_CHECKS if f"`{check.name}`" not in PAGE] == []


def test_every_check_that_is_named_is_there() -> None:
    lists = re.findall(r"^- On every bus: ((?:.+\n)(?:  .+\n)*)", PAGE, re.MULTILINE)
    named = {name for names in lists for name in re.findall(r"`(\w+)`", names)}
    assert len(named) > 20
    assert named <= {check.name for check in WATCHBUS_CHECKS}
