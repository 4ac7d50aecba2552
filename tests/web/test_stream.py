"""A stream of events as the body of a response, without a network and with a clock of its own."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_watchbus import InMemoryWatchBus, Message, Retention
from trio_watchbus.web._drain import Drain
from trio_watchbus.web._query import StreamQuery
from trio_watchbus.web._sse import raw_event
from trio_watchbus.web._stream import EventStream, open_stream
from trio_watchbus.web._watches import Openings


async def opened(
    bus: InMemoryWatchBus,
    query: StreamQuery,
    encode: Callable[[Message], bytes] = raw_event,
    drain: Drain | None = None,
) -> EventStream:
    return await open_stream(
        bus, query, encode, drain or Drain(), 15, Openings(), trio.StrictFIFOLock()
    )


@asynccontextmanager
async def streaming(
    bus: InMemoryWatchBus,
    *,
    after: str | None = None,
    history: int = 0,
    drain: Drain | None = None,
    encode: Callable[[Message], bytes] = raw_event,
) -> AsyncIterator[EventStream]:
    """A stream of the key ``a``, whose opening was read."""
    watches = bus.statistics().watches
    query = StreamQuery(["a"], [], after, history, json=False)
    with closing(await opened(bus, query, encode, drain)) as stream:
        assert (await anext(stream)).startswith(b"retry: ")
        yield stream
    assert bus.statistics().watches == watches


async def test_a_bookmark_comes_after_each_heartbeat(autojump_clock: MockClock) -> None:
    """Whenever nothing was sent for so long, and not before."""
    bus = InMemoryWatchBus()
    async with streaming(bus) as stream:
        start = trio.current_time()
        for beat in (1, 2):
            position = await bus.publish("other", b"")
            assert await anext(stream) == f"id: {position}\n\n".encode()
            assert trio.current_time() - start == pytest.approx(15 * beat)


async def test_waiting_for_a_message_is_a_cancellation_point_that_loses_none() -> None:
    bus = InMemoryWatchBus()
    async with streaming(bus) as stream:
        with trio.move_on_after(0):
            await anext(stream)
        bus.publish_nowait("a", b"1")
        with trio.CancelScope() as scope:
            scope.cancel()
            await anext(stream)
        assert b"data: 1\n" in await anext(stream)


async def test_a_drain_ends_a_stream_that_waits_and_one_that_does_not() -> None:
    """What waits is left for the next connection, and nothing follows the end."""
    bus = InMemoryWatchBus()
    drain = Drain()
    async with streaming(bus, drain=drain) as waiting, streaming(bus, drain=drain) as busy:
        chunks = []

        async def wait() -> None:
            chunks.append(await anext(waiting))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            drain.begin()
            drain.begin()
        bus.publish_nowait("a", b"1")
        chunks.append(await anext(busy))
        for stream, chunk in zip((waiting, busy), chunks, strict=True):
            assert b"event: end\ndata: {" in chunk
            with pytest.raises(StopAsyncIteration):
                await anext(stream)


async def test_a_stream_after_the_drain_began_ends_at_once() -> None:
    drain = Drain()
    drain.begin()
    async with streaming(InMemoryWatchBus(), drain=drain) as stream:
        assert b"event: end\n" in await anext(stream)


async def test_history_has_no_id_before_its_last_message() -> None:
    """Its messages may be older than what the bus can resume from; the last one says from where."""
    bus = InMemoryWatchBus(retention=Retention(messages=1, per_key=2))
    for data in (b"1", b"2"):
        bus.publish_nowait("a", data)
    position = bus.publish_nowait("other", b"")
    query = StreamQuery(["a"], [], None, 2, json=False)
    with closing(await opened(bus, query)) as stream:
        assert b"id:" not in await anext(stream)
        live = bus.publish_nowait("a", b"3")
        assert await anext(stream) == f"data: 1\n\nid: {position}\ndata: 2\n\n".encode()
        assert await anext(stream) == f"id: {live}\ndata: 3\n\n".encode()


async def test_no_history_is_no_reason_to_lack_an_id() -> None:
    """Where no message is kept, the stream begins with where it is."""
    bus = InMemoryWatchBus()
    position = bus.publish_nowait("other", b"")
    query = StreamQuery(["a"], [], None, 2, json=False)
    with closing(await opened(bus, query)) as stream:
        assert (await anext(stream)).endswith(f"id: {position}\n\n".encode())


async def test_a_position_that_is_lost_again_while_it_is_being_resumed() -> None:
    """The stream goes on live then, having told the loss."""
    bus = InMemoryWatchBus(retention=Retention(messages=1))
    opening = bus.open_watch

    async def overtaken(request: Any) -> Any:
        if request.after is not None:
            for _ in range(3):
                bus.publish_nowait("a", b"old")
        return await opening(request)

    bus.open_watch = overtaken  # type: ignore[method-assign]
    query = StreamQuery(["a"], [], "other-1", 0, json=False)
    with closing(await opened(bus, query)) as stream:
        assert b'data: {"reason":"epoch","missed":null}' in await anext(stream)
        bus.publish_nowait("a", b"new")
        assert (await anext(stream)).endswith(b"data: new\n\n")


async def test_a_gap_amid_a_stream_says_where_it_goes_on() -> None:
    """A client cut just after it resumes behind the loss, and is not told it again."""
    bus = InMemoryWatchBus(retention=Retention(messages=2))
    async with streaming(bus) as stream:
        ids = bus.publish_many_nowait([("a", b"")] * 200)
        assert (await anext(stream)).endswith(f"id: {ids[127]}\ndata: \n\n".encode())
        gap = f'id: {ids[197]}\nevent: gap\ndata: {{"reason":"trimmed","missed":70}}\n\n'
        assert await anext(stream) == gap.encode()
        assert (await anext(stream)).startswith(f"id: {ids[198]}\n".encode())


async def test_a_position_in_the_future_gets_what_comes_and_nothing_from_before() -> None:
    """What is held it knows already, of a numbering that the bus has yet to reach again."""
    bus = InMemoryWatchBus()
    ids = [bus.publish_nowait("a", b"%d" % number) for number in range(3)]
    epoch = ids[0].partition("-")[0]
    async with streaming(bus, after=f"{epoch}-99") as stream:
        live = bus.publish_nowait("a", b"live")
        assert await anext(stream) == f"id: {live}\ndata: live\n\n".encode()


async def test_an_error_beside_a_cancel_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The framework would raise the cancel and lose the error."""
    bus = InMemoryWatchBus()

    def fail(_: Message) -> bytes:
        raise RuntimeError("inside")

    with caplog.at_level(logging.ERROR, "trio_watchbus.web"):
        async with streaming(bus, encode=fail) as stream:
            bus.publish_nowait("a", b"1")
            assert b'event: end\ndata: {"reason":"failed"}' in await anext(stream)
    assert "inside" in caplog.text


