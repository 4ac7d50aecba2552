"""What is there now, and that no more of it is there later."""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trio
import trio.testing

from ..abc import WatchBus

_PATIENCE = 5.0
"""Seconds of real time until what ends in its own time has ended: a server's side of a closed
connection, a thread that was told to stop."""

_DESCRIPTORS = Path("/dev/fd")
_IDLE_THREAD = re.compile(r"Trio thread \d+")
"""How Trio names a thread that waits for work; it keeps such threads for some seconds."""

_Descriptor = tuple[int, int, int]
"""A file descriptor, and the device and inode of what it is of: its number is used again."""


@dataclass(frozen=True, slots=True)
class _Held:
    """What a Trio run and its process hold."""

    tasks: int
    threads: frozenset[threading.Thread]
    limiter_tokens: int
    descriptors: frozenset[_Descriptor]

    @classmethod
    def now(cls) -> _Held:
        return cls(
            tasks=trio.lowlevel.current_statistics().tasks_living,
            threads=frozenset(
                t for t in threading.enumerate() if not _IDLE_THREAD.fullmatch(t.name)
            ),
            limiter_tokens=int(trio.to_thread.current_default_thread_limiter().borrowed_tokens),
            descriptors=frozenset(_descriptors()),
        )

    def beyond(self, before: _Held) -> list[str]:
        """Name what is there and was not before."""
        beyond = []
        if self.tasks > before.tasks:
            beyond.append(f"tasks: {self.tasks}, before {before.tasks}")
        if threads := self.threads - before.threads:
            beyond.append(f"threads: {', '.join(sorted(thread.name for thread in threads))}")
        if self.limiter_tokens > before.limiter_tokens:
            beyond.append(f"limiter_tokens: {self.limiter_tokens}, before {before.limiter_tokens}")
        if descriptors := self.descriptors - before.descriptors:
            beyond.append(f"descriptors: {', '.join(str(d[0]) for d in sorted(descriptors))}")
        return beyond


def _descriptors() -> list[_Descriptor]:
    """List the open file descriptors, where the system tells them."""
    found = []
    if _DESCRIPTORS.is_dir():
        for number in [int(path.name) for path in _DESCRIPTORS.iterdir()]:
            # One of them was open to list the others.
            with suppress(OSError):
                status = os.fstat(number)
                found.append((number, status.st_dev, status.st_ino))
    return found


async def _wait_a_moment() -> None:
    """Let others run for about a millisecond of real time, whatever the clock of the test does."""
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
    once. Of the Trio run and the process: no more tasks and tokens of the default thread limiter
    than before, and no threads and file descriptors (and so no sockets and connections of any
    kind) that were not there before; for those it waits up to 5 seconds of real time, whichever of
    Trio's clocks the test has. A token of a limiter that is a bus's own is held by a thread that
    works, and found as that. Nothing else should start meanwhile.

    What is counted is counted only: a watch or task that is left is not seen where another, from
    before, has ended meanwhile. Nor is a thread that has the name of Trio's idle ones, "Trio
    thread" and a number.

    An error of the body is raised as it is, and nothing is asserted.

    Args:
        buses: those that are open before and after the body; none where the body opens and closes
            its own.

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
