"""This project's bus in memory."""

from __future__ import annotations

import os
import random
import time
from contextlib import AbstractAsyncContextManager
from typing import Any

import trio
import trio.testing

from trio_watchbus import InMemoryWatchBus
from trio_watchbus._bench._usage import memory

DATA = b"data"


def keys_of(count: int) -> list[str]:
    """Return so many keys of 31 characters."""
    return [f"tenant/acme/orders/{number:08d}/new" for number in range(count)]


def delivered(watches: int, keys: int, messages: int, burst: int) -> float:
    """Return messages a second that watches receive with ``async for``, published at random.

    Args:
        watches: how many, on the keys in turn.
        keys: how many.
        messages: how many are published; as many reach each key, about.
        burst: published before others have their turn; 0 for `publish` as it is.
    """
    return trio.run(_delivered, watches, keys_of(keys), messages, burst)


async def _delivered(watches: int, keys: list[str], messages: int, burst: int) -> float:
    bus = InMemoryWatchBus()
    order = random.choices(keys, k=messages)
    watched = [keys[number % len(keys)] for number in range(watches)]
    each = {key: watched.count(key) for key in keys} if len(keys) > 1 else {keys[0]: watches}
    total = sum(each[key] for key in order)
    received = 0
    done = trio.Event()

    async def consume(key: str) -> None:
        nonlocal received
        async with bus.watch(key) as watch:
            async for _ in watch:
                received += 1
                if received == total:
                    done.set()

    async with trio.open_nursery() as nursery:
        for key in watched:
            nursery.start_soon(consume, key)
        await trio.testing.wait_all_tasks_blocked()
        start = time.perf_counter()
        if burst:
            for number, key in enumerate(order, 1):
                bus.publish_nowait(key, DATA)
                if not number % burst:
                    await trio.lowlevel.checkpoint()
        else:
            for key in order:
                await bus.publish(key, DATA)
        await done.wait()
        took = time.perf_counter() - start
        nursery.cancel_scope.cancel()
    return total / took


def publish_nowait(messages: int, prefixes: int = 0, fresh: int = 0, watches: int = 1000) -> float:
    """Return nanoseconds of a `publish_nowait`.

    Args:
        messages: how many.
        prefixes: prefix watches that none of them reaches.
        fresh: 0 for the watched keys at random; 1 for keys that nobody published to before.
        watches: watched keys, each watched once.
    """
    keys = [f"new/{number}" for number in range(messages)] if fresh else keys_of(watches)
    order = keys if fresh else random.choices(keys, k=messages)

    async def main() -> float:
        bus = InMemoryWatchBus()
        held = [await _enter(bus.watch(key, buffer_size=messages)) for key in keys[:watches]]
        held += [await _enter(bus.subscribe_prefix(f"away/{n}/")) for n in range(prefixes)]
        publish = bus.publish_nowait
        start = time.perf_counter()
        for key in order:
            publish(key, DATA)
        return (time.perf_counter() - start) / messages * 1e9

    return trio.run(main)


def publish_prefix(watches: int, reached: int, messages: int) -> float:
    """Return microseconds of a `publish_prefix_nowait` that reaches `reached` of the watches."""

    async def main() -> float:
        bus = InMemoryWatchBus()
        tenants = max(1, watches // reached)
        held = [
            await _enter(bus.watch(f"tenant/{tenant:05d}/orders/{number:08d}"))
            for tenant in range(tenants)
            for number in range(reached)
        ]
        prefixes = [f"tenant/{tenant:05d}/" for tenant in range(tenants)]
        random.shuffle(prefixes)
        start = time.perf_counter()
        for number in range(messages):
            bus.publish_prefix_nowait(prefixes[number % tenants], DATA)
        took = time.perf_counter() - start
        assert len(held) == tenants * reached
        return took / messages * 1e6

    return trio.run(main)


def watch_memory(watches: int) -> float:
    """Return bytes that a watch takes, its key of 29 characters included."""

    async def main() -> float:
        bus = InMemoryWatchBus()
        before = memory(os.getpid())
        held = [
            await _enter(bus.watch(f"tenant/acme/orders/{number:010d}"))
            for number in range(watches)
        ]
        return (memory(os.getpid()) - before) / len(held)

    return trio.run(main)


async def _enter(opening: AbstractAsyncContextManager[Any]) -> AbstractAsyncContextManager[Any]:
    """Enter for good: these processes end when they have measured."""
    await opening.__aenter__()
    return opening
