"""Every kind of bus, as factories of the conformance suite."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Protocol

import fakeredis
import trio
from redis_bus.servers import RedisServer, fake_client
from served import served

from trio_watchbus import InMemoryWatchBus, Retention, open_redis_watchbus, open_remote_watchbus
from trio_watchbus.abc import WatchBus
from trio_watchbus.web import serve

_namespaces = (f"watchbus{number}" for number in itertools.count())


@asynccontextmanager
async def memory(*, retention: Retention) -> AsyncIterator[list[WatchBus]]:
    """A bus in memory, which has one handle."""
    async with InMemoryWatchBus(retention=retention) as bus:
        yield [bus, bus]


@asynccontextmanager
async def fake_redis(*, retention: Retention) -> AsyncIterator[list[WatchBus]]:
    """Two handles onto one log on a fake server, as in two processes."""
    server = fakeredis.FakeServer()
    async with (
        open_redis_watchbus(fake_client(server), retention=retention) as first,
        open_redis_watchbus(fake_client(server), retention=retention) as second,
    ):
        yield [first, second]


@asynccontextmanager
async def remote(*, retention: Retention) -> AsyncIterator[list[WatchBus]]:
    """Two clients of one server, whose bus is in memory."""
    async with (
        served(InMemoryWatchBus(retention=retention)) as server,
        open_remote_watchbus(server.url) as publisher,
        open_remote_watchbus(server.url) as watcher,
    ):
        yield [publisher, watcher]


class PairFactory(Protocol):
    """Makes fresh logs, and gives two handles onto each: for a publisher, and for a watcher."""

    def __call__(self, *, retention: Retention) -> AbstractAsyncContextManager[list[WatchBus]]: ...


def redis_on(server: RedisServer) -> PairFactory:
    """Two handles onto one log on a real server."""

    @asynccontextmanager
    async def factory(*, retention: Retention) -> AsyncIterator[list[WatchBus]]:
        url, namespace = f"unix://{server.path}", next(_namespaces)
        async with (
            open_redis_watchbus(url, namespace=namespace, retention=retention) as first,
            open_redis_watchbus(url, namespace=namespace, retention=retention) as second,
        ):
            yield [first, second]

    return factory


def remote_over_redis_on(server: RedisServer) -> PairFactory:
    """Clients of two servers, each with a handle of its own onto one log on a real server."""

    @asynccontextmanager
    async def factory(*, retention: Retention) -> AsyncIterator[list[WatchBus]]:
        async with (
            redis_on(server)(retention=retention) as (first, second),
            serving(first) as first_url,
            serving(second) as second_url,
            open_remote_watchbus(first_url) as publisher,
            open_remote_watchbus(second_url) as watcher,
        ):
            yield [publisher, watcher]

    return factory


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
