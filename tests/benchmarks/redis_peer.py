"""What one would write on redis.asyncio: one pub/sub connection, and a queue a watcher."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from types import TracebackType
from typing import Self

import redis.asyncio

from trio_watchbus._bench._processes import redis_server

from .memory_bus import DATA

PIPELINE = 200


class Publisher:
    """A process that runs a module of this folder, and publishes once it is told to."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        """Wait until it is ready."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def start(self) -> None:
        """Have it publish."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()


def delivered(watches: int, keys: int, messages: int) -> float:
    """Return messages a second that reach the watchers of this process.

    Another process publishes, in pipelines of 200.
    """
    with redis_server() as url, Publisher("redis_peer", url, str(keys), str(messages)) as publisher:
        return asyncio.run(_watch(url, watches, keys, messages, publisher))


def delivered_in_one(watches: int, keys: int, messages: int) -> float:
    """Return as `delivered`, with the publisher in this process too."""
    with redis_server() as url:
        return asyncio.run(_watch(url, watches, keys, messages))


async def _watch(
    url: str, watches: int, keys: int, messages: int, publisher: Publisher | None = None
) -> float:
    total = messages * watches // keys
    received = 0
    done = asyncio.Event()
    queues: dict[bytes, list[asyncio.Queue[bytes]]] = defaultdict(list)

    async def consume(queue: asyncio.Queue[bytes]) -> None:
        nonlocal received
        while True:
            await queue.get()
            received += 1
            if received == total:
                done.set()

    async def pump() -> None:
        async for message in pubsub.listen():
            if message["type"] == "message":
                for queue in queues[message["channel"]]:
                    queue.put_nowait(message["data"])

    client = redis.asyncio.Redis.from_url(url)
    async with client, client.pubsub() as pubsub:
        for number in range(watches):
            queues[f"key-{number % keys}".encode()].append(asyncio.Queue())
        await pubsub.subscribe(*queues)
        for _ in queues:
            await pubsub.get_message(timeout=10)
        tasks = [asyncio.create_task(consume(queue)) for row in queues.values() for queue in row]
        tasks.append(asyncio.create_task(pump()))
        start = time.perf_counter()
        if publisher is None:
            tasks.append(asyncio.create_task(_publish_all(client, keys, messages)))
        else:
            publisher.start()
        await done.wait()
        took = time.perf_counter() - start
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return total / took


async def publish(url: str, keys: int, messages: int) -> None:
    """Publish to the keys in turn, once a line comes in."""
    async with redis.asyncio.Redis.from_url(url) as client:
        await client.ping()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        await _publish_all(client, keys, messages)


async def _publish_all(client: redis.asyncio.Redis, keys: int, messages: int) -> None:
    numbers: Iterator[int] = iter(range(messages))
    while batch := list(islice(numbers, PIPELINE)):
        pipeline = client.pipeline(transaction=False)
        for number in batch:
            pipeline.publish(f"key-{number % keys}", DATA)
        await pipeline.execute()


if __name__ == "__main__":
    asyncio.run(publish(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
