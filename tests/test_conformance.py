"""Every bus keeps every promise: one suite for all.

Here the bus in memory, and a remote one of a server whose own bus is over Redis; each kind by
itself is in the folder of its tests.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import pytest
import trio
from redis_bus.servers import RedisServer, binaries, running

from trio_watchbus import InMemoryWatchBus, Retention, open_redis_watchbus, open_remote_watchbus
from trio_watchbus.abc import WatchBus
from trio_watchbus.testing import WATCHBUS_CHECKS, WatchBusCheck, check_watchbus
from trio_watchbus.web import serve

every_check = pytest.mark.parametrize("check", WATCHBUS_CHECKS, ids=lambda check: check.name)
namespaces = (f"watchbus{number}" for number in itertools.count())


def memory(*, retention: Retention) -> AbstractAsyncContextManager[WatchBus]:
    return InMemoryWatchBus(retention=retention)


@every_check
async def test_memory(check: WatchBusCheck) -> None:
    await check(memory)


async def test_the_whole_suite_under_an_autojump_clock(autojump_clock: object) -> None:
    await check_watchbus(memory)


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with running(min(binaries())) as server:
        yield server


@asynccontextmanager
async def serving(bus: WatchBus) -> AsyncIterator[str]:
    """Serve a bus, and give its URL."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        (url,) = await nursery.start(
            partial(serve, bus, bind="127.0.0.1:0", shutdown_trigger=stop.wait)
        )
        yield url
        stop.set()


@every_check
async def test_remote_over_redis(check: WatchBusCheck, redis_server: RedisServer) -> None:
    @asynccontextmanager
    async def remote(*, retention: Retention) -> AsyncIterator[list[WatchBus]]:
        """Clients of two servers, each with a handle of its own onto one log."""
        url, namespace = f"unix://{redis_server.path}", next(namespaces)
        async with (
            open_redis_watchbus(url, namespace=namespace, retention=retention) as first,
            open_redis_watchbus(url, namespace=namespace, retention=retention) as second,
            serving(first) as first_url,
            serving(second) as second_url,
            open_remote_watchbus(first_url) as publisher,
            open_remote_watchbus(second_url) as watcher,
        ):
            yield [publisher, watcher]

    await check(remote)
