"""Checks: leaving a watch, closing a bus, and cancelling either."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress

import trio
import trio.testing

from .._message import Message
from ..abc import Watch, WatchBus
from ._buffering import has
from ._cancelling import cancel_everywhere
from ._checks import WAYS_TO_RECEIVE, check, data_of, equal, holds, raises, received, until
from ._left import assert_nothing_left


async def until_watched(bus: WatchBus, wanted: set[str], prefix: str = "") -> None:
    """Wait until the keys watched are `wanted`: other processes may learn of it a little later."""
    seen: frozenset[str] = frozenset()
    with trio.move_on_after(35):
        while True:
            seen = await bus.watched_keys(prefix)
            if seen == wanted:
                return
            await trio.sleep(0.001)
    raise AssertionError(f"the keys watched are {set(seen)!r}, and should be {wanted!r}")


@check()
async def leaving_by_any_door_leaves_nothing(publisher: WatchBus, watcher: WatchBus) -> None:
    """Leaving a watch by the end, an error, a cancel or after closing leaves nothing of it."""
    left: list[Watch] = []
    async with assert_nothing_left(watcher):
        async with watcher.watch("by the end") as watch:
            left.append(watch)
        with suppress(ZeroDivisionError):
            async with watcher.watch_any(["by an error"], ["", "by"]) as watch:
                left.append(watch)
                raise ZeroDivisionError
        with trio.CancelScope() as scope:
            async with watcher.subscribe_prefix("by a cancel") as watch:
                left.append(watch)
                scope.cancel()
                await trio.sleep_forever()
        async with watcher.watch("by closing") as watch:
            left.append(watch)
            watch.close()
            watch.close()
            await watch.aclose()
            holds(watcher.statistics().watches == 0, "a closed watch counts as open")
    await publisher.publish_prefix("", b"")
    for watch in left:
        await raises(trio.ClosedResourceError, watch.receive)
        await raises(trio.ClosedResourceError, watch.receive_batch)


@check()
async def closing_wakes_the_receiver(_publisher: WatchBus, watcher: WatchBus) -> None:
    """A task that waits for a message gets `trio.ClosedResourceError` when its watch is closed."""
    async with watcher.watch("k") as watch, trio.open_nursery() as nursery:
        nursery.start_soon(raises, trio.ClosedResourceError, watch.receive)
        await trio.testing.wait_all_tasks_blocked()
        watch.close()


@check()
async def closing_asynchronously_is_a_checkpoint(_publisher: WatchBus, watcher: WatchBus) -> None:
    """`aclose` of a watch and a bus is a checkpoint, and closes though it is cancelled."""

    async def assert_closes(channel: Watch | WatchBus) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await channel.aclose()
        holds(scope.cancelled_caught, f"aclose of {channel!r} was not cancelled")

    async with watcher.watch("k") as watch:
        await assert_closes(watch)
        equal(watcher.statistics().watches, 0, "watches")
        await raises(trio.ClosedResourceError, watch.receive)
    async with watcher.watch("k") as watch:
        with trio.testing.assert_checkpoints():
            await watch.aclose()
        await assert_closes(watcher)
        equal(watcher.statistics().connected, False, "connected")
    await raises(trio.ClosedResourceError, watcher.publish, "k", b"")
    with trio.testing.assert_checkpoints():
        await watcher.aclose()


@check()
async def a_watch_is_entered_once(_publisher: WatchBus, watcher: WatchBus) -> None:
    """What `watch` returns opens one watch."""
    opening = watcher.watch("k")
    async with opening:
        pass
    await raises(RuntimeError, opening.__aenter__)


@check()
async def opening_and_leaving_can_be_cancelled_anywhere(
    publisher: WatchBus, watcher: WatchBus
) -> None:
    """A cancel at any step of opening, receiving from and leaving a watch leaves nothing."""
    after = await publisher.publish("k", b"")
    await publisher.publish("k", b"")

    async def use(opening: AbstractAsyncContextManager[Watch]) -> None:
        async with opening as watch:
            await watch.receive()
            await watch.aclose()

    async def assert_left() -> None:
        equal(watcher.statistics().watches, 0, "watches left")
        equal(watcher.statistics().trie_nodes, 0, "trie nodes left")
        await trio.lowlevel.checkpoint()

    attempts: list[Callable[[], Awaitable[None]]] = [
        lambda: use(watcher.watch("k", after=after)),
        lambda: use(watcher.subscribe_prefix("k", history=2)),
    ]
    for attempt in attempts:
        holds(await cancel_everywhere(attempt, assert_left), "no cancel came")
    await until_watched(publisher, set())


@check()
async def every_function_is_a_cancellation_point(publisher: WatchBus, watcher: WatchBus) -> None:
    """Every async function, called in a cancelled scope, is cancelled, and does nothing."""
    await publisher.publish("k", b"before")
    async with watcher.watch("k", history=1) as watch:
        await until(lambda: has(watch, 1), "a message waits")

        async def open_watch() -> None:
            async with watcher.watch("k"):
                pass

        functions: list[Callable[[], Awaitable[object]]] = [
            lambda: publisher.publish("k", b"cancelled"),
            lambda: publisher.publish_prefix("k", b"cancelled"),
            lambda: publisher.publish_many([("k", b"cancelled")]),
            lambda: watcher.latest("k"),
            watcher.watched_keys,
            open_watch,
            watch.receive,
            watch.receive_batch,
            watch.__anext__,
        ]
        for function in functions:
            # Often enough to see that it holds on every call.
            for _ in range(130):
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await function()
                holds(scope.cancelled_caught, f"{function} was not cancelled")
        last = await publisher.publish("k", b"after")
        equal(data_of(await received(watch, last)), [b"before", b"after"], "messages")


@check()
async def watched_keys_are_counted(publisher: WatchBus, watcher: WatchBus) -> None:
    """`watched_keys` names each key that is watched by name, for as long as anyone watches it."""
    await until_watched(publisher, set())
    async with watcher.watch("a/1"):
        async with (
            publisher.watch("a/1"),
            watcher.watch_any(["a/1", "b*"], ["c"]),
            watcher.subscribe_prefix("a/"),
        ):
            for bus in (publisher, watcher):
                await until_watched(bus, {"a/1", "b*"})
                await until_watched(bus, {"a/1"}, "a/")
                await until_watched(bus, {"b*"}, "b*")
                await until_watched(bus, set(), "*")
        for bus in (publisher, watcher):
            await until_watched(bus, {"a/1"})
    for bus in (publisher, watcher):
        await until_watched(bus, set())


@check()
async def statistics_count_what_is_watched(publisher: WatchBus, watcher: WatchBus) -> None:
    """A bus counts its watches, and a watch what it holds."""
    holds(watcher.statistics().connected, "it is open, and not connected")
    async with watcher.watch_any(["a", "b"], ["c"]), watcher.watch("a") as watch:
        statistics = watcher.statistics()
        equal(statistics.watches, 2, "watches")
        equal((statistics.watched_keys, statistics.watched_prefixes), (2, 1), "keys and prefixes")
        await publisher.publish_many([("a", b"")] * 3)
        await until(lambda: has(watch, 3), "3 messages have come")
        equal(watch.statistics().dropped, 0, "messages dropped")


async def received_to_the_end(
    watch: Watch, receive: Callable[[Watch], Awaitable[list[Message]]]
) -> list[bytes]:
    """Receive until the watch of a closed bus ends."""
    got: list[bytes] = []
    while True:
        try:
            got += data_of(await receive(watch))
        except (trio.EndOfChannel, StopAsyncIteration):
            return got


@check()
async def a_closed_bus_ends_its_watches(publisher: WatchBus, watcher: WatchBus) -> None:
    """Watches of a closed bus give all that was accepted before, and end; the rest is refused."""
    wanted = [b"%d" % number for number in range(50)]
    async with AsyncExitStack() as stack, watcher.watch("other") as waiting:
        watches = [
            (await stack.enter_async_context(watcher.watch("k")), receive)
            for receive in WAYS_TO_RECEIVE
        ]
        await publisher.publish_many([("k", data) for data in wanted])
        await until(lambda: all(has(watch, len(wanted)) for watch, _ in watches), "all have come")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(raises, trio.EndOfChannel, waiting.receive)
            await trio.testing.wait_all_tasks_blocked()
            watcher.close()
            watcher.close()
        for watch, receive in watches:
            got = await received_to_the_end(watch, receive)
            equal(got, wanted, f"messages by {receive.__name__}")
            await raises(trio.EndOfChannel, watch.receive)
            await raises(trio.EndOfChannel, watch.receive_batch)
            await raises(StopAsyncIteration, watch.__anext__)
        await raises(trio.ClosedResourceError, watcher.publish, "k", b"")
        await raises(trio.ClosedResourceError, watcher.publish_prefix, "k", b"")
        await raises(trio.ClosedResourceError, watcher.publish_many, [("k", b"")])
        await raises(trio.ClosedResourceError, watcher.latest, "k")
        await raises(trio.ClosedResourceError, watcher.watched_keys)
        await raises(trio.ClosedResourceError, watcher.watch("k").__aenter__)
        equal(watcher.statistics().connected, False, "connected")
    await watcher.aclose()
