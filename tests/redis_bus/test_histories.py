"""Data sets come and go under processes that stay: no two messages ever have one position."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_bus.servers import RedisServer

from trio_watchbus import HistoryLostError, RedisWatchBus, WatchLaggedError, open_redis_watchbus
from trio_watchbus._redis import _reader
from trio_watchbus.abc import Watch

PROCESSES = range(3)
COPIES = range(1, 4)

processes = st.sampled_from(PROCESSES)
copies = st.sampled_from(COPIES)
steps = st.one_of(
    st.tuples(st.just("publish"), processes),
    st.tuples(st.just("publish"), processes),
    st.tuples(st.just("copy"), copies),
    st.tuples(st.just("swap"), copies),
    st.tuples(st.just("restore"), copies),
    st.tuples(st.just("flush"), st.just(0)),
    st.tuples(st.just("restart"), processes),
    st.tuples(st.just("notice"), st.just(0)),
)

QUIET_SECONDS = 0.02


class Process:
    """A bus with a watch of everything, and what that received."""

    def __init__(self, bus: RedisWatchBus, watch: Watch) -> None:
        self.bus = bus
        self.watch = watch
        self.got: set[bytes] = set()
        # The message before the next one; None where a loss was told, or nothing came yet.
        self.last: bytes | None = None
        self.leaving = trio.Event()
        self.left = trio.Event()

    @classmethod
    async def run(cls, url: str, task_status: trio.TaskStatus[Process]) -> None:
        """Be there until it is told to leave."""
        async with open_redis_watchbus(url) as bus, bus.subscribe_prefix("") as watch:
            process = cls(bus, watch)
            task_status.started(process)
            await process.leaving.wait()
        process.left.set()


class Histories:
    """A server with data sets, the processes that use the current one, and a model of it all."""

    def __init__(self, server: RedisServer, nursery: trio.Nursery) -> None:
        self._server = server
        self._nursery = nursery
        self._processes: dict[int, Process] = {}
        # The messages of each data set, by the number of its database; 0 is the current one.
        self._data_sets: dict[int, list[bytes]] = {number: [] for number in (0, *COPIES)}
        # The message before each, in the data set to which it was published.
        self._before: dict[bytes, bytes | None] = {}
        self._data_of: dict[str, bytes] = {}

    def close(self) -> None:
        for process in self._processes.values():
            process.leaving.set()

    async def step(self, what: str, which: int) -> None:
        await getattr(self, f"_{what}")(which)

    async def check(self) -> None:
        """Resume from every position, and see that what follows is what followed there."""
        await self._publish(0)
        [end] = self._data_sets[0][-1:]
        bus = (await self._process(0)).bus
        for position, data in list(self._data_of.items()):
            try:
                async with bus.subscribe_prefix("", after=position) as watch:
                    last: bytes | None = data
                    while last != end:
                        message = await watch.receive()
                        self._know(message.id, message.data)
                        assert self._before[message.data] == last
                        last = message.data
            except (HistoryLostError, WatchLaggedError):
                continue
        for process in self._processes.values():
            await self._receive(process)

    async def _publish(self, which: int) -> None:
        data = b"%d" % len(self._before)
        current = self._data_sets[0]
        process = await self._process(which)
        # Known before it is received.
        self._before[data] = current[-1] if current else None
        self._know(await process.bus.publish("k", data), data)
        current.append(data)

    async def _copy(self, which: int) -> None:
        self._move(0, which)
        self._data_sets[which] = self._data_sets[0].copy()

    async def _restore(self, which: int) -> None:
        self._move(which, 0)
        self._data_sets[0] = self._data_sets[which].copy()

    async def _swap(self, which: int) -> None:
        self._server.call("SWAPDB", 0, which)
        sets = self._data_sets
        sets[0], sets[which] = sets[which], sets[0]

    async def _flush(self, _: int) -> None:
        self._server.call("FLUSHDB")
        self._data_sets[0] = []

    async def _restart(self, which: int) -> None:
        if which in self._processes:
            process = self._processes.pop(which)
            await self._receive(process)
            process.leaving.set()
            await process.left.wait()
        await self._process(which)

    async def _notice(self, _: int) -> None:
        """Let every process look at what is there now."""
        await trio.sleep(3 * QUIET_SECONDS)
        for process in self._processes.values():
            await self._receive(process)

    def _move(self, source: int, target: int) -> None:
        with self._server.client(db=source) as client:
            names = client.keys("watchbus:*")
            with client.pipeline() as pipeline:
                pipeline.execute_command("SELECT", target)
                pipeline.flushdb()
                pipeline.execute_command("SELECT", source)
                for name in names:
                    pipeline.copy(name, name, destination_db=target)
                pipeline.execute()

    async def _process(self, which: int) -> Process:
        if which not in self._processes:
            run = partial(Process.run, self._server.url)
            self._processes[which] = await self._nursery.start(run)
        return self._processes[which]

    async def _receive(self, process: Process) -> None:
        """See that each message follows the one before it, or a loss that is told."""
        while True:
            try:
                message = process.watch.receive_nowait()
            except trio.WouldBlock:
                return
            except WatchLaggedError:
                process.last = None
                continue
            self._know(message.id, message.data)
            assert message.data not in process.got, "an old message came as a new one"
            process.got.add(message.data)
            assert process.last in (None, self._before[message.data])
            process.last = message.data

    def _know(self, position: str, data: bytes) -> None:
        assert self._data_of.setdefault(position, data) == data, "one position, two messages"


@asynccontextmanager
async def histories(server: RedisServer) -> AsyncIterator[Histories]:
    server.call("FLUSHALL")
    async with trio.open_nursery() as nursery:
        played = Histories(server, nursery)
        try:
            yield played
        finally:
            played.close()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, min_size=4, max_size=25))
async def test_no_position_is_used_twice_whatever_comes_back(
    any_server: RedisServer, monkeypatch: pytest.MonkeyPatch, played: list[tuple[str, int]]
) -> None:
    """Messages follow each other as they were published, or a loss is told; so too on resuming."""
    monkeypatch.setattr(_reader, "_QUIET_SECONDS", QUIET_SECONDS)
    with trio.fail_after(60):
        async with histories(any_server) as world:
            for what, which in played:
                await world.step(what, which)
            await world.check()


CASES = {
    "a copy comes back after another epoch": "p0 c1 p0 n0 f0 p1 n0 s1 p0 n0",
    "a copy grows past what is lost, before anybody looks": "p0 p1 c1 p0 n0 b1 p1 p2 p0 n0",
    "two branches take turns": "p0 c1 p0 s1 p1 s1 p0 n0 s1 n0 p2",
}
"""Each step by its first letter, but for `b`, which brings a copy back."""

STEPS = {
    "p": "publish",
    "c": "copy",
    "s": "swap",
    "b": "restore",
    "f": "flush",
    "r": "restart",
    "n": "notice",
}


@pytest.mark.parametrize("case", CASES)
async def test_a_copy_that_comes_back(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """What Hypothesis may not come upon."""
    monkeypatch.setattr(_reader, "_QUIET_SECONDS", QUIET_SECONDS)
    with trio.fail_after(30):
        async with histories(server) as world:
            for step in CASES[case].split():
                await world.step(STEPS[step[0]], int(step[1]))
            await world.check()
