"""Opening and closing by the thousand: what the process holds ends where it began."""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio
from served import Server

from trio_watchbus import HistoryLostError, WatchLaggedError
from trio_watchbus.abc import Watch, WatchBus
from trio_watchbus.testing import assert_nothing_left

Use = Callable[[int], Awaitable[None]]

AT_A_TIME = 50
"""How many are open at once: enough that their steps mix."""

BLOCKS = 300
"""Blocks of memory that may be there more than before: of caches, and of free lists."""

DEADLINE_BLOCKS = 5000
"""As many where things are done in time: Trio keeps up to a thousand deadlines that are over."""

BLOCKS_EACH = 0.05
"""Blocks that one use may leave besides, of which it takes a hundred or more; where one way of
sixteen leaves the smallest thing, that is more."""


async def assert_no_growth(
    use: Use, count: int, *buses: WatchBus, blocks: int = BLOCKS, before: int | None = None
) -> None:
    """Assert that `count` uses leave nothing, and no more memory than some did before.

    Args:
        use: uses what is tried once; is told which time it is.
        count: how often.
        buses: those whose registrations are looked at.
        blocks: how many may be there more than before, however many uses there were.
        before: how many uses fill the caches first; half of `count` unless given.
    """
    # What the first use starts for all.
    await use(0)
    async with assert_nothing_left(*buses):
        await repeat(use, max(count // 2, 1) if before is None else before)
    held = allocated_blocks()
    async with assert_nothing_left(*buses):
        await repeat(use, count)
    grown = allocated_blocks() - held
    assert grown <= blocks + count * BLOCKS_EACH, f"{grown} blocks are left of {count} uses"


async def repeat(use: Use, count: int) -> None:
    """Run `use` so often, some at a time."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await use(number)

    async with trio.open_nursery() as nursery:
        for _ in range(AT_A_TIME):
            nursery.start_soon(work)


def allocated_blocks() -> int:
    """Count the blocks of memory that Python has, garbage excluded."""
    gc.collect()
    return sys.getallocatedblocks()


def short_watch(bus: WatchBus) -> Use:
    """Watch in any way, receive or not, and leave by any door."""
    chance = random.Random(1)

    async def use(number: int) -> None:
        key = f"key/{number % 500}"
        openings = (
            lambda: bus.watch(key, buffer_size=1),
            lambda: bus.subscribe_prefix(key[: chance.randrange(8)], history=1),
            lambda: bus.watch_any([key, "other"], ["pre/"], overflow="latest"),
            lambda: bus.watch(key, after=bus.position),
        )
        # Who is slow where little is kept may lose something.
        lost = (HistoryLostError, WatchLaggedError)
        with suppress(ZeroDivisionError, *lost), trio.CancelScope() as scope:
            async with openings[number % 4]() as watch:
                await leave(watch, key, number // 4 % 4, scope)

    async def leave(watch: Watch, key: str, door: int, scope: trio.CancelScope) -> None:
        if door == 0:
            scope.cancel()
            await watch.receive()
        await bus.publish_many([(key, b"1"), (key, b"2")])
        await watch.receive()
        if door == 1:
            raise ZeroDivisionError
        if door == 2:
            watch.close()

    return use


def short_request(server: Server) -> Use:
    """Ask for a stream or a WebSocket, wait until it watches or not, and vanish."""

    async def use(number: int) -> None:
        async with await server.connect() as client:
            target = f"key=key/{number % 500}"
            match number % 4:
                case 0:
                    await client.stream_events(f"/sse?{target}")
                case 1:
                    await client.upgrade(f"/ws?{target}")
                case 2:
                    await client.request(f"/publish?{target}", "POST", b"data")
                    await client.response()
                case _:
                    await client.request(f"/sse?{target}")

    return use
