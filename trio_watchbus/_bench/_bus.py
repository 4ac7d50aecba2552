"""Watching and publishing in this process, on any bus."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import trio

from .._errors import WatchLaggedError
from ..abc import WatchBus
from ._figures import Figures, Latency, Load
from ._stamp import sent_at, stamped
from ._usage import cpu_seconds, memory

_TIMED = 64
"""One delivery in so many is timed: timing each would take as long as delivering it."""
_TOLD_EVERY = 0.1
"""Seconds between two steps of the progress bar."""


async def measure_bus(
    bench: str, bus: WatchBus, load: Load, publishers: int, progress: Callable[[int], None]
) -> Figures:
    """Watch and publish as `load` says.

    Args:
        bench: the row's name.
        bus: an open bus, which nobody else publishes to meanwhile.
        load: how much.
        publishers: tasks that publish at the same time.
        progress: called with the number of deliveries so far.
    """
    run = _Run(bus, load)
    async with trio.open_nursery() as nursery:
        for number in range(load.clients):
            await nursery.start(run.consume, run.keys[number % load.keys])
        nursery.start_soon(run.tell, progress)
        cpu, start = cpu_seconds(os.getpid()), time.monotonic()
        for _ in range(publishers):
            nursery.start_soon(run.publish)
        with trio.move_on_after(load.seconds):
            await run.done.wait()
        seconds = time.monotonic() - start
        nursery.cancel_scope.cancel()
    progress(run.delivered)
    return Figures(
        bench=bench,
        load=load,
        expected=run.expected,
        delivered=run.delivered,
        seconds=seconds,
        latency=Latency.of(run.latencies),
        cpu=cpu_seconds(os.getpid()) - cpu,
        memory=memory(os.getpid(), highest=True),
    )


class _Run:
    def __init__(self, bus: WatchBus, load: Load) -> None:
        self.keys = [f"bench/{number}" for number in range(load.keys)]
        self.expected = load.expected()
        self.delivered = 0
        self.latencies: list[float] = []
        self.done = trio.Event()
        self._bus = bus
        self._load = load
        self._numbers = iter(range(load.messages))
        if not self.expected:
            self.done.set()

    async def consume(
        self, key: str, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with self._bus.watch(key) as watch:
            task_status.started()
            while True:
                try:
                    async for message in watch:
                        self.delivered += 1
                        if self.delivered % _TIMED == 1:
                            self.latencies.append(time.monotonic() - sent_at(message.data))
                        if self.delivered == self.expected:
                            self.done.set()
                except WatchLaggedError:
                    # Told as lost in the end.
                    continue

    async def publish(self) -> None:
        load, keys = self._load, self.keys
        start = trio.current_time()
        for number in self._numbers:
            if load.rate:
                await trio.sleep_until(start + number / load.rate)
            await self._bus.publish(keys[number % load.keys], stamped(load.size))

    async def tell(self, progress: Callable[[int], None]) -> None:
        while True:
            await trio.sleep(_TOLD_EVERY)
            progress(self.delivered)
