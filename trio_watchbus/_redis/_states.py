"""The states of a bus over Redis and of its batches, as tables: state, event, next state."""

from __future__ import annotations

from enum import Enum, auto


class BatchState(Enum):
    """What is known about the batch that a pipeline carries."""

    IDLE = auto()
    """There is no batch."""
    UNSENT = auto()
    """Redis has done nothing of it: a caller who leaves now takes its request back."""
    SENT = auto()
    """It was handed to the thread, so Redis may do it."""
    UNKNOWN = auto()
    """Its answer was lost: Redis may have done it. It is sent again unchanged."""
    RESENT = auto()
    """It was handed to the thread again."""


class BatchEvent(Enum):
    """What happens to a batch."""

    TAKE = auto()
    """It was taken from the queue."""
    SEND = auto()
    """It was handed to the thread."""
    ANSWER = auto()
    """Redis answered it."""
    REFUSE = auto()
    """This attempt surely did nothing: Redis refused it, or it was not sent."""
    LOSE = auto()
    """The connection failed before the answer came."""
    DROP = auto()
    """Nobody waits for it any more."""


BATCH = {
    BatchState.IDLE: {BatchEvent.TAKE: BatchState.UNSENT},
    BatchState.UNSENT: {BatchEvent.SEND: BatchState.SENT, BatchEvent.DROP: BatchState.IDLE},
    BatchState.SENT: {
        BatchEvent.ANSWER: BatchState.IDLE,
        BatchEvent.REFUSE: BatchState.UNSENT,
        BatchEvent.LOSE: BatchState.UNKNOWN,
    },
    BatchState.UNKNOWN: {BatchEvent.SEND: BatchState.RESENT, BatchEvent.DROP: BatchState.IDLE},
    BatchState.RESENT: {
        BatchEvent.ANSWER: BatchState.IDLE,
        # The attempts before it may have done something.
        BatchEvent.REFUSE: BatchState.UNKNOWN,
        BatchEvent.LOSE: BatchState.UNKNOWN,
    },
}

MAY_BE_DONE = {BatchState.SENT, BatchState.UNKNOWN, BatchState.RESENT}
"""States in which Redis may have done the batch, or may still."""


class BusState(Enum):
    """Where a bus is in its life; the values are what its ``repr`` shows."""

    OPENING = "opening"
    OPEN = "open"
    CLOSED = "closed"
    FAILED = "failed"


class BusEvent(Enum):
    """What happens to a bus."""

    OPENED = auto()
    CLOSE = auto()
    FAIL = auto()


BUS = {
    BusState.OPENING: {
        BusEvent.OPENED: BusState.OPEN,
        BusEvent.CLOSE: BusState.CLOSED,
        BusEvent.FAIL: BusState.FAILED,
    },
    BusState.OPEN: {BusEvent.CLOSE: BusState.CLOSED, BusEvent.FAIL: BusState.FAILED},
    # The first end counts.
    BusState.CLOSED: {BusEvent.CLOSE: BusState.CLOSED, BusEvent.FAIL: BusState.CLOSED},
    BusState.FAILED: {BusEvent.CLOSE: BusState.FAILED, BusEvent.FAIL: BusState.FAILED},
}
