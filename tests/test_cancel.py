"""A cancel may come at any step of an operation: nothing is left, nothing half done.

What every bus has to stand is in the conformance suite; here whole buses are opened and closed, and
requests are served.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from socket import socket, socketpair
from types import SimpleNamespace
from typing import Any

import fakeredis
import pytest
import trio
from naive import received_now
from redis_bus.servers import RedisServer, binaries, fake_client, running
from served import SECONDS, served, until

from trio_watchbus import (
    InMemoryWatchBus,
    WatchLaggedError,
    open_redis_watchbus,
    open_remote_watchbus,
    open_watchbus,
)
from trio_watchbus._protocol import encode_message
from trio_watchbus._redis import _bus
from trio_watchbus._request import WatchRequest
from trio_watchbus.abc import WatchBus
from trio_watchbus.testing import assert_nothing_left, cancel_everywhere
from trio_watchbus.web import create_app
from trio_watchbus.web._app import App
from trio_watchbus.web._asgi import AsgiApp
from trio_watchbus.web._budget import Budget
from trio_watchbus.web._client import CLIENT
from trio_watchbus.web._ends import Ends
from trio_watchbus.web._options import WebOptions
from trio_watchbus.web._session import serve_session
from trio_watchbus.web._watches import Openings
from trio_watchbus.web._websocket import CloseConnection


async def cancel_a_bus_everywhere(
    open_bus: Callable[[], AbstractAsyncContextManager[WatchBus]],
    least: int,
    nothing_left: Callable[[], Awaitable[object]],
) -> None:
    """Cancel opening a bus, using it, and closing it, at so many steps at least.

    After each time `nothing_left` asserts that there is nothing of it where its messages are.
    """

    async def use() -> None:
        async with open_bus() as bus:
            async with bus.watch_any(["k"], ["p/"]) as watch:
                await bus.publish("k", b"1")
                assert (await watch.receive()).data == b"1"
            await bus.aclose()

    # A server that has been used already: what it makes for its first client stays.
    await use()
    async with assert_nothing_left():
        assert await cancel_everywhere(use, nothing_left) >= least


async def test_the_embedded_bus() -> None:
    buses: list[WatchBus] = []

    @asynccontextmanager
    async def open_bus() -> AsyncIterator[WatchBus]:
        async with open_watchbus("memory://") as bus:
            buses.append(bus)
            yield bus

    async def nothing_left() -> None:
        await trio.lowlevel.checkpoint()
        assert not any(bus.statistics().connected for bus in buses)

    await cancel_a_bus_everywhere(open_bus, 4, nothing_left)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A farewell is said however busy the machine is."""
    monkeypatch.setattr(_bus, "_FAREWELL_SECONDS", SECONDS)


def assert_no_process(names: Iterable[Any]) -> None:
    """Assert that these names in Redis are those of a log that no process watches."""
    of_a_process = rb"watchbus:(index|processes|process:\w+)"
    assert [name for name in names if re.fullmatch(of_a_process, name)] == []


async def test_a_bus_over_a_fake_redis(patient: None) -> None:
    client = fake_client(fakeredis.FakeServer())

    async def nothing_left() -> None:
        await trio.lowlevel.checkpoint()
        assert_no_process(client.keys())

    await cancel_a_bus_everywhere(lambda: open_redis_watchbus(client), 50, nothing_left)


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with running(min(binaries())) as server:
        yield server


async def test_a_bus_over_redis(redis_server: RedisServer, patient: None) -> None:
    async def nothing_left() -> None:
        await trio.lowlevel.checkpoint()
        assert_no_process(redis_server.call("KEYS", "*"))

    url = f"unix://{redis_server.path}"
    await cancel_a_bus_everywhere(lambda: open_redis_watchbus(url), 50, nothing_left)


async def test_a_remote_bus() -> None:
    """Nor does the server hold anything of it once it knows that the connection is gone."""
    async with served() as server:

        async def nothing_left() -> None:
            await until(lambda: not server.bus.statistics().watches)

        await cancel_a_bus_everywhere(lambda: open_remote_watchbus(server.url), 100, nothing_left)


class Request:
    """One request to an application, called as a server calls it, until its client leaves.

    A message is published when the client has read the one from before; it leaves when it has read
    that, too.

    Args:
        bus: what is served.
        kind: "http" or "websocket".
        path: what is asked for.
        after: where the client resumes.
        ours: whether the server is that of `serve`, which sends by shorter ways.

    Attributes:
        seen: what the client has received.
    """

    def __init__(
        self, bus: InMemoryWatchBus, kind: str, path: str, after: str, *, ours: bool
    ) -> None:
        self.scope: dict[str, Any] = {
            "type": kind,
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http" if kind == "http" else "ws",
            "path": path,
            "raw_path": path.encode(),
            "query_string": f"key=k&format=json&after={after}".encode(),
            "root_path": "",
            "headers": [
                (b"host", b"127.0.0.1:8000"),
                (b"sec-websocket-key", b"AAAAAAAAAAAAAAAAAAAAAA=="),
            ],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
            "subprotocols": [],
            "extensions": {},
        }
        # What the connection would be, for who looks at its end.
        self.sockets: tuple[socket, ...] = ()
        if ours:
            left, _ = self.sockets = socketpair()
            client = SimpleNamespace(
                send_chunk=self._take,
                send_frames=self._take,
                fileno=left.fileno,
                inbound=Budget(1000).hold(),
            )
            self.scope["state"] = {CLIENT: client}
        self._bus = bus
        self._kind = kind
        self.seen = b""
        self._read = trio.Event()
        self._begun = False
        self.connection = trio.CancelScope()

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
        body = event.get("body") or event.get("bytes") or (event.get("text") or "").encode()
        await self._take(body)

    async def _take(self, data: bytes) -> None:
        # As to a socket: a cancel may come before and after, and what was sent stays so.
        await trio.lowlevel.checkpoint()
        self.seen += data
        if b"hello" in data:
            self._bus.publish_nowait("k", b"live")
        if b"live" in data:
            self._read.set()
            if self.sockets and self._kind == "http":
                # As a server of ours does when it knows that the client has gone.
                self.connection.cancel()
        await trio.lowlevel.checkpoint()


