"""The recent past: a bounded tail of all messages, and the newest of each key."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from itertools import islice
from math import inf

from .._message import Message, Position
from .._request import WatchRequest
from .._retention import Retention


class Journal:
    """A bounded tail of all messages, without holes, by sequence number.

    Positions are the texts of messages' ids: a number alone does not say which message it was,
    where a backend's data can be replaced by an older copy.

    Attributes:
        last: the sequence number of the newest message, held or not.
        base: the oldest position from which everything is held: the id of the newest message that
            was dropped, or where the journal began.
        bytes: bytes of data and characters of keys held.
    """

    __slots__ = ("_bytes_bound", "_held", "_messages_bound", "_seconds", "base", "bytes", "last")

    def __init__(self, retention: Retention, position: Position) -> None:
        self._messages_bound = retention.messages
        self._bytes_bound = retention.bytes
        self._seconds = retention.seconds
        self._held: deque[Message] = deque()
        self.restart(position)

    def __len__(self) -> int:
        return len(self._held)

    @property
    def first(self) -> int:
        """The sequence number of the oldest message held, or `last` + 1 when there is none."""
        return self.last - len(self._held) + 1

    @property
    def newest(self) -> str:
        """The position of the newest message, held or not."""
        return self._held[-1].id if self._held else self.base

    def position_at(self, number: int) -> str:
        """Return the position after message `number`, from `first` - 1 to `last`."""
        behind = number - self.first
        return self.base if behind < 0 else self._held[behind].id

    def restart(self, position: Position) -> None:
        """Hold nothing; the next message is the one after `position`."""
        self._held.clear()
        self.base = str(position)
        self.last = position.sequence
        self.bytes = 0

    def append(self, message: Message) -> None:
        """Add the next message, and drop from the other end what exceeds the bounds."""
        held = self._held
        held.append(message)
        self.last += 1
        size = self.bytes + len(message.key) + len(message.data)
        if len(held) > self._messages_bound:
            dropped = held.popleft()
            self.base = dropped.id
            size -= len(dropped.key) + len(dropped.data)
        self.bytes = size
        if size > self._bytes_bound or self._seconds is not None:
            self._drop(message.time)

    def since(self, sequence: int, limit: int | None = None) -> list[Message]:
        """Return the messages after number `sequence`, at most `limit` of them.

        `sequence` is from `first` - 1 to `last`. Near either end of a long journal this is quick;
        in its middle it takes some nanoseconds for each message up to the nearer end.
        """
        held = self._held
        count = self.last - sequence
        start = len(held) - count
        stop = len(held) if limit is None else min(len(held), start + limit)
        if start <= count:
            return list(islice(held, start, stop))
        newest_first = list(islice(reversed(held), len(held) - stop, count))
        newest_first.reverse()
        return newest_first

    def _drop(self, now: float) -> None:
        """Drop what exceeds the bounds on bytes and age."""
        held = self._held
        oldest = now - (self._seconds or inf)
        while held and (self.bytes > self._bytes_bound or held[0].time < oldest):
            dropped = held.popleft()
            self.base = dropped.id
            self.bytes -= len(dropped.key) + len(dropped.data)


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
        key = message.key
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            if len(kept) < self._per_key:
                kept.append(message)
            elif self._per_key == 1:
                kept[0] = message
            else:
                del kept[0]
                kept.append(message)
        elif self._keys:
            self._kept[key] = [message]
            if len(self._kept) > self._keys:
                self._kept.popitem(last=False)

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
