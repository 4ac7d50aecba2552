"""Checks: who gets a message, and in which order."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import Any

import trio

from .._message import Message
from ..abc import WatchBus
from ._checks import assert_order, check, data_of, equal, holds, received, sequence

NAMES = ["f", "fo", "foo", "foo1", "foobar", "bar", "*", "f*", "[f]", "\\", "{a}", "f?", "f\u00e9"]
"""Names that share beginnings, and such as patterns are made of."""

_DAY = 86_400


@check()
async def a_message_is_what_was_published(publisher: WatchBus, watcher: WatchBus) -> None:
    """A message has the key, data and id of its publish, and the time in seconds since 1970."""
    async with watcher.watch("foo1") as by_key, watcher.subscribe_prefix("foo") as by_prefix:
        first = await publisher.publish("foo1", b"a")
        second = await publisher.publish_prefix("foo", b"b")
        for watch in (by_key, by_prefix):
            to_key, to_prefix = await received(watch, second)
            equal((to_key.key, to_key.data, to_key.id), ("foo1", b"a", first), "message")
            equal((to_prefix.key, to_prefix.data, to_prefix.id), ("foo", b"b", second), "message")
            equal((to_key.is_prefix, to_prefix.is_prefix), (False, True), "is_prefix")
            holds(abs(to_key.time - time.time()) < _DAY, f"{to_key.time} is no time of today")


@check()
async def a_message_goes_to_whom_it_touches(publisher: WatchBus, watcher: WatchBus) -> None:
    """A watch gets a message exactly when they share a key; once; and all in one order."""
    sent: list[tuple[str, bool, str]] = []
    async with AsyncExitStack() as stack:
        by_key = {n: await stack.enter_async_context(watcher.watch(n)) for n in NAMES}
        by_prefix = {
            n: await stack.enter_async_context(watcher.subscribe_prefix(n)) for n in ["", *NAMES]
        }
        for name in NAMES:
            sent.append((name, False, await publisher.publish(name, name.encode())))
            sent.append((name, True, await publisher.publish_prefix(name, name.encode())))
        sent.append(("", True, await publisher.publish_prefix("", b"to everyone")))
        last = sent[-1][2]
        for name, watch in by_key.items():
            wanted = [
                identifier
                for to, is_prefix, identifier in sent
                if (name.startswith(to) if is_prefix else name == to)
            ]
            got = [message.id for message in await received(watch, last)]
            equal(got, wanted, f"messages of the watch on the key {name!r}")
        for name, watch in by_prefix.items():
            wanted = [
                identifier
                for to, is_prefix, identifier in sent
                if to.startswith(name) or (is_prefix and name.startswith(to))
            ]
            got = [message.id for message in await received(watch, last)]
            equal(got, wanted, f"messages of the watch on the prefix {name!r}")


@check()
async def a_union_gives_each_message_once(publisher: WatchBus, watcher: WatchBus) -> None:
    """A watch on keys and prefixes that overlap gets each message once, in order."""
    async with watcher.watch_any(["a", "b", "a"], ["a", "", "a/"]) as watch:
        for name in ("a", "b", "a/1", "c"):
            await publisher.publish(name, name.encode())
        last = await publisher.publish_prefix("a", b"prefix")
        got = data_of(await received(watch, last))
        equal(got, [b"a", b"b", b"a/1", b"c", b"prefix"], "messages")
    async with watcher.watch_any(["a", "b"], ["x/"]) as watch:
        for name in ("a", "c", "x/1", "x", "b", "ab"):
            last = await publisher.publish(name, name.encode())
        last = await publisher.publish("b", b"end")
        equal(data_of(await received(watch, last)), [b"a", b"x/1", b"b", b"end"], "messages")


@check()
async def nothing_from_before_is_received(publisher: WatchBus, watcher: WatchBus) -> None:
    """A watch gets none of the messages accepted before it was entered, and all after."""
    for number in range(20):
        await publisher.publish("k", b"before")
        async with watcher.watch("k") as watch:
            last = await publisher.publish("k", b"%d" % number)
            equal(data_of(await received(watch, last)), [b"%d" % number], "messages")


@check()
async def there_is_one_order(publisher: WatchBus, watcher: WatchBus) -> None:
    """All watches see what concurrent publishers send in one order, numbered without holes."""
    count = 40
    async with (
        watcher.subscribe_prefix("") as everything,
        watcher.watch("a") as only_a,
        publisher.watch("b") as only_b,
    ):

        async def publish_some(key: str) -> None:
            for number in range(count):
                await publisher.publish(key, b"%d" % number)
                await watcher.publish_many([(key, b"x"), ("other", b"x")])

        async with trio.open_nursery() as nursery:
            for key in ("a", "b", "a", "b"):
                nursery.start_soon(publish_some, key)
        last = await publisher.publish_prefix("", b"end")
        messages = await received(everything, last)
        equal(len(messages), 4 * count * 3 + 1, "number of messages")
        first = sequence(messages[0].id)
        numbers = [sequence(message.id) for message in messages]
        equal(numbers, list(range(first, first + len(messages))), "sequence numbers")
        for watch, key in ((only_a, "a"), (only_b, "b")):
            wanted = [message for message in messages if message.key in (key, "")]
            equal(await received(watch, last), wanted, f"messages of {key!r}")


@check()
async def data_may_be_any_bytes(publisher: WatchBus, watcher: WatchBus) -> None:
    """Data of every byte and of every length up to the bound arrives as it was."""
    every = bytes(range(256))
    sizes = (1, 255, 256, 65_535, 65_536, publisher.max_message_size)
    datas = [b"", b"\0", b"\r\n", every, b"\xff\xfe", *(b"x" * size for size in sizes)]
    async with watcher.watch("k") as watch:
        for data in datas:
            await publisher.publish("k", data)
            equal((await watch.receive()).data, data, "data")


@check()
async def data_is_copied(publisher: WatchBus, watcher: WatchBus) -> None:
    """A bytearray or memoryview may be changed once the publish has returned."""
    buffer: Any = bytearray(b"12345")
    async with watcher.watch("k") as watch:
        await publisher.publish("k", buffer)
        buffer[0] = 0x39
        view: Any = memoryview(buffer)[::2]
        await publisher.publish("k", view)
        last = (await publisher.publish_many([("k", buffer)]))[-1]
        buffer[0] = 0x38
        got = await received(watch, last)
        equal(data_of(got), [b"12345", b"935", b"92345"], "data")
        equal({type(message.data) for message in got}, {bytes}, "type of the data")


@check()
async def keys_may_be_any_text(publisher: WatchBus, watcher: WatchBus) -> None:
    """Keys are compared code point by code point, up to 512 bytes, and are never patterns."""
    keys = ["\u00e9", "e\u0301", "\U0001f600", " ", "a b", "%00", "watchbus:index", "\u2028", "\\0"]
    keys += ["a" * 512, "\U0001f600" * 128, "{a}", "a:b", "A", "a", "\ufeff"]
    async with AsyncExitStack() as stack:
        watches = [await stack.enter_async_context(watcher.watch(key)) for key in keys]
        for key in keys:
            await publisher.publish(key, key.encode())
        last = await publisher.publish_prefix("", b"end")
        for key, watch in zip(keys, watches, strict=True):
            messages = await received(watch, last)
            equal(data_of(messages), [key.encode(), b"end"], f"messages of {key!r}")
            equal(messages[0].key, key, "key")


@check()
async def many_watches_share_a_bus(publisher: WatchBus, watcher: WatchBus) -> None:
    """Watches on many keys at once get what is theirs, in the order of their publishing."""
    count = 200
    async with AsyncExitStack() as stack:
        watches = [
            await stack.enter_async_context(watcher.watch(f"user/{number}"))
            for number in range(count)
        ]
        for lap in range(3):
            await publisher.publish_many(
                [(f"user/{number}", b"%d/%d" % (number, lap)) for number in range(count)]
            )
        for number, watch in enumerate(watches):
            got: list[Message] = [await watch.receive() for _ in range(3)]
            equal(data_of(got), [b"%d/%d" % (number, lap) for lap in range(3)], "messages")
            assert_order(got, f"user/{number}")
