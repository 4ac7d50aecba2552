"""A pytest plugin with fixtures for tests of programs that use a bus.

Ask for it in ``conftest.py``::

    pytest_plugins = ["trio_watchbus.testing.plugin"]
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from .._memory import InMemoryWatchBus
from ._checks import assert_no_watches

__all__ = ["watchbus"]

_NOT_PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note whether a test did not pass: it failed or was skipped, in its setup or its body."""
    report = yield
    if call.when != "teardown" and not report.passed:
        item.stash[_NOT_PASSED] = True
    return report


@pytest.fixture
def watchbus(request: pytest.FixtureRequest) -> Iterator[InMemoryWatchBus]:
    """A bus in memory of the test's own; a watch that is open at the end is an error.

    Not if the test failed or was skipped: then that alone is reported. Works with any runner of
    Trio, and under its autojump clock.
    """
    bus = InMemoryWatchBus()
    try:
        yield bus
        if not request.node.stash.get(_NOT_PASSED, False):
            assert_no_watches([bus])
    finally:
        bus.close()
