"""A served bus for each test that asks for one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from served import Server, served


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A bus that is served with the defaults; afterwards it still is, and no watch is left."""
    async with served() as server:
        yield server
