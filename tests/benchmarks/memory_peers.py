"""What one would use without leaving the process, and a broker beside it."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
import time
from collections import defaultdict
from contextlib import suppress
from typing import Any

import trio
import trio.testing
from broadcaster import Broadcast

from .memory_bus import DATA, keys_of


def broadcaster(loop: str, watches: int, keys: int, messages: int) -> float:
    """Return messages a second that subscribers of broadcaster's memory backend receive.

    Its `publish` puts into a queue without bound and lets nobody else run.
    """
    work = _broadcaster(watches, keys_of(keys), messages)
    if loop == "uvloop":
        import uvloop  # noqa: PLC0415

        return uvloop.run(work)
    return asyncio.run(work)


async def _broadcaster(watches: int, keys: list[str], messages: int) -> float:
    order = random.choices(keys, k=messages)
    watched = [keys[number % len(keys)] for number in range(watches)]
    counts: dict[str, int] = defaultdict(int)
    for key in watched:
        counts[key] += 1
    total = sum(counts[key] for key in order)
    received = 0
    waiting = asyncio.Semaphore(0)
    done = asyncio.Event()

    # Its annotations say that a subscriber may be None.
    async def consume(bus: Any, key: str) -> None:
        nonlocal received
        async with bus.subscribe(key) as subscriber:
            waiting.release()
            async for _ in subscriber:
                received += 1
                if received == total:
                    done.set()

    async with Broadcast("memory://") as bus:
        tasks = [asyncio.create_task(consume(bus, key)) for key in watched]
        for _ in watched:
            await waiting.acquire()
        start = time.process_time()
        for key in order:
            await bus.publish(key, "data")
        await done.wait()
        took = time.process_time() - start
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return total / took


def trio_channels(watches: int, keys: int, messages: int, burst: int) -> float:
    """Return messages a second over one memory channel a watcher, looked up in a dict by hand."""
    return trio.run(_trio_channels, watches, keys_of(keys), messages, burst)


async def _trio_channels(watches: int, keys: list[str], messages: int, burst: int) -> float:
    order = random.choices(keys, k=messages)
    senders: dict[str, list[trio.MemorySendChannel[bytes]]] = defaultdict(list)
    received = 0
    done = trio.Event()
    total = 0

    async def consume(channel: trio.MemoryReceiveChannel[bytes]) -> None:
        nonlocal received
        async for _ in channel:
            received += 1
            if received == total:
                done.set()

    async with trio.open_nursery() as nursery:
        for number in range(watches):
            sender, receiver = trio.open_memory_channel[bytes](1024)
            senders[keys[number % len(keys)]].append(sender)
            nursery.start_soon(consume, receiver)
        total = sum(len(senders[key]) for key in order)
        await trio.testing.wait_all_tasks_blocked()
        start = time.process_time()
        for number, key in enumerate(order, 1):
            for sender in senders[key]:
                sender.send_nowait(DATA)
            if not number % burst:
                await trio.lowlevel.checkpoint()
        await done.wait()
        took = time.process_time() - start
        nursery.cancel_scope.cancel()
    return total / took


def bare_wakes(watches: int, messages: int, burst: int) -> float:
    """Return how often a second Trio wakes a task, one of `watches` at random for each message.

    No channel and no bus that wakes its receivers can do better than this.
    """
    return trio.run(_bare_wakes, watches, messages, burst)


async def _bare_wakes(watches: int, messages: int, burst: int) -> float:
    order = random.choices(range(watches), k=messages)
    parked: list[trio.lowlevel.Task | None] = [None] * watches
    woken = 0

    def abort(_: object) -> trio.lowlevel.Abort:
        return trio.lowlevel.Abort.SUCCEEDED

    async def consume(number: int) -> None:
        nonlocal woken
        while True:
            parked[number] = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(abort)
            woken += 1

    async with trio.open_nursery() as nursery:
        for number in range(watches):
            nursery.start_soon(consume, number)
        await trio.testing.wait_all_tasks_blocked()
        expected = 0
        start = time.process_time()
        for published, number in enumerate(order, 1):
            task = parked[number]
            # One that is about to run takes this message too.
            if task is not None:
                parked[number] = None
                trio.lowlevel.reschedule(task)
                expected += 1
            if not published % burst:
                await trio.lowlevel.checkpoint()
        while woken < expected:
            await trio.lowlevel.checkpoint()
        took = time.process_time() - start
        nursery.cancel_scope.cancel()
    return messages / took


def nats_is_there() -> bool:
    """Whether nats-server is on PATH, and its client installed."""
    with suppress(ImportError):
        import nats  # noqa: F401, PLC0415

        return shutil.which("nats-server") is not None
    return False


def nats(watches: int, keys: int, messages: int) -> float:
    """Return messages a second from nats-server over loopback to subscribers in one process."""
    with subprocess.Popen(
        ["nats-server", "--addr", "127.0.0.1", "--port", "-1", "--ports_file_dir", "/tmp"],
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stderr is not None
            port = 0
            for line in server.stderr:
                if "Listening for client connections on" in line:
                    port = int(line.rpartition(":")[2])
                if "Server is ready" in line:
                    break
            return asyncio.run(_nats(port, watches, keys_of(keys), messages))
        finally:
            server.terminate()


async def _nats(port: int, watches: int, keys: list[str], messages: int) -> float:
    import nats as client  # noqa: PLC0415

    # A subject has its parts between dots.
    subjects = [key.replace("/", ".") for key in keys]
    order = random.choices(subjects, k=messages)
    watched = [subjects[number % len(subjects)] for number in range(watches)]
    counts: dict[str, int] = defaultdict(int)
    for subject in watched:
        counts[subject] += 1
    total = sum(counts[subject] for subject in order)
    received = 0
    done = asyncio.Event()

    async def took_one(_: object) -> None:
        nonlocal received
        received += 1
        if received == total:
            done.set()

    subscriber = await client.connect(f"nats://127.0.0.1:{port}")
    publisher = await client.connect(f"nats://127.0.0.1:{port}")
    for subject in watched:
        await subscriber.subscribe(subject, cb=took_one)
    await subscriber.flush()
    start = time.perf_counter()
    for subject in order:
        await publisher.publish(subject, DATA)
    await publisher.flush()
    await asyncio.wait_for(done.wait(), 60)
    took = time.perf_counter() - start
    await publisher.close()
    await subscriber.close()
    return total / took