def assert_the_rest_comes(
    bus: InMemoryWatchBus, start: str, seen: list[bytes], position: str
) -> None:
    """Assert that who has seen some of what follows `start` gets the rest after `position`."""

    def following(after: str) -> list[bytes | WatchLaggedError]:
        request = WatchRequest(["k"], (), after=after)
        watch = bus._dispatcher.register(request, request.after)
        got = received_now(watch)
        watch.close()
        return got

    assert [*seen, *following(position)] == following(start)


@pytest.mark.parametrize("ours", [True, False], ids=["by serve", "by another server"])
@pytest.mark.parametrize(
    ("kind", "path", "resumed_from"),
    [("http", "/sse", rb"^id: (.+)$"), ("websocket", "/ws", rb'"id":"([^"]+)"')],
    ids=["/sse", "/ws"],
)
async def test_a_served_request(kind: str, path: str, resumed_from: bytes, ours: bool) -> None:
    """Nothing of it is left, nor lost: a client that was cut gets the rest where it resumes."""
    bus = InMemoryWatchBus()
    app: Any = create_app(bus)
    ends = Ends()
    if ours:
        app = AsgiApp(App(bus, WebOptions()), ends)
    start = bus.position
    request: Request

    async def serve_one() -> None:
        nonlocal start, request
        start = bus.position
        bus.publish_nowait("k", b"hello")
        request = Request(bus, kind, path, start, ours=ours)
        try:
            with request.connection:
                await app(request.scope, request.receive, request.send)
        finally:
            for end in request.sockets:
                end.close()

    async def nothing_left_or_lost() -> None:
        assert bus.statistics().watches == bus.statistics().trie_nodes == 0
        seen = re.findall(rb'"data":"(\w+)"', request.seen)
        positions = re.findall(resumed_from, request.seen, re.MULTILINE)
        assert_the_rest_comes(bus, start, seen, positions[-1].decode() if positions else start)
        await trio.lowlevel.checkpoint()

    async with assert_nothing_left(bus):
        assert await cancel_everywhere(serve_one, nothing_left_or_lost) > 10
    ends.close()
    # The last one was served to its end.
    assert b"hello" in request.seen
    assert b"live" in request.seen


class SessionPeer:
    """A client of ``watchbus.v1`` that watches, publishes, asks, and leaves."""

    def __init__(self, start: str) -> None:
        self.draining = trio.Event()
        self.messages: list[Any] = []
        two = '[{"key":"k","data":"1"},{"key":"k","data":"2"}]'
        self._frames = [
            f'{{"op":"watch","id":1,"key":"k","after":"{start}"}}',
            '{"op":"watch","id":2,"prefix":"","window":1}',
            f'{{"op":"publish_many","id":3,"messages":{two}}}',
            '{"op":"latest","id":4,"key":"k"}',
        ]
        self._watched = trio.Event()
        self._unwatching = False
        self._unwatched = trio.Event()

    async def receive(self) -> str:
        await trio.lowlevel.checkpoint()
        if self._frames:
            return self._frames.pop(0)
        if not self._unwatching:
            await self._watched.wait()
            self._unwatching = True
            return '{"op":"unwatch","id":1}'
        await self._unwatched.wait()
        raise CloseConnection(1000, "")

    async def send(self, data: str, /) -> None:
        await trio.lowlevel.checkpoint()
        frame = json.loads(data)
        if (frame["op"], frame.get("id")) == ("messages", 1):
            self.messages.append(frame)
            self._watched.set()
        if frame["op"] == "unwatched":
            self._unwatched.set()
        await trio.lowlevel.checkpoint()


async def test_a_session_of_watchbus_v1() -> None:
    """What it publishes is whole, and a client that was cut gets the rest where it resumes."""
    bus = InMemoryWatchBus()
    start = bus.position
    peer: SessionPeer

    async def serve_one() -> None:
        nonlocal start, peer
        start = bus.position
        peer = SessionPeer(start)
        with suppress(CloseConnection):
            await serve_session(bus, peer, WebOptions(), encode_message, Openings())

    async def nothing_left_or_half_done() -> None:
        statistics = bus.statistics()
        assert statistics.watches == statistics.trie_nodes == 0
        assert statistics.journal_messages % 2 == 0
        seen = [m["data"].encode() for frame in peer.messages for m in frame["messages"]]
        position = peer.messages[-1]["position"] if peer.messages else start
        assert_the_rest_comes(bus, start, seen, position)
        await trio.lowlevel.checkpoint()

    async with assert_nothing_left(bus):
        assert await cancel_everywhere(serve_one, nothing_left_or_half_done) > 50
    assert [m["data"] for frame in peer.messages for m in frame["messages"]] == ["1", "2"]


async def test_a_server() -> None:
    """Cancelling it, with clients, leaves nothing either."""
    async with served() as server, await server.connect() as client:
        await client.stream_events("/sse?key=k")
        assert server.bus.statistics().watches == 1
        server.cancel()
        await server.stopped.wait()
        assert server.bus.statistics().watches == 0
