"""This project's bus on Redis, between two processes."""

from __future__ import annotations

import sys
import time
from statistics import median

import trio

from trio_watchbus import open_watchbus
from trio_watchbus._bench._processes import redis_server

from .memory_bus import DATA
from .redis_peer import Publisher

PUBLISHERS = 256

BATCH = 500


def delivered(watches: int, keys: int, messages: int) -> float:
    """Return messages a second that reach the watches of this process.

    Another process publishes: 256 tasks, each waiting until its message is accepted.
    """
    with redis_server() as url, Publisher("redis_bus", url, str(keys), str(messages)) as publisher:
        return trio.run(_watch, url, watches, keys, messages, publisher)


async def _watch(url: str, watches: int, keys: int, messages: int, publisher: Publisher) -> float:
    total = messages * watches // keys
    received = 0
    done = trio.Event()

    async def consume(
        key: str, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        nonlocal received
        async with bus.watch(key) as watch:
            task_status.started()
            async for _ in watch:
                received += 1
                if received == total:
                    done.set()

    async with open_watchbus(url) as bus, trio.open_nursery() as nursery:
        for number in range(watches):
            await nursery.start(consume, f"key-{number % keys}")
        publisher.start()
        start = time.perf_counter()
        await done.wait()
        took = time.perf_counter() - start
        nursery.cancel_scope.cancel()
    return total / took


def stored(keys: int, messages: int) -> float:
    """Return messages a second that one task has stored in batches of 500."""

    async def main(url: str) -> float:
        batches = [
            [(f"key-{number % keys}", DATA) for number in range(first, first + BATCH)]
            for first in range(0, messages, BATCH)
        ]
        async with open_watchbus(url) as bus:
            start = time.perf_counter()
            for batch in batches:
                await bus.publish_many(batch)
            return len(batches) * BATCH / (time.perf_counter() - start)

    with redis_server() as url:
        return trio.run(main, url)


def lone_latency(messages: int) -> float:
    """Return the median of milliseconds from a publish to its delivery in another process.

    One at a time, with nothing else to do for anybody.
    """

    async def main(url: str, publisher: Publisher) -> float:
        async with open_watchbus(url) as bus, bus.watch("key-0") as watch:
            publisher.start()
            times = []
            for _ in range(messages):
                message = await watch.receive()
                times.append(time.monotonic_ns() - int(message.data))
        return median(times) / 1e6

    with (
        redis_server() as url,
        Publisher("redis_bus", url, "1", str(messages), "alone") as publisher,
    ):
        return trio.run(main, url, publisher)


async def publish(url: str, keys: int, messages: int, alone: bool) -> None:
    """Publish to the keys in turn, once a line comes in: from 256 tasks, or `alone`, at leisure."""
    numbers = iter(range(messages))

    async def publish_some() -> None:
        for number in numbers:
            await bus.publish(f"key-{number % keys}", DATA)

    async with open_watchbus(url) as bus:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        if alone:
            for _ in numbers:
                # The clock that both processes share.
                await bus.publish("key-0", b"%d" % time.monotonic_ns())
                await trio.sleep(0.005)
            return
        async with trio.open_nursery() as nursery:
            for _ in range(PUBLISHERS):
                nursery.start_soon(publish_some)


if __name__ == "__main__":
    trio.run(publish, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), len(sys.argv) > 4)
