"""What waits for a watch's consumer, counted in bytes where it may be much."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Literal

from .._message import Message

LARGE = 1024
"""Bytes of data above which a message is counted as it comes and goes. Up to that, a buffer of
1024 messages has a megabyte at most, and counting would take as long as delivering."""

UNCOUNTED = 1024
"""Messages, none of them large, up to which a buffer is not counted."""

BUFFERS_BYTES = 256 * 1024 * 1024
"""Bytes that the buffers of all watches of a bus may hold, unless it is told otherwise: room for
sixteen watches that hold as much as one may."""


class Budget:
    """Bytes that the buffers of a bus's watches may hold.

    A message that waits in several buffers counts for each, although it is in memory once.

    Args:
        limit: bytes for all together; a sixteenth of that for one.

    Attributes:
        each: bytes for one.
        held: bytes counted now.
        met: how often a watch fell behind or dropped a message as there was no room.
    """

    __slots__ = ("_limit", "each", "held", "met")

    def __init__(self, limit: int = BUFFERS_BYTES) -> None:
        self._limit = limit
        self.each = max(1, limit // 16)
        self.held = 0
        self.met = 0

    @property
    def left(self) -> int:
        """Bytes that one empty buffer may take now."""
        return min(self.each, max(0, self._limit - self.held))

    @property
    def exhausted(self) -> bool:
        """Whether all buffers together hold more than they may."""
        return self.held > self._limit

    def has_room(self, buffer: CountedBuffer | LatestBuffer, size: int) -> bool:
        """Whether `buffer` may take `size` more; an empty one takes one message of any size."""
        if not buffer or (buffer.bytes + size <= self.each and self.held + size <= self._limit):
            return True
        self.met += 1
        return False


class CountedBuffer(deque[Message]):
    """A deque of messages that counts their bytes; of its methods, those that are used."""

    __slots__ = ("_budget", "bytes")

    def __init__(self, budget: Budget, messages: Iterable[Message] = ()) -> None:
        super().__init__()
        self._budget = budget
        self.bytes = 0
        self.extend(messages)

    def append(self, message: Message) -> None:
        super().append(message)
        self._count(size_of(message))

    def extend(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self.append(message)

    def popleft(self) -> Message:
        message = super().popleft()
        self._count(-size_of(message))
        return message

    def clear(self) -> None:
        super().clear()
        self._count(-self.bytes)

    def _count(self, size: int) -> None:
        self.bytes += size
        self._budget.held += size


class LatestBuffer:
    """The newest message of each key, oldest first; of a deque's methods those that are used."""

    __slots__ = ("_budget", "_newest", "bytes")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._newest: OrderedDict[tuple[str, bool], Message] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._newest)

    def __getitem__(self, index: Literal[0]) -> Message:
        return next(iter(self._newest.values()))

    def append(self, message: Message) -> None:
        place = (message.key, message.is_prefix)
        before = self._newest.pop(place, None)
        self._newest[place] = message
        self._count(size_of(message) - (0 if before is None else size_of(before)))

    def extend(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self.append(message)

    def popleft(self) -> Message:
        message = self._newest.popitem(last=False)[1]
        self._count(-size_of(message))
        return message

    def clear(self) -> None:
        self._newest.clear()
        self._count(-self.bytes)

    def _count(self, size: int) -> None:
        self.bytes += size
        self._budget.held += size


def size_of(message: Message) -> int:
    """Return the bytes of data and characters of the key."""
    return len(message.key) + len(message.data)
