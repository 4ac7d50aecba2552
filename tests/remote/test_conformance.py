"""A remote bus keeps every promise that the others do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from buses import remote
from served import served

from trio_watchbus import InMemoryWatchBus, Retention, open_remote_watchbus
from trio_watchbus.abc import WatchBus
from trio_watchbus.testing import WATCHBUS_CHECKS, WatchBusCheck


@asynccontextmanager
async def one_client(*, retention: Retention) -> AsyncIterator[WatchBus]:
    async with (
        served(InMemoryWatchBus(retention=retention)) as server,
        open_remote_watchbus(server.url) as bus,
    ):
        yield bus


@pytest.mark.parametrize("check", WATCHBUS_CHECKS, ids=lambda check: check.name)
async def test_one_client(check: WatchBusCheck) -> None:
    await check(one_client)


@pytest.mark.parametrize("check", WATCHBUS_CHECKS, ids=lambda check: check.name)
async def test_two_clients(check: WatchBusCheck) -> None:
    await check(remote)
