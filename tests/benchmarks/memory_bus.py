"""This project's bus in memory.

Time is the processor's: nothing here waits for anything, and other programs disturb that less.
"""

from __future__ import annotations

import os
import random
import time
from collections import OrderedDict, deque
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

import trio
import trio.testing

from trio_watchbus import InMemoryWatchBus, Message
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
        start = time.process_time()
        if burst:
            for number, key in enumerate(order, 1):
                bus.publish_nowait(key, DATA)
                if not number % burst:
                    await trio.lowlevel.checkpoint()
        else:
            for key in order:
                await bus.publish(key, DATA)
        await done.wait()
        took = time.process_time() - start
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

    async def main() -> float:
        bus = InMemoryWatchBus()
        held = [await bus.watch(key, buffer_size=messages).__aenter__() for key in keys_of(watches)]
        for number in range(prefixes):
            await _enter(bus.subscribe_prefix(f"away/{number}/"))
        publish = bus.publish_nowait
        took = 0.0
        # The second time memory comes from what the first has freed, as in a program that goes on.
        for turn in range(2):
            if fresh:
                order = [f"new/{turn}/{number}" for number in range(messages)]
            else:
                order = random.choices(keys_of(watches), k=messages)
            start = time.process_time()
            for key in order:
                publish(key, DATA)
            took = time.process_time() - start
            for watch in held:
                with suppress(trio.WouldBlock):
                    while True:
                        watch.receive_nowait()
        return took / messages * 1e9

    return trio.run(main)


def bare_publish(messages: int) -> float:
    """Return nanoseconds of what a publish cannot do without, in a loop without a single call.

    A numbered and dated message is made, put into a bounded journal, kept as its key's newest, and
    handed to the buffer that its key leads to.
    """
    keys = keys_of(1000)
    buffers: dict[str, deque[Message]] = {key: deque() for key in keys}
    newest: OrderedDict[str, Message] = OrderedDict()
    journal: deque[Message] = deque()
    took = 0.0
    number = size = 0
    for _ in range(2):
        order = random.choices(keys, k=messages)
        start = time.process_time()
        for key in order:
            number += 1
            message = Message(key, DATA, f"0123456789ab-{number}", time.time())
            journal.append(message)
            size += len(key) + len(DATA)
            if len(journal) > 10_000:
                dropped = journal.popleft()
                size -= len(dropped.key) + len(dropped.data)
            newest[key] = message
            newest.move_to_end(key)
            buffers[key].append(message)
        took = time.process_time() - start
        for buffer in buffers.values():
            buffer.clear()
    return took / messages * 1e9


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
        start = time.process_time()
        for number in range(messages):
            bus.publish_prefix_nowait(prefixes[number % tenants], DATA)
        took = time.process_time() - start
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
