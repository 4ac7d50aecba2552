"""Checks: what a publish does, and what it refuses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from .._errors import InvalidKeyError, MessageTooLargeError
from ..abc import Publication, WatchBus
from ._cancelling import cancel_everywhere
from ._checks import check, data_of, equal, holds, raises, received, sequence

BAD_KEYS = ["\ud800", "\0", "a\nb", "\x7f", "\x80", "\x9f", "a" * 513, "\u00e9" * 257]


@check()
async def a_publish_returns_its_position(publisher: WatchBus, watcher: WatchBus) -> None:
    """A publish returns the message's id, which is its position in the order of all."""
    async with watcher.subscribe_prefix("") as watch:
        ids = [await publisher.publish("a", b"1"), await publisher.publish_prefix("b", b"2")]
        ids += await publisher.publish_many([("c", b"3"), ("d", b"4", True), ("e", b"5")])
        got = await received(watch, ids[-1])
        equal([message.id for message in got], ids, "ids")
        equal([message.is_prefix for message in got], [False, True, False, True, False], "kinds")
        equal(watch.position, ids[-1], "position of the watch")
        equal(watcher.position, ids[-1], "position of the bus")


@check()
async def a_batch_is_one_run(publisher: WatchBus, watcher: WatchBus) -> None:
    """A batch is one contiguous run of the order, whoever else publishes."""
    async with watcher.subscribe_prefix("") as watch:
        batches: list[list[str]] = []

        async def publish_batches() -> None:
            for _ in range(10):
                batch = await publisher.publish_many([("k", b"%d" % n) for n in range(7)])
                batches.append(batch)

        async def publish_singles() -> None:
            for _ in range(30):
                await watcher.publish("single", b"")

        async with trio.open_nursery() as nursery:
            for publish in (publish_batches, publish_singles, publish_batches):
                nursery.start_soon(publish)
        last = await publisher.publish("end", b"")
        order = [message.id for message in await received(watch, last)]
        equal(len(order), 171, "number of messages")
        for batch in batches:
            start = order.index(batch[0])
            equal(order[start : start + 7], batch, "a batch in the order")


@check()
async def a_bad_item_refuses_the_batch(publisher: WatchBus, watcher: WatchBus) -> None:
    """Nothing of a batch is published when one of its items is bad."""
    bad_items: list[tuple[type[Exception], Any]] = [
        (InvalidKeyError, ("", b"")),
        (InvalidKeyError, ("\0", b"", True)),
        (TypeError, (b"k", b"")),
        (TypeError, ("k", "text")),
        (TypeError, ("k",)),
        (TypeError, ("k", b"", True, 1)),
        (TypeError, None),
        (MessageTooLargeError, ("k", b"x" * (publisher.max_message_size + 1))),
    ]
    async with watcher.subscribe_prefix("") as watch:
        first = await publisher.publish("start", b"")
        for error, item in bad_items:
            batch = [("k", b"1"), item, ("k", b"3")]
            await raises(error, publisher.publish_many, batch)
        last = await publisher.publish("end", b"")
        equal([m.key for m in await received(watch, last)], ["start", "end"], "keys published")
        equal(sequence(last), sequence(first) + 1, "sequence number")


@check()
async def a_batch_may_be_any_iterable(publisher: WatchBus, watcher: WatchBus) -> None:
    """A batch may come from a generator, and may be empty, which does nothing."""
    async with watcher.watch("k") as watch:
        equal(await publisher.publish_many([]), [], "ids of an empty batch")
        equal(await publisher.publish_many([], idempotency_key="empty"), [], "ids of an empty one")
        await publisher.publish("other", b"", idempotency_key="used")
        equal(await publisher.publish_many([], idempotency_key="used"), [], "ids of an empty retry")
        ids = await publisher.publish_many(("k", b"%d" % number) for number in range(3))
        equal(data_of(await received(watch, ids[-1])), [b"0", b"1", b"2"], "messages")


@check()
async def a_large_batch_is_whole(publisher: WatchBus, watcher: WatchBus) -> None:
    """A batch larger than a watch's buffer arrives whole."""
    batch: list[Publication] = [("k", b"%d" % number) for number in range(5_000)]
    async with watcher.watch("k", buffer_size=10) as watch:
        ids = await publisher.publish_many(batch)
        equal(len(ids), len(batch), "number of ids")
        got = data_of(await received(watch, ids[-1]))
        equal(got, [b"%d" % number for number in range(5_000)], "messages")


