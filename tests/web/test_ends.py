"""The task that notices when clients end their side."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import trio
from served import SECONDS

from trio_watchbus.web._ends import _AT_ONCE, Ends


class EndsOfEachStep(trio.abc.Instrument):
    """Counts how many ends are told in each step of a task."""

    def __init__(self) -> None:
        self.counts = [0]

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.counts[-1]:
            self.counts.append(0)

    def note(self) -> None:
        self.counts[-1] += 1


async def test_many_ends_at_once_are_told_in_steps() -> None:
    """As when a proxy restarts: between any two steps other tasks run."""
    count = 3 * _AT_ONCE + 1
    ends, steps = Ends(), EndsOfEachStep()
    with ExitStack() as stack:
        stack.callback(ends.close)
        peers = []
        for _ in range(count):
            ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            peers.append(stack.enter_context(theirs))
            client: Any = SimpleNamespace(fileno=ours.fileno)
            stack.enter_context(ends.watching(client, steps.note))
        for peer in peers:
            peer.shutdown(socket.SHUT_WR)
        trio.lowlevel.add_instrument(steps)
        stack.callback(trio.lowlevel.remove_instrument, steps)
        with trio.fail_after(SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ends.run)
                while sum(steps.counts) < count:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
    assert [each for each in steps.counts if each] == [_AT_ONCE] * 3 + [1]
