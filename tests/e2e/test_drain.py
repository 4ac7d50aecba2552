"""How a server ends."""

from __future__ import annotations

import itertools
import json
import random

import pytest
import trio
from served import CLOSE, SECONDS, Client, Server, served, until

from trio_watchbus import InMemoryWatchBus


async def test_streams_end_with_an_event_and_a_closing_chunk(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client learns that this is the end, and when to come back: spread over seconds."""
    ranges, retries = set(), set()
    numbers = itertools.count(1000)

    def randint(least: int, most: int) -> int:
        ranges.add((least, most))
        return next(numbers)

    monkeypatch.setattr(random, "randint", randint)
    async with await server.connect() as client, await server.connect() as other:
        await client.stream_events("/sse?key=a")
        await other.stream_events("/sse?key=b")
        server.stop.set()
        for each in (client, other):
            end = await each.event()
            assert end.event == "end"
            assert json.loads(end.data or "") == {"reason": "shutdown"}
            retries.add(end.retry)
            with pytest.raises(EOFError):
                await each.event()
            await each.is_closed()
    # Each has a number of its own.
    assert len(retries) == 2
    assert retries <= set(range(1000, next(numbers)))
    assert ranges == {(1000, 5000)}


async def test_a_client_resumes_where_the_end_came(server: Server) -> None:
    """What was accepted while the stream ended comes with the next connection."""
    async with await server.connect() as client:
        await client.stream_events("/sse?key=a")
        first = await server.bus.publish("a", b"1")
        assert (await client.message_event()).id == first
        server.stop.set()
        second = await server.bus.publish("a", b"2")
        end = await client.message_event()
        while end.event != "end":
            end = await client.message_event()
    async with served(server.bus) as again, await again.connect() as client:
        await client.stream_events("/sse?key=a", **{"Last-Event-ID": end.id})
        third = await again.bus.publish("a", b"3")
        expected = [third] if end.id == second else [second, third]
        assert [(await client.message_event()).id for _ in expected] == expected


async def test_websockets_are_closed_with_1001(server: Server) -> None:
    """With and without the subprotocol."""
    async with await server.connect() as client, await server.connect() as other:
        await client.upgrade("/ws?key=a")
        await other.upgrade("/ws", **{"Sec-WebSocket-Protocol": "watchbus.v1"})
        await other.message()
        await until(lambda: server.watches == 1)
        server.stop.set()
        assert json.loads(await other.message())["op"] == "end"
        for each in (client, other):
            opcode, payload = await each.frame()
            assert opcode == CLOSE
            assert int.from_bytes(payload[:2], "big") == 1001
            await each.is_closed()


async def test_idle_connections_are_closed() -> None:
    """Those that wait for a request are not waited for."""
    async with (
        served(keep_alive=1000) as server,
        await server.connect() as client,
        await server.connect() as fresh,
    ):
        await client.request("/healthz")
        await client.response()
        server.stop.set()
        await client.is_closed()
        await fresh.is_closed()


async def test_a_request_under_way_is_answered(server: Server) -> None:
    """What was begun before the drain is done, and the connection closed."""
    async with await server.connect() as client:
        await client.send(
            b"POST /publish?key=a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nab"
        )
        # An answer to another request: the server has read the first one by now.
        await server.ask("/healthz")
        server.stop.set()
        await server.refuses()
        await client.send(b"cd")
        assert (await client.response()).status == 200
        await client.is_closed()
    message = await server.bus.latest("a")
    assert message is not None
    assert message.data == b"abcd"


async def test_nothing_is_accepted_any_more(server: Server) -> None:
    """The socket that listens is closed first."""
    async with await server.connect() as client:
        await client.stream_events("/sse?key=a")
        server.stop.set()
        assert (await client.message_event()).event == "end"
        await server.refuses()


async def stop_reading(server: Server, client: Client, target: str, stuck: trio.Event) -> None:
    """Have the server blocked in sending to a client."""
    if target.startswith("/ws"):
        await client.upgrade(target)
        await until(lambda: server.watches)
    else:
        await client.stream_events(target)
    for _ in range(20):
        await server.bus.publish("a", bytes(1_000_000))
    await stuck.wait()


@pytest.mark.parametrize("target", ["/sse?key=a", "/ws?key=a"])
async def test_clients_that_do_not_read_are_cut_at_the_end_of_the_grace(
    target: str, stuck: trio.Event
) -> None:
    """The server ends, though hypercorn shields what it sends to them."""
    # Nor would the time in which something has to be taken end it here.
    async with (
        served(grace=0.2, write_timeout=1000) as server,
        await server.connect(4096) as client,
    ):
        await stop_reading(server, client, target, stuck)
        server.stop.set()
        with trio.fail_after(SECONDS):
            await server.stopped.wait()


@pytest.mark.parametrize("target", ["/sse?key=a", "/ws?key=a", "/healthz"])
async def test_a_cancel_ends_everything_at_once(target: str, stuck: trio.Event) -> None:
    """Without a word to the clients, and though some of them do not read."""
    async with served() as server, await server.connect(4096) as client:
        if target == "/healthz":
            await client.request(target)
            await client.response()
        else:
            await stop_reading(server, client, target, stuck)
        with trio.fail_after(SECONDS):
            server.cancel()
            await server.stopped.wait()
        assert server.watches == 0
        await client.is_closed()


async def test_a_server_that_could_not_start_leaves_nothing() -> None:
    """An error before the first connection is raised to the caller."""
    async with served() as server:
        other = Server(InMemoryWatchBus(), bind=f"127.0.0.1:{server.port}")
        with pytest.raises(OSError, match="in use"):
            await other.run()
