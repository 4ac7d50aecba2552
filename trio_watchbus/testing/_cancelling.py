"""Cancelling an operation at every step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

_STEPS = 10_000
"""Steps after which an operation is taken to never complete."""

_LATE_STEPS = 5
"""Steps in a row that no cancel reached, after which none is left: with threads or sockets, one
attempt may take fewer steps than the next."""


class _CancelAtStep(trio.abc.Instrument):
    """Cancels a scope at one step of the scheduler: just before it, or just after.

    Step 0 is the one in which the instrument is made.
    """

    def __init__(self, scope: trio.CancelScope, step: int, *, before: bool) -> None:
        self._scope = scope
        self._step = step
        self._before = before
        self._count = 0
        if before and step == 0:
            scope.cancel()

    def before_task_step(self, _task: trio.lowlevel.Task) -> None:
        self._count += 1
        if self._before and self._count == self._step:
            self._scope.cancel()

    def after_task_step(self, _task: trio.lowlevel.Task) -> None:
        if not self._before and self._count == self._step:
            self._scope.cancel()


async def cancel_everywhere(
    attempt: Callable[[], Awaitable[object]], then: Callable[[], Awaitable[object]]
) -> int:
    """Run an operation again and again, each time cancelled a step later, until it completes.

    A step is what a task does between two trips through the scheduler. Steps of all tasks count, so
    a cancel also comes while other tasks are in the middle of something. Each step is tried twice:
    with the cancel just before it, when what the task waited for has already happened, and just
    after it, when the task has begun to wait. The sweep ends when several steps in a row come too
    late, because one attempt may happen to be quick.

    Args:
        attempt: starts the operation anew and waits for it.
        then: runs after each time, not cancelled: asserts that nothing is half done.

    Returns:
        how many times `attempt` was cancelled.

    Raises:
        AssertionError: it does not complete within 10,000 steps.
    """
    cancelled = late = 0
    for step in range(_STEPS):
        late += 1
        for before in (True, False):
            with trio.CancelScope() as scope:
                instrument = _CancelAtStep(scope, step, before=before)
                trio.lowlevel.add_instrument(instrument)
                try:
                    await attempt()
                finally:
                    trio.lowlevel.remove_instrument(instrument)
            await then()
            cancelled += scope.cancelled_caught
            if scope.cancel_called:
                late = 0
        if late == _LATE_STEPS:
            return cancelled
    raise AssertionError(f"{attempt!r} has not completed within {_STEPS} steps")
