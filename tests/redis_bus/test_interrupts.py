"""A KeyboardInterrupt may come anywhere: Trio stays whole, and nothing is left in Redis."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import trio
from redis_bus.servers import RedisServer

import trio_watchbus
from trio_watchbus import open_redis_watchbus
from trio_watchbus._redis import _bus

FOLDER = str(Path(trio_watchbus.__file__).parent / "_redis")


class Steps(trio.abc.Instrument):
    """Interrupts before one step of a task: it is then raised at a checkpoint of the main task."""

    def __init__(self, wanted: int) -> None:
        self.left = wanted

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def interrupted_at_line(wanted: int) -> Iterator[Callable[[], bool]]:
    """Interrupt before one line that runs in the bus; yield whether it has been."""
    left = wanted

    def trace_line(_: FrameType, event: str, __: object) -> Any:
        nonlocal left
        # Not where garbage is collected after that.
        if event == "line" and trio.lowlevel.in_trio_run():
            left -= 1
            if left == 0:
                signal.raise_signal(signal.SIGINT)
        return trace_line

    def trace(frame: FrameType, *_: object) -> Any:
        return trace_line if frame.f_code.co_filename.startswith(FOLDER) else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lambda: left <= 0
    finally:
        sys.settrace(before)


def only_interrupts(error: BaseException) -> bool:
    """Whether an error is a KeyboardInterrupt, or a group of nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(only_interrupts, error.exceptions))
    return isinstance(error, (KeyboardInterrupt, trio.Cancelled))


def open_files() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


async def use(url: str) -> None:
    """Open a bus, and do one of each."""
    async with open_redis_watchbus(url) as bus:
        async with bus.watch("k", history=1) as watch:
            await bus.publish("k", b"1")
            assert (await watch.receive()).data == b"1"
            assert await bus.watched_keys() == {"k"}
        await bus.latest("k")


def assert_whole(server: RedisServer, files: int, run: Callable[[], None]) -> None:
    """Run something that is interrupted; assert that nothing is left."""
    error: BaseException | None = None
    try:
        run()
    except BaseException as raised:  # noqa: BLE001
        error = raised
    assert error is None or only_interrupts(error), repr(error)
    names = server.call("KEYS", "watchbus:*")
    left = [name for name in names if name.startswith((b"watchbus:index", b"watchbus:process"))]
    assert left == []
    assert open_files() <= files


@pytest.fixture
def files(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many files are open between runs; the farewell has the time that it needs."""
    monkeypatch.setattr(_bus, "_FAREWELL_SECONDS", 20)
    trio.run(use, server.url)
    return open_files()


def test_at_every_step(server: RedisServer, files: int) -> None:
    """Until one run has fewer steps."""
    wanted = 0
    while True:
        wanted += 1
        steps = Steps(wanted)
        assert_whole(server, files, lambda: trio.run(use, server.url, instruments=[steps]))  # noqa: B023
        if steps.left > 0:
            break
    assert wanted > 50


@pytest.mark.timeout(300)
def test_at_lines_of_the_bus(server: RedisServer, files: int) -> None:
    """At every seventeenth line of opening, using and leaving it, whoever runs it."""
    wanted, is_over = 1, False
    while not is_over:
        with interrupted_at_line(wanted) as has_been:
            assert_whole(server, files, lambda: trio.run(use, server.url))
        is_over = not has_been()
        wanted += 17
    assert wanted > 500
