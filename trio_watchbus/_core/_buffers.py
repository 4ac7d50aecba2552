"""What waits for a watch's consumer, counted in bytes where it may be much."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Iterable
from typing import Literal, Protocol

from .._message import Message

LARGE = 1024
"""Bytes of data above which a message is counted as it comes and goes. Up to that, counting would
take as long as delivering: room is set aside for some messages at a time."""

SMALL = LARGE + 512
"""Bytes to set aside for a message that is not large: of its data, and characters of its key."""

BUFFERS_BYTES = 256 * 1024 * 1024
"""Bytes that the buffers of all watches of a bus may hold, unless it is told otherwise: room for
sixteen watches that hold as much as one may."""

_CALLS = 2
"""Holders that are asked to give back room when there is none, each in a microsecond or, where it
holds many messages, 50. One that gives back nothing is asked no more."""


class Holder(Protocol):
    """Has room set aside."""

    def give_back(self) -> None:
        """Have no room set aside any more: count what is held instead."""


class Budget:
    """Bytes that the buffers of a bus's watches may hold.

    A message that waits in several buffers counts for each, although it is in memory once. Room
    that is set aside counts as held; holders keep it for the next messages until there is none
    left for others.

    Args:
        limit: bytes for all together; a sixteenth of that for one. Exceeded by one message at most.

    Attributes:
        each: bytes for one.
        held: bytes counted now, and set aside.
        reserved: bytes set aside.
        met: how often a watch fell behind or dropped a message as there was no room.
    """

    __slots__ = ("_holders", "_limit", "each", "held", "met", "reserved")

    def __init__(self, limit: int = BUFFERS_BYTES) -> None:
        self._limit = limit
        self.each = max(1, limit // 16)
        self.held = 0
        self.reserved = 0
        self.met = 0
        # In the order in which they first got room since they gave it back.
        self._holders: OrderedDict[Holder, None] = OrderedDict()

    def left(self) -> int:
        """Return how many bytes one empty buffer may take now."""
        self._make_room(self.each)
        return min(self.each, max(0, self._limit - self.held))

    def admits(self, size: int) -> bool:
        """Whether `size` bytes more may be held; that may be more than one may."""
        return self._make_room(size) or not self.held

    @property
    def exhausted(self) -> bool:
        """Whether all buffers together hold more than they may."""
        return self.held > self._limit

    def has_room(self, buffer: CountedBuffer | LatestBuffer, size: int) -> bool:
        """Whether `buffer` may take `size` more.

        An empty one takes one message of any size while all together hold less than they may.
        """
        if buffer:
            fits = buffer.bytes + size <= self.each and self._make_room(size)
        else:
            fits = self._make_room(1)
        self.met += not fits
        return fits

    def reserve(self, holder: Holder, size: int) -> bool:
        """Set `size` bytes aside for `holder`, if there is room for that."""
        if holder in self._holders:
            self._holders.move_to_end(holder)
        if not self._make_room(size, holder):
            return False
        self._holders[holder] = None
        self.held += size
        self.reserved += size
        return True

    def release(self, holder: Holder, size: int) -> None:
        """Take back all that was set aside for `holder`, `size` bytes."""
        self._holders.pop(holder, None)
        self.held -= size
        self.reserved -= size

    def _make_room(self, size: int, keeps: Holder | None = None) -> bool:
        """Return whether there is room for `size` bytes, after holders gave some back if need be.

        All but `keeps`, the last of them.
        """
        for _ in range(_CALLS):
            if self.held + size <= self._limit:
                return True
            first = next(iter(self._holders), keeps)
            if first is None or first is keeps:
                return False
            first.give_back()
        return self.held + size <= self._limit


class CountedBuffer(deque[Message]):
    """A deque of messages that counts their bytes; of its methods, those that are used."""

    __slots__ = ("_budget", "bytes")

    def __init__(self, budget: Budget, messages: Iterable[Message] = ()) -> None:
        super().__init__(messages)
        self._budget = budget
        self.bytes = 0
        self._count(sum(map(size_of, self)))

    def append(self, message: Message) -> None:
        super().append(message)
        self._count(size_of(message))

    def extend(self, messages: Collection[Message]) -> None:  # type: ignore[override]
        super().extend(messages)
        self._count(sum(map(size_of, messages)))

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
