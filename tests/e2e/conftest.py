"""A served bus for each test that asks for one."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Iterator

import pytest
import trio
from served import Server, served

from trio_watchbus.web._client import ClientStream


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A bus that is served with the defaults; afterwards it still is, and no watch is left."""
    async with served() as server:
        yield server


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> trio.Event:
    """Set once a client's socket does not take all that is sent to it."""
    stuck = trio.Event()
    write_some = ClientStream._write_some

    def note(client: ClientStream, data: bytes) -> int:
        sent = write_some(client, data)
        if sent < len(data):
            stuck.set()
        return sent

    monkeypatch.setattr(ClientStream, "_write_some", note)
    return stuck


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
