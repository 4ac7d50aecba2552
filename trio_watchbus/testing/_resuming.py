"""Checks: positions, history, and what is raised where something is lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from .._errors import HistoryLostError, InvalidPositionError, WatchLaggedError
from .._memory import InMemoryWatchBus
from .._message import Message
from ..abc import Publication, Watch, WatchBus
from ._checks import (
    WAYS_TO_RECEIVE,
    check,
    data_of,
    equal,
    holds,
    raises,
    received,
    sequence,
    until,
)

MIXED: list[Publication] = [
    (key, b"%d" % number, key.endswith("/"))
    for number, key in enumerate(["a", "b/1", "a", "b/", "c", "b/1", "a/", "a", "", "b/2"] * 3)
    if key
]
"""Messages to keys and to prefixes, some of which touch the watches of these checks."""


async def open_after(bus: WatchBus, after: str) -> None:
    """Open a watch that resumes, and leave it."""
    async with bus.watch("k", after=after):
        pass


async def assert_resumable(bus: WatchBus, position: str) -> None:
    """Assert that a watch can be opened after a position that an error gave."""
    try:
        await open_after(bus, position)
    except (HistoryLostError, InvalidPositionError) as error:
        raise AssertionError(f"an error gave {position!r}, which cannot be resumed from") from error


@check()
async def a_watch_resumes_after_any_message(publisher: WatchBus, watcher: WatchBus) -> None:
    """`after` any message gives exactly the matching ones that follow, and then what comes."""
    start = await publisher.publish("start", b"")
    ids = [start, *await publisher.publish_many(MIXED)]
    async with watcher.watch_any(["a", "b/1"], ["c"], after=start) as whole:
        last = await publisher.publish_prefix("", b"end")
        everything = await received(whole, last)
    for number, after in enumerate(ids):
        async with watcher.watch_any(["a", "b/1"], ["c"], after=after) as watch:
            live = await publisher.publish_prefix("", b"live")
            got = await received(watch, live)
        # Each lap's own message follows those of the laps before.
        kept = [message for message in everything if sequence(message.id) > sequence(after)]
        equal(data_of(got), data_of(kept) + [b"live"] * (number + 1), f"messages after {number}")


@check()
async def a_position_resumes_exactly(publisher: WatchBus, watcher: WatchBus) -> None:
    """A watch left and resumed at its position, again and again, misses and repeats nothing."""
    got: list[bytes] = []
    wanted: list[bytes] = []
    async with watcher.watch("k", buffer_size=2) as watch:
        position = watch.position
    for lap in range(12):
        wanted += [b"%d/%d" % (lap, number) for number in range(4)]
        for number in range(4):
            await publisher.publish("k", b"%d/%d" % (lap, number))
            await publisher.publish("other", b"")
        async with watcher.watch("k", after=position, buffer_size=2) as watch:
            got += [(await watch.receive()).data for _ in range(lap % 6)]
        position = watch.position
    last = await publisher.publish("k", b"end")
    async with watcher.watch("k", after=position) as watch:
        got += data_of(await received(watch, last))
    equal(got, [*wanted, b"end"], "messages")


@check()
async def a_position_passes_what_does_not_match(publisher: WatchBus, watcher: WatchBus) -> None:
    """A watch's position goes past messages that are not for it, and resumes after them."""
    async with watcher.watch("k") as watch:
        # In one run, so that a bus over a network learns of all of them at once.
        ids = await publisher.publish_many([("k", b"before"), *[("other", b"")] * 5])
        equal((await watch.receive()).data, b"before", "message")
        await until(lambda: watch.position == ids[-1], "the position is that of the last message")
    last = await publisher.publish("k", b"after")
    async with watcher.watch("k", after=watch.position) as watch:
        equal(data_of(await received(watch, last)), [b"after"], "messages")


@check()
async def an_id_returned_can_be_resumed_from(publisher: WatchBus, watcher: WatchBus) -> None:
    """The id that a publish returned is known to every handle at once."""
    for number in range(20):
        after = await publisher.publish("k", b"before")
        async with watcher.watch("k", after=after) as watch:
            last = await publisher.publish("k", b"%d" % number)
            equal(data_of(await received(watch, last)), [b"%d" % number], "messages")


@check(messages=20)
async def resuming_is_exact_or_refused(publisher: WatchBus, watcher: WatchBus) -> None:
    """Of a log that was trimmed, every position gives all that followed or is refused."""
    ids: list[str] = []
    for _ in range(30):
        ids += await publisher.publish_many([("k", b""), ("other", b"")] * 10)
    for number in (0, 1, 100, 300, 500, 560, 575, 578, 579, 580, 581, 590, 598, 599):
        after = ids[number]
        try:
            async with watcher.watch("k", after=after) as watch:
                last = await publisher.publish("k", b"")
                ids.append(last)
                got = [message.id for message in await received(watch, last)]
        except HistoryLostError as error:
            equal(error.reason, "trimmed", "reason")
            holds(number < 590, "a position within the retention was refused")
            await assert_resumable(watcher, error.position)
        else:
            holds(number > 0, "far more than the retention was kept")
            wanted = [i for n, i in enumerate(ids) if n > number and (n % 2 == 0 or n >= 600)]
            equal(got, wanted, f"messages after {after}")


