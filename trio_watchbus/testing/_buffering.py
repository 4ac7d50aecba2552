"""Checks: receiving, and what happens where a watch's buffer is full."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import pairwise

import trio
import trio.testing

from .._message import Message
from ..abc import Watch, WatchBus
from ._cancelling import cancel_everywhere
from ._checks import (
    assert_order,
    check,
    data_of,
    equal,
    holds,
    raises,
    receive_batch,
    receive_one,
    received,
    until,
)


def has(watch: Watch, count: int) -> bool:
    """Whether so many messages have come to a watch: in its buffer, to be read, or dropped."""
    statistics = watch.statistics()
    return statistics.buffered + statistics.unread + statistics.dropped >= count


@check()
async def replay_drops_nothing(publisher: WatchBus, watcher: WatchBus) -> None:
    """A watch that replays, as one does by default, catches up from as far as the journal holds."""
    wanted = [b"%d" % number for number in range(500)]
    async with watcher.watch("k", buffer_size=1) as watch, watcher.watch("k") as by_default:
        last = ""
        for lap in range(3):
            last = (await publisher.publish_many([("k", data) for data in wanted]))[-1]
            equal(data_of(await received(watch, last)), wanted, f"messages of lap {lap}")
        # More than the buffer that it has unless told.
        equal(data_of(await received(by_default, last)), wanted * 3, "messages by default")
        for each in (watch, by_default):
            equal(each.statistics().dropped, 0, "messages dropped")


@check()
async def latest_keeps_the_newest_of_each_key(publisher: WatchBus, watcher: WatchBus) -> None:
    """A watch that keeps the latest gives at least the newest of each key, in order, and no lag."""
    async with watcher.subscribe_prefix("", overflow="latest", buffer_size=1) as watch:
        for number in range(50):
            # At last in another order than at first.
            keys = "cba" if number % 2 else "abc"
            await publisher.publish_many([(key, b"%d" % number) for key in keys])
        last = await publisher.publish("end", b"")
        await until(lambda: has(watch, 4), "a message of each of 4 keys waits")
        messages = await received(watch, last)
        assert_order(messages, "messages")
        newest = {message.key: message for message in messages}
        for key in "abc":
            equal(newest[key].data, b"49", f"newest message of {key!r}")


@check()
async def drop_newest_keeps_the_oldest(publisher: WatchBus, watcher: WatchBus) -> None:
    """A watch that drops the newest keeps the first that fill its buffer and counts the others."""
    async with watcher.watch("k", overflow="drop_newest", buffer_size=3) as watch:
        await publisher.publish_many([("k", b"%d" % number) for number in range(10)])
        await until(lambda: has(watch, 10), "10 messages have come")
        equal(watch.statistics().dropped, 7, "messages dropped")
        equal([(await watch.receive()).data for _ in range(3)], [b"0", b"1", b"2"], "messages")
        last = await publisher.publish("k", b"after")
        equal(data_of(await received(watch, last)), [b"after"], "messages")


@check()
async def drop_oldest_keeps_the_newest(publisher: WatchBus, watcher: WatchBus) -> None:
    """A watch that drops the oldest keeps the last that fill its buffer and counts the others."""
    async with watcher.watch("k", overflow="drop_oldest", buffer_size=3) as watch:
        last = (await publisher.publish_many([("k", b"%d" % number) for number in range(10)]))[-1]
        await until(lambda: has(watch, 10), "10 messages have come")
        equal(watch.statistics().dropped, 7, "messages dropped")
        equal(data_of(await received(watch, last)), [b"7", b"8", b"9"], "messages")


@check()
async def what_is_out_of_range_is_refused(_publisher: WatchBus, watcher: WatchBus) -> None:
    """A buffer without room, an unknown overflow kind and a watch on nothing are refused."""

    async def open_watch(*keys: object, **how: object) -> None:
        async with watcher.watch_any(keys, **how):  # type: ignore[arg-type]
            pass

    for size in (0, -1):
        await raises(ValueError, open_watch, "k", buffer_size=size)
    for wrong in ("1", 1.5, True):
        await raises(TypeError, open_watch, "k", buffer_size=wrong)
    for overflow in ("x", "", None):
        await raises(ValueError, open_watch, "k", overflow=overflow)
    await raises(ValueError, open_watch)
    for wrong_key in (b"k", None, 1):
        await raises(TypeError, open_watch, wrong_key)


@check()
async def receiving_now_does_not_wait(publisher: WatchBus, watcher: WatchBus) -> None:
    """`receive_nowait` gives what is there, and raises `trio.WouldBlock` where nothing is."""

    async def receive_now(watch: Watch) -> object:
        return watch.receive_nowait()

    async with watcher.watch("k") as watch:
        await raises(trio.WouldBlock, receive_now, watch)
        await publisher.publish("k", b"1")
        await until(lambda: has(watch, 1), "a message waits")
        equal(watch.receive_nowait().data, b"1", "message")
        await raises(trio.WouldBlock, receive_now, watch)


@check()
async def a_batch_received_is_bounded(publisher: WatchBus, watcher: WatchBus) -> None:
    """`receive_batch` gives at least one message, at most as many as asked for, and loses none."""
    async with watcher.watch("k") as watch:
        await publisher.publish_many([("k", b"%d" % number) for number in range(100)])
        got: list[bytes] = []
        while len(got) < 100:
            batch = await watch.receive_batch(7)
            holds(1 <= len(batch) <= 7, f"a batch of {len(batch)}")
            got += data_of(batch)
        equal(got, [b"%d" % number for number in range(100)], "messages")
        await publisher.publish_many([("k", b"%d" % number) for number in range(100)])
        await until(lambda: has(watch, 100), "100 messages wait")
        equal(len(await watch.receive_batch()), 100, "messages of an unbounded batch")
        await raises(ValueError, watch.receive_batch, 0)


@check()
async def one_task_receives_at_a_time(publisher: WatchBus, watcher: WatchBus) -> None:
    """A second receiver gets `trio.BusyResourceError`, and the first one goes on."""
    async with watcher.watch("k") as watch, trio.open_nursery() as nursery:
        got: list[bytes] = []

        async def receive() -> None:
            got.append((await watch.receive()).data)

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        await raises(trio.BusyResourceError, watch.receive)
        await raises(trio.BusyResourceError, watch.receive_batch)
        await publisher.publish("k", b"1")
        await until(lambda: got, "the first receiver has received")
        equal(got, [b"1"], "messages")


async def assert_cancels_lose_nothing(
    publisher: WatchBus, watch: Watch, receive: Callable[[Watch], Awaitable[list[Message]]]
) -> None:
    """Assert that a receive cancelled anywhere, while a message comes, leaves that to the next."""
    got: list[bytes] = []
    sent: list[bytes] = []

    async def publish() -> None:
        sent.append(b"%d" % len(sent))
        with trio.CancelScope(shield=True):
            await publisher.publish("k", sent[-1])

    async def attempt() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish)
            got.extend(data_of(await receive(watch)))

    holds(await cancel_everywhere(attempt, trio.lowlevel.checkpoint), "no cancel came")
    last = await publisher.publish("k", b"end")
    got += data_of(await received(watch, last))
    equal(got, [*sent, b"end"], "messages")


@check()
async def a_cancelled_receive_loses_nothing(publisher: WatchBus, watcher: WatchBus) -> None:
    """A message is received by the next call where a cancel came first, wherever it came."""
    async with watcher.watch("k") as watch:
        await assert_cancels_lose_nothing(publisher, watch, receive_one)
        await assert_cancels_lose_nothing(publisher, watch, receive_batch)


async def calls_in_one_turn(watch: Watch, call: Callable[[], Awaitable[object]]) -> int:
    """Call a function until no message waits; return how often, at most, while nobody else ran."""
    calls = 0
    calls_by_turn = [0]
    consumer = trio.lowlevel.current_task()

    class Turns(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            if task is consumer:
                calls_by_turn.append(calls)

    turns = Turns()
    trio.lowlevel.add_instrument(turns)
    try:
        while has(watch, 1):
            await call()
            calls += 1
    finally:
        trio.lowlevel.remove_instrument(turns)
    return max(later - earlier for earlier, later in pairwise([*calls_by_turn, calls]))


@check()
async def receiving_lets_others_run(publisher: WatchBus, watcher: WatchBus) -> None:
    """The scheduler runs at least once in 64 messages, and in each batch, however many wait."""
    async with watcher.watch("k") as watch:

        async def receive_few() -> None:
            await watch.receive_batch(10)

        for call, most in ((watch.receive, 64), (watch.__anext__, 64), (receive_few, 1)):
            await publisher.publish_many([("k", b"")] * 640)
            await until(lambda: has(watch, 640), "640 messages have come")
            calls = await calls_in_one_turn(watch, call)
            holds(calls <= most, f"{calls} calls of {call.__name__} in one turn")
