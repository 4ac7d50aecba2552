"""The conformance suite: the promises of a watch bus, tried on any bus."""

from __future__ import annotations

# For what they add to the checks, in this order.
from . import (
    _buffering,  # noqa: F401
    _closing,  # noqa: F401
    _delivering,  # noqa: F401
    _publishing,  # noqa: F401
    _resuming,  # noqa: F401
)
from ._checks import CHECKS, WatchBusFactory

WATCHBUS_CHECKS = tuple(CHECKS)
"""The checks that `check_watchbus` runs, to be run one by one: a test for each, say."""


async def check_watchbus(factory: WatchBusFactory) -> None:
    """Check that a bus keeps the promises of `trio_watchbus.abc`, but 7: it has no lost backend.

    Each check runs on a fresh bus, and afterwards nothing may be left of it. All together take
    some seconds on a bus in memory, and up to some minutes on one over a network. With a bus in
    memory they run under Trio's autojump clock too.

    A check has one log, and so cannot tell whether another one has another epoch; and as none
    measures time, a publish that a slow watcher delays passes as long as it returns.

    Args:
        factory: a function that takes `retention` (a `Retention`, of which the bus has to keep at
            least as much) and returns an async context manager, that gives an empty bus: a
            `WatchBus`, or several onto one log as in processes of their own.

    Raises:
        AssertionError: the bus breaks a promise, or hangs; it or a note of it names the promise.
        Exception: an error that the bus should not have raised, as it came, with such a note; a
            group of errors where it came from a task of a check or of `factory`.

    A cancel leaves the bus of the check that runs, as its context manager does.
    """
    for check in WATCHBUS_CHECKS:
        await check(factory)
