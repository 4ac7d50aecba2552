"""What a client of ``/sse`` receives."""

from __future__ import annotations

import json

import httpx
import httpx_sse
import pytest
import trio
from served import Server, served, until

from trio_watchbus import InMemoryWatchBus, Retention


async def test_headers_and_first_bytes_come_at_once(server: Server) -> None:
    """Before any message, a client has its headers, when to come back, and from where."""
    await server.bus.publish("other", b"1")
    async with await server.connect() as client:
        await client.request("/sse?key=a")
        head = await client.head()
        assert head.status == 200
        assert head.headers["content-type"] == "text/event-stream"
        assert head.headers["cache-control"] == "no-cache, no-transform"
        assert head.headers["x-accel-buffering"] == "no"
        assert head.headers["x-content-type-options"] == "nosniff"
        event = await client.event()
        assert event.id == server.bus.position
        assert event.data is None
        assert event.retry is not None
        assert 1000 <= event.retry <= 5000


async def test_a_client_that_comes_back_before_any_message_misses_none(server: Server) -> None:
    """The position of the first bytes is the one at which the watch began."""
    async with await server.connect() as client:
        position = (await client.stream_events("/sse?key=a")).id
    message_id = await server.bus.publish("a", b"1")
    async with await server.connect() as client:
        await client.stream_events("/sse?key=a", **{"Last-Event-ID": position})
        event = await client.message_event()
        assert (event.id, event.data) == (message_id, "1")


async def test_what_waits_comes_in_one_chunk(server: Server) -> None:
    """Messages that wait are joined, so that they cost one write and not each its own."""
    async with await server.connect() as client:
        await client.stream_events("/sse?key=a")
        server.bus.publish_many_nowait([("a", b"%d" % number) for number in range(50)])
        chunk = await client.chunk()
        assert chunk.count(b"\ndata: ") == 50


