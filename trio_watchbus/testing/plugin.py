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

_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note whether the body of a test failed."""
    report = yield
    if call.when == "call":
        item.stash[_FAILED] = report.failed
    return report


@pytest.fixture
def watchbus(request: pytest.FixtureRequest) -> Iterator[InMemoryWatchBus]:
    """A bus in memory of the test's own; a watch that is open at the end is an error.

    Not where the test failed: its own failure is the only one reported. Works with any runner of
    Trio, and under its autojump clock.
    """
    bus = InMemoryWatchBus()
    try:
        yield bus
        if not request.node.stash.get(_FAILED, False):
            assert_no_watches([bus])
    finally:
        bus.close()
