"""A pytest plugin with fixtures for tests of programs that use a bus.

Ask for it in ``conftest.py``::

    pytest_plugins = ["trio_watchbus.testing.plugin"]
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .._memory import InMemoryWatchBus
from ._checks import assert_no_watches

__all__ = ["watchbus"]


@pytest.fixture
def watchbus() -> Iterator[InMemoryWatchBus]:
    """A bus in memory of the test's own, without a watch left at its end.

    For tests under any runner of Trio, under its autojump clock too.
    """
    bus = InMemoryWatchBus()
    try:
        yield bus
        assert_no_watches([bus])
    finally:
        bus.close()