async def test_a_chunk_is_bounded(server: Server) -> None:
    """Large messages are not joined beyond what is worth it."""
    async with await server.connect() as client:
        await client.stream_events("/sse?key=a")
        server.bus.publish_many_nowait([("a", b"x" * 200_000)] * 5)
        sizes = [len(await client.chunk()) for _ in range(3)]
        assert [size // 200_000 for size in sizes] == [2, 2, 1]


async def test_raw_data(server: Server) -> None:
    """Data is the text that was published, with line feeds; in base64 where it is no text."""
    async with await server.connect() as client:
        await client.stream_events("/sse?key=a")
        for data in (b"", b" a", b"a\nb\r\nc\rd\n", "ä\N{LINE SEPARATOR}b".encode(), b"\xff\x00"):
            await server.bus.publish("a", data)
        events = [await client.message_event() for _ in range(5)]
        assert [event.data for event in events[:4]] == ["", " a", "a\nb\nc\nd\n", "ä\u2028b"]
        assert (events[4].event, events[4].data) == ("base64", "/wA=")


async def test_json_data(server: Server) -> None:
    """With ``format=json`` an event's data says everything about a message."""
    async with await server.connect() as client:
        await client.stream_events("/sse?prefix=a&format=json")
        first = await server.bus.publish("a/ä", b"x\ny")
        await server.bus.publish_prefix("a", b"\xff")
        event = await client.message_event()
        message = json.loads(event.data or "")
        assert event.id == first
        assert isinstance(message.pop("time"), float)
        assert message == {"key": "a/ä", "data": "x\ny", "id": first}
        message = json.loads((await client.message_event()).data or "")
        assert message["data_base64"] == "/w=="
        assert message["prefix"] is True
        assert message["key"] == "a"


async def test_keys_and_prefixes_are_joined(server: Server) -> None:
    """``key`` and ``prefix`` may both be given, and repeatedly; a message comes once."""
    async with await server.connect() as client:
        await client.stream_events("/sse?key=a&key=a&key=b&prefix=a&prefix=c/")
        await until(lambda: server.watches == 1)
        for key in ("a", "c", "b", "c/d", "ab"):
            await server.bus.publish(key, key.encode())
        received = [(await client.message_event()).data for _ in range(4)]
        assert received == ["a", "b", "c/d", "ab"]


async def test_history(server: Server) -> None:
    """``history`` gives the newest kept message of each key first, and then a position."""
    for number in range(3):
        await server.bus.publish("a", b"%d" % number)
    async with await server.connect() as client:
        await client.stream_events("/sse?key=a&history=1")
        event = await client.event()
        assert (event.id, event.data) == (server.bus.position, "2")


@pytest.mark.parametrize("lost", [None, "other-1"])
async def test_a_client_cut_amid_the_history_gets_it_anew(lost: str | None) -> None:
    """It comes back as it came: with no id, or the one that was lost; then it goes on exactly."""
    bus = InMemoryWatchBus(retention=Retention(messages=5, per_key=3))
    # Of two keys, one's history is older than the journal; and a chunk takes two of its messages.
    large = "x" * 200_000
    for number in range(5):
        await bus.publish("old", f"{number}{large}".encode())
    for number in range(9):
        await bus.publish("new", b"%d" % number)
    history = ["2", "3", "4", "6", "7", "8"]
    target = "/sse?key=old&key=new&history=3"

    async with served(bus) as server:

        async def receive(resume: str | None, count: int) -> tuple[list[str], str]:
            """Return the first of that many messages, and what to come back with."""
            async with await server.connect() as client:
                header = {} if resume is None else {"Last-Event-ID": resume}
                first = await client.stream_events(target, **header)
                if lost is not None and resume == lost:
                    gap = await client.message_event()
                    assert (gap.event, gap.id) == ("gap", "")
                else:
                    assert first.id == ""
                events = [await client.message_event() for _ in range(count)]
                return [str(event.data)[0] for event in events], events[-1].id

        for count in range(1, 6):
            assert await receive(lost, count) == (history[:count], "")
        received, position = await receive(lost, 6)
        assert (received, position) == (history, bus.position)
        await bus.publish("new", b"9")
        async with await server.connect() as client:
            await client.stream_events(target, **{"Last-Event-ID": position})
            assert (await client.message_event()).data == "9"


async def test_after(server: Server) -> None:
    """``after`` gives what follows that position."""
    ids = [await server.bus.publish("a", b"%d" % number) for number in range(3)]
    async with await server.connect() as client:
        await client.stream_events(f"/sse?key=a&after={ids[0]}")
        assert [(await client.message_event()).id for _ in range(2)] == ids[1:]


@pytest.mark.parametrize("query", ["history=1", "after={0}", "after={0}&history=1"])
async def test_last_event_id_wins_over_the_query(server: Server, query: str) -> None:
    """A browser comes back to the same URL: where it was says the header."""
    ids = [await server.bus.publish("a", b"%d" % number) for number in range(3)]
    async with await server.connect() as client:
        await client.stream_events(
            f"/sse?key=a&{query.format(ids[0])}", **{"Last-Event-ID": ids[1]}
        )
        assert (await client.message_event()).id == ids[2]


async def test_an_idle_stream_gets_bookmarks() -> None:
    """A heartbeat says where the bus is, so that a client resumes past what is not its own."""
    async with served(heartbeat=0.05) as server, await server.connect() as client:
        await client.stream_events("/sse?key=a")
        position = await server.bus.publish("other", b"")
        with trio.fail_after(10):
            while (await client.event()).id != position:
                pass


async def test_a_loss_is_told_and_the_stream_goes_on() -> None:
    """A position that is no longer held is answered by a gap, and by what still is."""
    bus = InMemoryWatchBus(retention=Retention(messages=2))
    ids = [bus.publish_nowait("a", b"%d" % number) for number in range(5)]
    async with served(bus) as server, await server.connect() as client:
        await client.stream_events(f"/sse?key=a&after={ids[0]}")
        gap = await client.message_event()
        assert gap.event == "gap"
        assert json.loads(gap.data or "") == {"reason": "trimmed", "missed": None}
        assert gap.id == ids[2]
        assert [(await client.message_event()).id for _ in range(2)] == ids[3:]


@pytest.mark.parametrize(("position", "reason"), [("other-1", "epoch"), ("{}-9", "future")])
async def test_a_lost_position_with_history(server: Server, position: str, reason: str) -> None:
    """Where the position is lost, ``history`` applies as for a new client."""
    ids = [await server.bus.publish("a", b"%d" % number) for number in range(3)]
    async with await server.connect() as client:
        header = position.format(ids[0].partition("-")[0])
        await client.stream_events("/sse?key=a&history=1", **{"Last-Event-ID": header})
        gap = await client.message_event()
        assert gap.event == "gap"
        assert json.loads(gap.data or "")["reason"] == reason
        assert (await client.message_event()).id == ids[2]


async def test_a_client_that_is_overtaken_is_told_how_much_it_missed() -> None:
    """A client that reads too slowly for the journal gets a gap with the number, and goes on."""
    bus = InMemoryWatchBus(retention=Retention(messages=10))
    async with served(bus) as server, await server.connect() as client:
        await client.stream_events("/sse?key=a")
        for number in range(5000):
            bus.publish_nowait("a", b"%d" % number)
        seen = 0
        missed = 0
        while True:
            event = await client.message_event()
            if event.event == "gap":
                told = json.loads(event.data or "")
                assert told["reason"] == "trimmed"
                missed += told["missed"]
            else:
                seen += 1
                if event.data == "4999":
                    break
        assert missed > 0
        assert seen + missed == 5000


async def test_a_closed_bus_ends_the_stream() -> None:
    """When the bus is closed, its streams end with an event that says so."""
    async with served() as server, await server.connect() as client:
        await client.stream_events("/sse?key=a")
        server.bus.close()
        end = await client.message_event()
        assert (end.event, end.data) == ("end", '{"reason":"closed"}')
        with pytest.raises(EOFError):
            await client.event()
        server.stop.set()


async def test_httpx_sse_reads_the_stream(server: Server) -> None:
    """A client that is not ours reads the events, their ids and types, to the end."""
    events = []
    async with (
        httpx.AsyncClient() as http,
        httpx_sse.aconnect_sse(http, "GET", f"{server.url}/sse?key=a") as source,
    ):
        await until(lambda: server.watches == 1)
        message_id = await server.bus.publish("a", b"two\nlines")
        async for event in source.aiter_sse():
            if event.data:
                events.append((event.id, event.event, event.data))
                server.stop.set()
    assert events == [
        (message_id, "message", "two\nlines"),
        (message_id, "end", '{"reason":"shutdown"}'),
    ]


async def test_a_stream_over_http_1_0(server: Server) -> None:
    """It comes as it is, without chunks, and ends with the connection."""
    async with await server.connect() as client:
        await client.send(b"GET /sse?key=a HTTP/1.0\r\nHost: localhost\r\n\r\n")
        head = await client.head()
        assert head.status == 200
        assert "transfer-encoding" not in head.headers
        await client.read_until(b"\n\n")
        position = await server.bus.publish("a", b"1")
        assert await client.read_until(b"\n\n") == f"id: {position}\ndata: 1\n\n".encode()
        server.stop.set()
        await client.read_until(b"event: end\n")
        await client.is_closed()