@check()
async def what_is_no_key_is_refused(publisher: WatchBus, watcher: WatchBus) -> None:
    """Invalid keys, prefixes and idempotency keys are refused, and nothing is published."""
    first = await publisher.publish("k", b"")
    for bad in ["", *BAD_KEYS]:
        await raises(InvalidKeyError, publisher.publish, bad, b"")
        await raises(
            InvalidKeyError,
            *(publisher.publish, "k", b""),
            idempotency_key=bad,
        )
        await raises(InvalidKeyError, watcher.latest, bad)
    for bad in BAD_KEYS:
        await raises(InvalidKeyError, publisher.publish_prefix, bad, b"")
        await raises(InvalidKeyError, watcher.watched_keys, bad)
    for wrong in (b"k", None, 1):
        await raises(TypeError, publisher.publish, wrong, b"")
        await raises(TypeError, publisher.publish_prefix, wrong, b"")
        await raises(TypeError, watcher.latest, wrong)
        await raises(TypeError, watcher.watched_keys, wrong)
    equal(sequence(await publisher.publish("k", b"")), sequence(first) + 1, "sequence number")


@check()
async def what_is_no_data_is_refused(publisher: WatchBus, _watcher: WatchBus) -> None:
    """Data of another type or too long is refused, and nothing is published."""
    first = await publisher.publish("k", b"")
    error = await raises(TypeError, publisher.publish, "k", "text")
    holds("encode" in str(error), f"{error} does not say to encode the text")
    for wrong in (None, 1, [b""]):
        await raises(TypeError, publisher.publish, "k", wrong)
    too_long = b"x" * (publisher.max_message_size + 1)
    await raises(MessageTooLargeError, publisher.publish, "k", too_long)
    await raises(MessageTooLargeError, publisher.publish_prefix, "k", too_long)
    equal(sequence(await publisher.publish("k", b"")), sequence(first) + 1, "sequence number")


@check()
async def a_retry_is_stored_once(publisher: WatchBus, watcher: WatchBus) -> None:
    """Publishes under one idempotency key are stored once and return the same id."""
    async with watcher.subscribe_prefix("") as watch:
        ids: list[str] = []

        async def retry(bus: WatchBus) -> None:
            ids.append(await bus.publish("k", b"once", idempotency_key="one"))

        async with trio.open_nursery() as nursery:
            for bus in (publisher, watcher, publisher, watcher):
                nursery.start_soon(retry, bus)
        await retry(publisher)
        equal(len(set(ids)), 1, "number of different ids")
        prefix_id = await publisher.publish_prefix("k", b"prefix", idempotency_key="two")
        equal(await watcher.publish_prefix("k", b"prefix", idempotency_key="two"), prefix_id, "id")
        batch = await publisher.publish_many([("k", b"1"), ("k", b"2")], idempotency_key="three")
        again = await watcher.publish_many([("k", b"1"), ("k", b"2")], idempotency_key="three")
        equal(again, batch, "ids")
        last = await publisher.publish("k", b"end", idempotency_key="\u00e9*")
        got = data_of(await received(watch, last))
        equal(got, [b"once", b"prefix", b"1", b"2", b"end"], "messages")


@check()
async def a_cancelled_publish_is_whole_or_nothing(publisher: WatchBus, watcher: WatchBus) -> None:
    """A publish of any kind that is cancelled, wherever, is stored whole or not at all."""
    # How many messages each attempt has, and how many it may have stored at least.
    sizes: list[int] = []
    least: list[int] = []

    def attempts(size: int, publish: Callable[[bytes], Awaitable[object]]) -> Any:
        async def attempt() -> None:
            number = len(sizes)
            sizes.append(size)
            least.append(0)
            await publish(b"%d" % number)
            least[number] = size

        return attempt

    async with watcher.watch("k") as watch:
        for attempt in (
            attempts(1, lambda data: publisher.publish("k", data)),
            attempts(1, lambda data: publisher.publish_prefix("k", data)),
            attempts(3, lambda data: publisher.publish_many([("k", data)] * 3)),
        ):
            holds(await cancel_everywhere(attempt, trio.lowlevel.checkpoint), "no cancel came")
        last = await publisher.publish("k", b"end")
        got = data_of(await received(watch, last))
        for number, (size, fewest) in enumerate(zip(sizes, least, strict=True)):
            count = got.count(b"%d" % number)
            holds(count in (fewest, size), f"{count} of {size} messages of a publish were stored")
        equal(sorted(got[:-1], key=int), got[:-1], "order")


@check()
async def a_slow_watcher_delays_nobody(publisher: WatchBus, watcher: WatchBus) -> None:
    """A watch that nobody receives from delays no publish and no other watch, and holds little."""
    async with watcher.watch("k", buffer_size=1) as slow, watcher.watch("k") as quick:
        ids = [await publisher.publish("k", b"%d" % number) for number in range(300)]
        equal(len(await received(quick, ids[-1])), 300, "number of messages")
        holds(slow.statistics().buffered <= 1, f"{slow.statistics()} is more than the buffer")
        equal(len(await received(slow, ids[-1])), 300, "number of messages of the slow watch")
