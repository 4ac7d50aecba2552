"""How many connections there may be."""

from __future__ import annotations

import socket
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
from served import served, until

from trio_watchbus.web._listen import Bind, open_socket


@pytest.mark.parametrize(
    ("limit", "status", "error"),
    [
        ("max_connections", 503, "server_full"),
        ("max_connections_per_address", 429, "too_many_connections"),
    ],
)
async def test_one_connection_too_many(limit: str, status: int, error: str) -> None:
    """It is told so and when to try again; when another one has ended there is room."""
    options: dict[str, Any] = {limit: 2}
    async with served(**options) as server, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(await server.connect()) for _ in range(2)]
        for client in clients:
            await client.stream_events("/sse?key=a")
        refused = await stack.enter_async_context(await server.connect())
        await refused.request("/sse?key=a")
        response = await refused.response()
        assert (response.status, response.error) == (status, error)
        assert set(response.json["error"]) == {"code", "detail"}
        assert int(response.headers.pop("retry-after")) >= 1
        assert response.headers == {
            "content-type": "application/json",
            "content-length": str(len(response.body)),
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
            "connection": "close",
        }
        with pytest.raises(EOFError):
            await refused.read(1)
        assert server.watches == 2
        for client in clients:
            client.vanish()
            await server.admits()


async def test_addresses_that_are_gone_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a server that runs for long would remember everybody who ever came."""
    counters: list[Counter[str]] = []

    class Noted(Counter[str]):
        def __init__(self) -> None:
            super().__init__()
            counters.append(self)

    monkeypatch.setattr("trio_watchbus.web._server.Counter", Noted)
    async with served() as server:
        async with await server.connect() as client:
            await client.stream_events("/sse?key=a")
            assert [dict(counter) for counter in counters] == [{"127.0.0.1": 1}]
        await until(lambda: not server.watches)
        await until(lambda: not counters[0])


def test_many_may_wait_to_be_accepted() -> None:
    """A thousand clients that come at once are all taken in, though nobody accepts yet."""
    clients = []
    with open_socket(Bind("127.0.0.1", 0), write_timeout=1, allow_anonymous=False) as listening:
        try:
            for _ in range(1000):
                client = socket.socket()
                clients.append(client)
                client.settimeout(5)
                client.connect(listening.getsockname())
        finally:
            for client in clients:
                client.close()


async def test_hundreds_of_clients() -> None:
    """Each of 300 streams on one key receives each message, and all end in good order."""
    async with served() as server, AsyncExitStack() as stack:
        clients = []
        for _ in range(300):
            client = await stack.enter_async_context(await server.connect())
            await client.stream_events("/sse?key=a")
            clients.append(client)
        ids = [await server.bus.publish("a", b"%d" % number) for number in range(20)]
        for client in clients:
            assert [(await client.message_event()).id for _ in ids] == ids
        server.stop.set()
        for client in clients:
            assert (await client.message_event()).event == "end"
            await client.is_closed()
        with trio.fail_after(30):
            await server.stopped.wait()
