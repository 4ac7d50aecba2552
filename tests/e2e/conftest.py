"""A served bus for each test that asks for one."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Iterator

import pytest
from served import Server, served


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A bus that is served with the defaults; afterwards it still is, and no watch is left."""
    async with served() as server:
        yield server


@pytest.fixture(autouse=True)
def _no_fault_is_logged(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    """Whatever clients do, the server has no fault; but where a test looks at the log itself."""
    yield
    test = getattr(request.module, request.node.originalname)
    if "caplog" not in inspect.signature(test).parameters:
        records = caplog.get_records("call") + caplog.get_records("teardown")
        assert [r.getMessage() for r in records if r.levelno >= logging.WARNING] == []
