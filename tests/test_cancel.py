"""A cancel may come at any step of an operation: nothing is left, nothing half done.

What every bus has to stand is in the conformance suite; here whole buses are opened and closed, and
requests are served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

import fakeredis
import pytest
import trio
from redis_bus.servers import RedisServer, binaries, fake_client, running
from served import served

from trio_watchbus import (
    InMemoryWatchBus,
    open_redis_watchbus,
    open_remote_watchbus,
    open_watchbus,
)
from trio_watchbus.abc import WatchBus
from trio_watchbus.testing import assert_nothing_left, cancel_everywhere
from trio_watchbus.web import create_app


async def cancel_a_bus_everywhere(
    open_bus: Callable[[], AbstractAsyncContextManager[WatchBus]],
) -> None:
    """Cancel opening a bus, using it, and closing it."""

    async def use() -> None:
        async with open_bus() as bus:
            async with bus.watch_any(["k"], ["p/"]) as watch:
                await bus.publish("k", b"1")
                assert (await watch.receive()).data == b"1"
            await bus.aclose()

    # A server that has been used already: what it makes for its first client stays.
    await use()
    async with assert_nothing_left():
        assert await cancel_everywhere(use, trio.lowlevel.checkpoint)


async def test_the_embedded_bus() -> None:
    await cancel_a_bus_everywhere(lambda: open_watchbus("memory://"))


async def test_a_bus_over_a_fake_redis() -> None:
    client = fake_client(fakeredis.FakeServer())
    await cancel_a_bus_everywhere(lambda: open_redis_watchbus(client))


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with running(min(binaries())) as server:
        yield server


async def test_a_bus_over_redis(redis_server: RedisServer) -> None:
    await cancel_a_bus_everywhere(lambda: open_redis_watchbus(f"unix://{redis_server.path}"))


async def test_a_remote_bus() -> None:
    async with served() as server:
        await cancel_a_bus_everywhere(lambda: open_remote_watchbus(server.url))


class Request:
    """One request to an application, called as a server calls it, until its client leaves.

    The client leaves when it has read what it waits for.
    """

    def __init__(self, kind: str, path: str, query: str, wanted: bytes) -> None:
        self.scope: dict[str, Any] = {
            "type": kind,
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http" if kind == "http" else "ws",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(b"host", b"127.0.0.1:8000")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
            "subprotocols": [],
            "extensions": {},
        }
        self._kind = kind
        self._wanted = wanted
        self._read = trio.Event()
        self._begun = False

    async def receive(self) -> dict[str, Any]:
        if not self._begun:
            self._begun = True
            await trio.lowlevel.checkpoint()
            if self._kind == "http":
                return {"type": "http.request", "body": b"", "more_body": False}
            return {"type": "websocket.connect"}
        await self._read.wait()
        return {"type": f"{self._kind}.disconnect", "code": 1006}

    async def send(self, event: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        sent = event.get("body") or event.get("bytes") or (event.get("text") or "").encode()
        if self._wanted in sent:
            self._read.set()


@pytest.mark.parametrize(("kind", "path"), [("http", "/sse"), ("websocket", "/ws")])
async def test_a_served_request(kind: str, path: str) -> None:
    bus = InMemoryWatchBus()
    bus.publish_nowait("k", b"hello")
    app = create_app(bus)

    async def serve_one() -> None:
        request = Request(kind, path, "key=k&history=1", b"hello")
        await app(cast(Any, request.scope), cast(Any, request.receive), cast(Any, request.send))

    async def nothing_left() -> None:
        assert bus.statistics().watches == 0
        await trio.lowlevel.checkpoint()

    async with assert_nothing_left(bus):
        assert await cancel_everywhere(serve_one, nothing_left) > 10


async def test_a_server() -> None:
    """Cancelling it, with clients, leaves nothing either."""
    async with served() as server, await server.connect() as client:
        await client.stream_events("/sse?key=k")
        assert server.bus.statistics().watches == 1
        server.cancel()
        await server.stopped.wait()
        assert server.bus.statistics().watches == 0
