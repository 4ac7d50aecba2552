"""Asserting that nothing is left behind."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio
import trio.testing

from ..abc import WatchBus

_PATIENCE = 5.0
"""Seconds of real time to wait for what ends by itself: the server's side of a closed connection, a
thread that was told to stop."""

_DESCRIPTORS = Path("/dev/fd")
_IDLE_THREAD = re.compile(r"Trio thread \d+")
"""How Trio names a thread that waits for work; it keeps such threads for some seconds."""


@dataclass(frozen=True, slots=True)
class _Held:
    """Resources that a Trio run and its process hold."""

    tasks: int
    threads: int
    limiter_tokens: int
    descriptors: int

    @classmethod
    def now(cls) -> _Held:
        idle = sum(bool(_IDLE_THREAD.fullmatch(t.name)) for t in threading.enumerate())
        return cls(
            tasks=trio.lowlevel.current_statistics().tasks_living,
            threads=threading.active_count() - idle,
            limiter_tokens=int(trio.to_thread.current_default_thread_limiter().borrowed_tokens),
            descriptors=len(list(_DESCRIPTORS.iterdir())) if _DESCRIPTORS.is_dir() else 0,
        )

    def beyond(self, before: _Held) -> list[str]:
        """Describe the resources that exceed `before`."""
        return [
            f"{name}: {getattr(self, name)}, before {getattr(before, name)}"
            for name in self.__slots__
            if getattr(self, name) > getattr(before, name)
        ]


async def _wait_a_moment() -> None:
    """Let other tasks run for about a millisecond of real time, even under a mock clock."""
    clock = trio.lowlevel.current_clock()
    if not isinstance(clock, trio.testing.MockClock):
        await trio.sleep(0.001)
        return
    time.sleep(0.001)  # noqa: ASYNC251 - no other wait is sure to end, or leaves no thread.
    if clock.autojump_threshold == math.inf:
        # It may stand still, and nothing that sleeps would wake.
        await trio.lowlevel.checkpoint()
    else:
        # It jumps only while everyone sleeps: what ends in its time ends too.
        await trio.sleep(0.001)


def _registrations(bus: WatchBus) -> dict[str, int]:
    statistics = bus.statistics()
    return {
        "watches": statistics.watches,
        "watched keys": statistics.watched_keys,
        "watched prefixes": statistics.watched_prefixes,
        "trie nodes": statistics.trie_nodes,
    }


@asynccontextmanager
async def assert_nothing_left(*buses: WatchBus) -> AsyncIterator[None]:
    """Assert that the body of an ``async with`` leaves nothing behind.

    Of each of `buses`: as many watches, watched keys and prefixes, and trie nodes as before, at
    once. Of the Trio run and the process: no more tasks, threads, tokens of the default thread
    limiter, and file descriptors (and so no more sockets and connections of any kind) than before;
    for those it waits up to 5 seconds of real time, under any of Trio's clocks. A token of a bus's
    own limiter is held by a running thread, which is counted. Nothing else should start meanwhile.

    Only numbers are compared. A bus that was open before may make new connections; but a leak goes
    unnoticed if as much from before has ended. A thread named like Trio's idle ones, "Trio thread"
    and a number, is not counted.

    An error of the body is raised as it is, and nothing is asserted.

    Args:
        buses: buses that are open before and after the body; none if the body opens and closes its
            own.

    Raises:
        AssertionError: something is left; it says what.
    """
    held = _Held.now()
    registered = [_registrations(bus) for bus in buses]
    yield
    for bus, before in zip(buses, registered, strict=True):
        now = _registrations(bus)
        if now != before:
            raise AssertionError(f"{bus!r} is left with {now}, and had {before}")
    deadline = time.monotonic() + _PATIENCE
    while left := _Held.now().beyond(held):
        if time.monotonic() > deadline:
            raise AssertionError(f"something is left: {'; '.join(left)}")
        await _wait_a_moment()
    await trio.lowlevel.checkpoint()
