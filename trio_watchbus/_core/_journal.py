"""The recent past: a bounded tail of all messages, and the newest of each key."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import cast

from .._message import Message, Position
from .._request import WatchRequest
from .._retention import Retention

_COMPACT = 1024
"""Dropped places that may stay at the list's front: few enough to cost 8 kB, many enough that
moving the rest down is rare."""


class Journal:
    """A bounded tail of all messages, without holes, by sequence number.

    A list with a moving start: unlike a deque, it can be read from the middle at no cost.

    Attributes:
        first: the sequence number of the oldest message held, or `last` + 1 when there is none.
        last: the sequence number of the newest message, held or not.
        bytes: bytes of keys and data held.
    """

    __slots__ = ("_bytes_bound", "_held", "_messages_bound", "_seconds", "bytes", "first", "last")

    def __init__(self, retention: Retention, last: int = 0) -> None:
        self._messages_bound = retention.messages
        self._bytes_bound = retention.bytes
        self._seconds = retention.seconds
        self.restart(last)

    def __len__(self) -> int:
        return self.last - self.first + 1

    def restart(self, last: int) -> None:
        """Hold nothing; the next message is number `last` + 1."""
        # Messages from first - _start on; the places before _start are empty.
        self._held: list[Message | None] = []
        self.first = last + 1
        self.last = last
        self.bytes = 0

    def append(self, message: Message) -> None:
        """Add the next message, and drop from the other end what exceeds the bounds."""
        self._held.append(message)
        self.last = last = self.last + 1
        self.bytes += len(message.key) + len(message.data)
        if last - self.first >= self._messages_bound or self.bytes > self._bytes_bound:
            self._drop_first()
            while self.bytes > self._bytes_bound:
                self._drop_first()
        if self._seconds is not None:
            self._drop_older(message.time - self._seconds)

    def since(self, sequence: int, limit: int | None = None) -> list[Message]:
        """Return the messages after number `sequence`, at most `limit` of them.

        `sequence` is from `first` - 1 to `last`.
        """
        start = len(self._held) - (self.last - sequence)
        stop = None if limit is None else start + limit
        return cast("list[Message]", self._held[start:stop])

    def _drop_first(self) -> None:
        start = len(self._held) - len(self)
        dropped = cast(Message, self._held[start])
        self._held[start] = None
        self.first += 1
        self.bytes -= len(dropped.key) + len(dropped.data)
        if start >= _COMPACT and start * 2 > len(self._held):
            del self._held[: start + 1]

    def _drop_older(self, time: float) -> None:
        while len(self) and self.since(self.first - 1, 1)[0].time < time:
            self._drop_first()


class KeyHistory:
    """The newest messages of each of the most recently published keys.

    Messages that were sent to a prefix belong to no key and are not kept here.
    """

    __slots__ = ("_keys", "_kept", "_per_key")

    def __init__(self, retention: Retention) -> None:
        self._per_key = retention.per_key
        self._keys = retention.keys if retention.per_key else 0
        self._kept: OrderedDict[str, list[Message]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of keys of which messages are kept."""
        return len(self._kept)

    def append(self, message: Message) -> None:
        """Keep `message`, which was published to a key, as that key's newest."""
        kept = self._kept.get(message.key)
        if kept is None:
            if self._keys:
                self._kept[message.key] = [message]
                if len(self._kept) > self._keys:
                    self._kept.popitem(last=False)
            return
        self._kept.move_to_end(message.key)
        kept.append(message)
        if len(kept) > self._per_key:
            del kept[0]

    def latest(self, key: str) -> Message | None:
        """Return the newest message kept of `key`, if any."""
        kept = self._kept.get(key)
        return kept[-1] if kept else None

    def select(self, request: WatchRequest) -> list[Message]:
        """Return of each key that `request` covers its newest `request.history`, in order."""
        keys: Iterable[str] = request.keys
        if request.prefixes:
            keys = [key for key in self._kept if request.covers(key)]
        found = [m for key in keys for m in self._kept.get(key, ())[-request.history :]]
        return sorted(found, key=lambda message: Position.parse(message.id).sequence)