async def test_a_bus_that_failed_for_good_ends_the_stream() -> None:
    bus = InMemoryWatchBus()
    async with streaming(bus) as stream:
        bus._dispatcher.close(RuntimeError("inside"))
        assert b'event: end\ndata: {"reason":"failed"}' in await anext(stream)


async def test_a_bus_that_is_closed_already_opens_no_stream() -> None:
    """That is told before a stream begins, so that it is a status and never a success."""
    bus = InMemoryWatchBus()
    bus.close()
    with pytest.raises(trio.ClosedResourceError):
        await opened(bus, StreamQuery(["a"], [], None, 0, json=False))


async def test_a_stream_whose_client_ended_its_side_says_something_at_once() -> None:
    """A client that has gone answers that with a reset."""
    bus = InMemoryWatchBus()
    async with streaming(bus) as stream, trio.open_nursery() as nursery:
        chunks = []

        async def wait() -> None:
            chunks.append(await anext(stream))

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        stream.ask_client()
        await wait_all_tasks_blocked()
        assert chunks == [f"id: {bus.position}\n\n".encode()]


async def test_streams_with_much_to_send_take_turns() -> None:
    """Any number of them take one chunk in each round of the loop, and others run between."""
    bus = InMemoryWatchBus()
    encoded = 0
    most = 0

    def encode(message: Message) -> bytes:
        nonlocal encoded
        encoded += 1
        return raw_event(message)

    turn = trio.StrictFIFOLock()
    query = StreamQuery(["a"], [], None, 0, json=False)
    received = [0] * 50

    async def read(number: int) -> None:
        stream = await open_stream(bus, query, encode, Drain(), 15, Openings(), turn)
        with closing(stream):
            await anext(stream)
            begun.release()
            while received[number] < 1000:
                received[number] += (await anext(stream)).count(b"data:")

    begun = trio.Semaphore(0)
    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(read, number)
        for _ in range(50):
            await begun.acquire()
        for _ in range(1000):
            bus.publish_nowait("a", b"x")
        # In the first round each takes what it may without its turn.
        await trio.lowlevel.checkpoint()
        while min(received) < 1000:
            before = encoded
            await trio.lowlevel.checkpoint()
            most = max(most, encoded - before)
    assert encoded == 50 * 1000
    assert most <= 50 * 16 + 2 * 128


async def test_a_stream_takes_no_more_from_its_watch_than_a_chunk() -> None:
    """What a client does not read stays in the watch, which has bounds of its own."""
    bus = InMemoryWatchBus()
    async with streaming(bus) as stream:
        for _ in range(50):
            bus.publish_nowait("a", b"x" * 100_000)
        assert (await anext(stream)).count(b"id:") == 3
        assert stream._watch.statistics().buffered == 47
