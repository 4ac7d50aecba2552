"""Ctrl-C may come at any place while requests are served: nothing is left, Trio is whole."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from quart_trio import QuartTrio
from served import TEXT, Server
from test_cancel import Request, SessionPeer
from trio.lowlevel import enable_ki_protection

import trio_watchbus
from trio_watchbus import InMemoryWatchBus
from trio_watchbus._protocol import encode_message
from trio_watchbus.testing import interrupt_everywhere
from trio_watchbus.web import WebOptions, serve, watchbus_blueprint
from trio_watchbus.web._session import serve_session
from trio_watchbus.web._watches import Openings
from trio_watchbus.web._websocket import CloseConnection

WEB = [Path(trio_watchbus.__file__).parent / "web"]

pytestmark = pytest.mark.timeout(600)

REQUESTS = pytest.mark.parametrize(
    ("kind", "path"), [("http", "/sse"), ("websocket", "/ws")], ids=["/sse", "/ws"]
)


@REQUESTS
def test_a_request_to_an_application_of_quart_trio(kind: str, path: str) -> None:
    """The interrupt is not swallowed by Quart-Trio, and the watch is closed."""
    buses: list[InMemoryWatchBus] = []

    async def attempt() -> None:
        bus = InMemoryWatchBus()
        buses[:] = [bus]
        start = bus.position
        bus.publish_nowait("k", b"hello")
        app: Any = QuartTrio("mine")
        app.register_blueprint(watchbus_blueprint(bus))
        request = Request(bus, kind, path, start, ours=False)
        await app(request.scope, request.receive, request.send)

    async def nothing_left() -> None:
        await trio.lowlevel.checkpoint()
        for bus in buses:
            assert bus.statistics().watches == bus.statistics().trie_nodes == 0

    interrupt_everywhere(attempt, nothing_left, code=WEB)


@enable_ki_protection
async def serve_protected(bus: InMemoryWatchBus, peer: SessionPeer) -> None:
    """Serve a session as its callers do."""
    await serve_session(bus, peer, WebOptions(), encode_message, Openings())


def test_a_session() -> None:
    """Of what it publishes, a batch is whole; its watches are closed."""
    buses: list[InMemoryWatchBus] = []

    async def attempt() -> None:
        bus = InMemoryWatchBus()
        buses[:] = [bus]
        peer = SessionPeer(bus.position)
        with suppress(CloseConnection):
            await serve_protected(bus, peer)

    async def nothing_left() -> None:
        await trio.lowlevel.checkpoint()
        for bus in buses:
            statistics = bus.statistics()
            assert statistics.watches == statistics.trie_nodes == 0
            assert statistics.journal_messages % 2 == 0

    interrupt_everywhere(attempt, nothing_left, code=WEB)


def test_a_server() -> None:
    """Clients of every route are there; an interrupt ends the server, whatever it is doing."""
    buses: list[InMemoryWatchBus] = []

    async def attempt() -> None:
        async with InMemoryWatchBus() as bus, trio.open_nursery() as nursery:
            buses[:] = [bus]
            server = Server(bus)
            stop = trio.Event()

            async def use() -> None:
                # An interrupt cuts it, which is not what this test is about.
                with suppress(OSError, trio.BrokenResourceError, EOFError):
                    async with (
                        await server.connect() as client,
                        await server.connect() as socket,
                        await server.connect() as session,
                    ):
                        await client.stream_events("/sse?key=k")
                        await socket.upgrade("/ws?key=k")
                        await session.upgrade("/ws", **{"Sec-WebSocket-Protocol": "watchbus.v1"})
                        await session.message()
                        await session.send_frame(TEXT, b'{"op":"watch","id":1,"key":"k"}')
                        await session.message()
                        await server.ask("/publish?key=k", "POST", b"1")
                        assert (await client.message_event()).data == "1"
                        assert await socket.message() == "1"
                        assert "messages" in str(await session.message())
                        stop.set()

            def started(urls: list[str]) -> None:
                [server.url] = urls
                nursery.start_soon(use)

            status: Any = SimpleNamespace(started=started)
            await serve(bus, bind="127.0.0.1:0", shutdown_trigger=stop.wait, task_status=status)
            nursery.cancel_scope.cancel()

    async def nothing_left() -> None:
        await trio.lowlevel.checkpoint()
        for bus in buses:
            assert bus.statistics().watches == bus.statistics().trie_nodes == 0

    interrupt_everywhere(attempt, nothing_left, code=WEB, seconds=20)
