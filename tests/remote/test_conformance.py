"""A remote bus keeps every promise that the others do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from served import served

from trio_watchbus import InMemoryWatchBus, RemoteWatchBus, Retention, open_remote_watchbus
from trio_watchbus.abc import WatchBus
from trio_watchbus.testing import WATCHBUS_CHECKS, WatchBusCheck


@asynccontextmanager
async def remote(*, retention: Retention) -> AsyncIterator[WatchBus]:
    async with (
        served(InMemoryWatchBus(retention=retention)) as server,
        open_remote_watchbus(server.url) as bus,
    ):
        yield bus


@asynccontextmanager
async def two_clients(*, retention: Retention) -> AsyncIterator[list[RemoteWatchBus]]:
    async with (
        served(InMemoryWatchBus(retention=retention)) as server,
        open_remote_watchbus(server.url) as publisher,
        open_remote_watchbus(server.url) as watcher,
    ):
        yield [publisher, watcher]


@pytest.mark.parametrize("check", WATCHBUS_CHECKS, ids=lambda check: check.name)
async def test_one_client(check: WatchBusCheck) -> None:
    await check(remote)


@pytest.mark.parametrize("check", WATCHBUS_CHECKS, ids=lambda check: check.name)
async def test_two_clients(check: WatchBusCheck) -> None:
    await check(two_clients)
