"""Messages that say when they were sent, and readers that find them in a stream of bytes.

A load client cannot afford to parse what thousands of connections read: it counts marks.
"""

from __future__ import annotations

import time
from typing import final

MARK = b"bm~"
"""Begins each message, and occurs nowhere in SSE, WebSocket frames or JSON around it."""

_DIGITS = 13
LEAST_SIZE = len(MARK) + _DIGITS
"""Bytes of the shortest message that holds a stamp."""


def stamped(size: int) -> bytes:
    """Return a message of `size` bytes that says when it was made.

    Args:
        size: at least `LEAST_SIZE`.
    """
    # The monotonic clock is one for all processes of a machine.
    return b"%b%013d" % (MARK, time.monotonic_ns() // 1000) + b"x" * (size - LEAST_SIZE)


def sent_at(message: bytes) -> float:
    """Return when a stamped message was made, in seconds of the monotonic clock."""
    return int(message[len(MARK) : LEAST_SIZE]) / 1e6


@final
class MarkReader:
    """Counts the messages of one connection, wherever its reads cut them.

    Attributes:
        count: messages seen.
    """

    __slots__ = ("_tail", "count")

    def __init__(self) -> None:
        self.count = 0
        self._tail = b""

    def feed(self, data: bytes) -> float | None:
        """Count what begins in `data`, and return when the first message in it was sent.

        None where no message begins in it, or its stamp is cut off.
        """
        data = self._tail + data
        # One byte less than a mark: none can be counted twice.
        self._tail = data[1 - len(MARK) :]
        found = data.count(MARK)
        if not found:
            return None
        self.count += found
        start = data.find(MARK)
        if start + LEAST_SIZE > len(data):
            return None
        return sent_at(data[start : start + LEAST_SIZE])