@check()
async def another_epoch_and_the_future_are_refused(publisher: WatchBus, watcher: WatchBus) -> None:
    """A position of another epoch, or not reached yet, is refused with one to resume from."""
    here = await publisher.publish("k", b"")
    # No bus gives a position before it is reached: this is the text of one with a larger number.
    future = f"{here}000"
    error = await raises(HistoryLostError, open_after, watcher, future)
    equal(error.reason, "future", "reason")
    await assert_resumable(watcher, error.position)
    async with InMemoryWatchBus() as another:
        elsewhere = await another.publish("k", b"")
    error = await raises(HistoryLostError, open_after, watcher, elsewhere)
    equal(error.reason, "epoch", "reason")
    holds("epoch" in str(error), f"{error} does not say what is wrong")
    await assert_resumable(watcher, error.position)


@check()
async def what_is_no_position_is_refused(_publisher: WatchBus, watcher: WatchBus) -> None:
    """What is not a position is refused before anything is asked of the bus."""
    for bad in ("", "nonsense", "e-", "-1", "e-01", "e--1", "e-1\n", "e-" + "9" * 40, "\u00e9-1"):
        await raises(InvalidPositionError, open_after, watcher, bad)
    for wrong in (1, b"e-1", ("e", 1)):
        await raises(TypeError, open_after, watcher, wrong)


@check()
async def history_comes_first(publisher: WatchBus, watcher: WatchBus) -> None:
    """`history` gives the newest of each matching key, oldest first, and then what comes."""
    for number in range(6):
        for key in ("a", "b/1", "b/2", "c"):
            await publisher.publish(key, f"{key} {number}".encode())
    await publisher.publish_prefix("", b"to a prefix")
    async with (
        watcher.watch("a", history=2) as by_key,
        watcher.subscribe_prefix("b/", history=1) as by_prefix,
        watcher.watch_any(["a", "b/1"], ["b/"], history=3, buffer_size=1) as by_union,
        watcher.watch("d", history=3) as empty,
    ):
        last = await publisher.publish_prefix("", b"live")
        for watch, wanted in (
            (by_key, [b"a 4", b"a 5"]),
            (by_prefix, [b"b/1 5", b"b/2 5"]),
            (by_union, [b"%s %d" % (k, n) for n in (3, 4, 5) for k in (b"a", b"b/1", b"b/2")]),
            (empty, []),
        ):
            equal(data_of(await received(watch, last)), [*wanted, b"live"], "messages")


@check(per_key=2)
async def history_goes_no_further_than_what_is_kept(publisher: WatchBus, watcher: WatchBus) -> None:
    """More history than is kept gives what is kept, newest without a hole."""
    for number in range(500):
        await publisher.publish("k", b"%d" % number)
    async with watcher.watch("k", history=1000) as watch:
        last = await publisher.publish("k", b"500")
        got = data_of(await received(watch, last))
        holds(len(got) >= 3, "less than the retention is kept")
        equal(got, [b"%d" % number for number in range(501 - len(got), 501)], "messages")


@check()
async def history_and_after_exclude_each_other(publisher: WatchBus, watcher: WatchBus) -> None:
    """`after` together with `history` is refused, and so is a negative history."""
    after = await publisher.publish("k", b"")

    async def open_watch(**how: object) -> None:
        async with watcher.watch("k", **how):  # type: ignore[arg-type]
            pass

    await raises(ValueError, open_watch, after=after, history=1)
    await raises(ValueError, open_watch, history=-1)
    await raises(TypeError, open_watch, history="1")
    await open_watch(after=after, history=0)


@check()
async def latest_is_the_newest_of_its_key(publisher: WatchBus, watcher: WatchBus) -> None:
    """`latest` gives the newest message that was published to the key itself."""
    equal(await watcher.latest("k*"), None, "latest of a key that nothing was published to")
    for number in range(3):
        identifier = await publisher.publish("k*", b"%d" % number)
        await publisher.publish("kk", b"another key")
        await publisher.publish_prefix("k", b"a prefix")
        message = await watcher.latest("k*")
        holds(message is not None, "there is no latest message")
        if message is not None:
            equal((message.key, message.data, message.id), ("k*", b"%d" % number, identifier), "it")
    equal(await watcher.latest("k"), None, "latest of a prefix")


async def assert_loss_is_told(
    watch: Watch, receive: Callable[[Watch], Awaitable[list[Message]]], count: int
) -> None:
    """Assert that a watch gives messages numbered up to `count`, or tells which it lost."""
    got: list[int] = []
    missed = 0
    following = 0
    while following < count:
        try:
            numbers = [int(message.data) for message in await receive(watch)]
        except WatchLaggedError as error:
            holds(error.missed, "it is not told how much it missed")
            missed += error.missed or 0
            # Told in its place: what comes next, not lost itself, is the one after as many.
            following += error.missed or 0
            numbers = [int(message.data) for message in await receive(watch)]
        equal(numbers, list(range(following, following + len(numbers))), "numbers of messages")
        following += len(numbers)
        got += numbers
    equal(got[:2], [0, 1], "first messages")
    equal(len(got) + missed, count, "messages received and missed")
    holds(missed, "a watch with a buffer of 2 and a journal of 20 missed none")


@check(messages=20)
async def what_a_slow_watch_lost_is_told_once(publisher: WatchBus, watcher: WatchBus) -> None:
    """A watch that was overtaken is told once, however it receives, how much it missed."""
    count = 600
    async with AsyncExitStack() as stack:
        watches = [
            (await stack.enter_async_context(watcher.watch("k", buffer_size=2)), receive)
            for receive in WAYS_TO_RECEIVE
        ]
        ids = [await publisher.publish("k", b"%d" % number) for number in range(count)]
        for watch, receive in watches:
            await assert_loss_is_told(watch, receive, count)
            equal(watch.position, ids[-1], "position")
