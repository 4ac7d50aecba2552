"""What can go wrong, by whose fault it is.

::

    Exception
    └── WatchBusError
        ├── InvalidKeyError         (also a ValueError)
        ├── InvalidPositionError    (also a ValueError)
        ├── MessageTooLargeError    (also a ValueError)
        ├── HistoryLostError
        ├── WatchLaggedError
        └── BusUnavailableError
            └── PublishUnknownError

For everything that is not a matter of watch buses alone, Trio's own errors are used:
`trio.ClosedResourceError` (you closed it), `trio.EndOfChannel` (the bus closed),
`trio.BrokenResourceError` (the bus failed for good; its ``__cause__`` says why) and
`trio.BusyResourceError` (two tasks receive from one watch).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import trio

LossReason = Literal["trimmed", "epoch", "future"]


class WatchBusError(Exception):
    """The base of every error of this package's own."""


class InvalidKeyError(WatchBusError, ValueError):
    """A key, prefix or idempotency key that no bus accepts; nothing was done with it.

    Attributes:
        too_long: whether its length alone is what is wrong with it.
    """

    def __init__(self, message: str, *, too_long: bool = False) -> None:
        super().__init__(message)
        self.too_long = too_long


class InvalidPositionError(WatchBusError, ValueError):
    """What was given as a position is neither a message's ``id`` nor a ``position``."""


class MessageTooLargeError(WatchBusError, ValueError):
    """The data is longer than the bus's ``max_message_size``; nothing was published."""


class HistoryLostError(WatchBusError):
    """A watch cannot be resumed exactly, and so was not opened.

    Attributes:
        reason: ``"trimmed"``, the messages after that position are no longer held;
            ``"epoch"``, the position is of another numbering (another bus, or one whose history
            was rewritten); ``"future"``, the bus has not got that far.
        position: where this bus can be resumed from now: the oldest position that it holds.
    """

    _EXPLANATIONS: ClassVar[dict[LossReason, str]] = {
        "trimmed": "the messages after that position are no longer held",
        "epoch": "that position belongs to another epoch: the numbering has started again since",
        "future": "this bus has not reached that position",
    }

    def __init__(self, reason: LossReason, position: str) -> None:
        super().__init__(reason, position)
        self.reason = reason
        self.position = position

    def __str__(self) -> str:
        return (
            f"cannot resume: {self._EXPLANATIONS[self.reason]}"
            f" (the oldest position held is {self.position!r})"
        )


class WatchLaggedError(WatchBusError):
    """Messages that this watch should have received are gone; it goes on after them.

    Raised once for a loss, in its place in the order: what came before has been received, and the
    next receive gives the oldest matching message still held.

    Attributes:
        missed: how many messages are lost. Exact where the watch was overtaken by the journal;
            where the bus's log itself lost messages, at most so many, as what they were is
            unknown; None where history was rewritten and nobody can tell.
        position: where the watch goes on from.
        reason: ``"trimmed"`` or, where history was rewritten, ``"epoch"``.
    """

    def __init__(self, missed: int | None, position: str, reason: LossReason = "trimmed") -> None:
        super().__init__(missed, position, reason)
        self.missed = missed
        self.position = position
        self.reason = reason

    def __str__(self) -> str:
        count = "an unknown number of" if self.missed is None else f"{self.missed}"
        return f"this watch lost {count} messages; it goes on after {self.position!r}"


class BusUnavailableError(WatchBusError):
    """The bus's backend cannot be reached or refuses; for a publish: nothing was stored."""


class PublishUnknownError(BusUnavailableError):
    """A publish whose answer never came: it may or may not have been stored.

    Attributes:
        idempotency_key: publishing the same again with this key is safe: it is stored once.
    """

    def __init__(self, message: str, *, idempotency_key: str) -> None:
        super().__init__(message)
        self.idempotency_key = idempotency_key


def check_trio_runs() -> None:
    """Say it in plain words where nothing can be awaited, as under asyncio.

    Raises:
        RuntimeError: Trio does not run here.
    """
    if not trio.lowlevel.in_trio_run():
        raise RuntimeError("a watch bus is used under Trio: start the program with trio.run(main)")


def broken_by(failure: BaseException) -> trio.BrokenResourceError:
    """Return a new error that says that the bus failed for good, caused by `failure`."""
    broken = trio.BrokenResourceError("the bus failed for good; see the cause")
    broken.__cause__ = failure
    return broken


def raise_what_ended(error: BaseException | None, failure: BaseException | None) -> None:
    """Raise what the body of a bus ended with, or else what the bus failed with for good.

    Args:
        error: what the body raised, or None.
        failure: what the bus failed with, or None. It comes before the body's error where that
            only says so, as `broken_by` does.
    """
    if failure is not None and (
        error is None
        or (isinstance(error, trio.BrokenResourceError) and error.__cause__ is failure)
    ):
        raise failure
    if error is not None:
        raise error
