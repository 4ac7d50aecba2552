"""Ctrl-C may come at any place of an operation: nothing is left, nothing half done, Trio whole."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import fakeredis
import pytest
import trio
import trio.testing
from redis_bus.servers import fake_client
from served import until

import trio_watchbus
from trio_watchbus import InMemoryWatchBus, open_redis_watchbus, open_remote_watchbus
from trio_watchbus.abc import WatchBus
from trio_watchbus.testing import assert_nothing_left, interrupt_everywhere
from trio_watchbus.testing._interrupting import Files, interrupt_new_places
from trio_watchbus.web import serve

PACKAGE = Path(trio_watchbus.__file__).parent

Use = Callable[[WatchBus], Awaitable[None]]


async def watch_and_publish(bus: WatchBus) -> None:
    """A consumer parks, and is woken, in each way to receive."""
    async with bus.watch_any(["k"], ["p/"]) as watch, trio.open_nursery() as nursery:

        async def publish() -> None:
            await trio.testing.wait_all_tasks_blocked()
            await bus.publish("k", b"1")
            await trio.testing.wait_all_tasks_blocked()
            await bus.publish_prefix("p/", b"2")
            await trio.testing.wait_all_tasks_blocked()
            await bus.publish_many([("k", b"3"), ("k", b"4")])

        nursery.start_soon(publish)
        assert (await watch.receive()).data == b"1"
        assert (await anext(watch)).data == b"2"
        got = await watch.receive_batch()
        while len(got) < 2:
            got += await watch.receive_batch()
        assert [message.data for message in got] == [b"3", b"4"]


async def watch_in_vain(bus: WatchBus) -> None:
    """A consumer is cancelled, and another sees the bus close."""
    async with bus.watch("k") as watch:
        with trio.move_on_after(0):
            await watch.receive()
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                async for _ in watch:
                    pass

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            bus.close()


async def fall_behind_and_resume(bus: WatchBus) -> None:
    start = bus.position
    async with bus.watch("k", buffer_size=1) as watch:
        await bus.publish_many([("k", b"%d" % number) for number in range(4)])
        for number in range(4):
            assert (await watch.receive()).data == b"%d" % number
    async with bus.watch("k", after=start) as watch, bus.watch("k", history=1) as other:
        assert (await watch.receive()).data == b"0"
        assert (await other.receive()).data == b"3"


async def ask(bus: WatchBus) -> None:
    async with bus.watch("q"):
        assert await bus.watched_keys() == {"q"}
        await bus.publish("q", b"1", idempotency_key="once")
        await bus.publish("q", b"1", idempotency_key="once")
        latest = await bus.latest("q")
        assert latest is not None
        assert latest.data == b"1"


pytestmark = pytest.mark.timeout(600)

ALL = [watch_and_publish, watch_in_vain, fall_behind_and_resume, ask]

USES = pytest.mark.parametrize("use", ALL)


def interrupt_a_bus_everywhere(
    open_bus: Callable[[], AbstractAsyncContextManager[WatchBus]],
    use: Use,
    nothing_left: Callable[[], Awaitable[object]],
    code: list[Path],
) -> None:
    async def attempt() -> None:
        async with assert_nothing_left(), open_bus() as bus:
            await use(bus)

    interrupt_everywhere(attempt, nothing_left, code=code)


CORE = [PACKAGE / name for name in ("_core", "abc.py", "_message.py", "_request.py")]


@USES
def test_the_embedded_bus(use: Use) -> None:
    buses: list[InMemoryWatchBus] = []

    def open_bus() -> InMemoryWatchBus:
        # The one before was looked at already, though making this one may be interrupted.
        buses.clear()
        buses.append(InMemoryWatchBus())
        return buses[0]

    async def nothing_left() -> None:
        await trio.lowlevel.checkpoint()
        for bus in buses:
            statistics = bus.statistics()
            assert statistics.watches == statistics.trie_nodes == 0
            # A batch is whole.
            assert statistics.journal_messages in (0, 1, 2, 4)
            # It goes on, as far as a closed bus does.
            with suppress(trio.ClosedResourceError):
                bus.publish_nowait("k", b"after")

    interrupt_a_bus_everywhere(open_bus, use, nothing_left, [*CORE, PACKAGE / "_memory.py"])


def test_a_bus_over_a_fake_redis() -> None:
    """What it says to Redis on leaving is not looked at: an interrupt may strike that, too."""

    def open_bus() -> AbstractAsyncContextManager[WatchBus]:
        return open_redis_watchbus(fake_client(fakeredis.FakeServer()))

    interrupt_a_bus_everywhere(
        open_bus, watch_and_publish, trio.lowlevel.checkpoint, [PACKAGE / "_redis"]
    )


@pytest.fixture(scope="module")
def served_elsewhere() -> Iterator[tuple[str, InMemoryWatchBus]]:
    """A bus served by another Trio run, in a thread, where interrupts do not reach it."""
    told: SimpleQueue[Any] = SimpleQueue()

    async def run() -> None:
        stop = trio.Event()
        async with InMemoryWatchBus() as bus, trio.open_nursery() as nursery:

            async def serve_it(*, task_status: trio.TaskStatus[list[str]]) -> None:
                await serve(
                    bus,
                    bind="127.0.0.1:0",
                    shutdown_trigger=stop.wait,
                    task_status=task_status,
                )

            [url] = await nursery.start(serve_it)
            told.put((url, bus, trio.lowlevel.current_trio_token(), stop))
            await stop.wait()

    thread = threading.Thread(target=trio.run, args=(run,))
    thread.start()
    url, bus, token, stop = told.get(timeout=30)
    yield url, bus
    trio.from_thread.run_sync(stop.set, trio_token=token)
    thread.join()


def test_a_remote_bus(served_elsewhere: tuple[str, InMemoryWatchBus]) -> None:
    """Opening, closing and what else several uses share is interrupted in one of them only."""
    url, bus = served_elsewhere
    files = Files([PACKAGE / "_remote"])
    done: set[tuple[object, int]] = set()

    async def attempt(use: Use) -> None:
        async with assert_nothing_left(), open_remote_watchbus(url) as opened:
            await use(opened)

    async def nothing_left() -> None:
        await until(lambda: not bus.statistics().watches)

    for use in ALL:
        interrupt_new_places(partial(attempt, use), nothing_left, files, done, 60)
    assert len(done) > 500
