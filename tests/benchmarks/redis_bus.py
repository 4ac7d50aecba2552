"""This project's bus on Redis, between two processes."""

from __future__ import annotations

import itertools
import sys
import time

import trio

from trio_watchbus import open_watchbus
from trio_watchbus._bench._processes import redis_server

from .memory_bus import DATA
from .redis_peer import Publisher

PUBLISHERS = 256


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


async def publish(url: str, keys: int, messages: int) -> None:
    """Publish to the keys in turn, once a line comes in."""
    numbers = iter(range(messages))

    async def publish_some() -> None:
        for number in numbers:
            await bus.publish(f"key-{number % keys}", DATA)

    async with open_watchbus(url) as bus:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        async with trio.open_nursery() as nursery:
            for _ in itertools.repeat(None, PUBLISHERS):
                nursery.start_soon(publish_some)


if __name__ == "__main__":
    trio.run(publish, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
