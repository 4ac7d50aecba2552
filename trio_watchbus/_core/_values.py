"""The newest messages of each key, in key order."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice

from sortedcontainers import SortedList

from .._message import Message, Position
from .._request import WatchRequest
from .._retention import Retention
from ._selection import Selection


class Values:
    """The newest messages of each of the most recently published keys.

    Bounded in keys, in messages a key, and in bytes. Messages that were sent to a prefix belong to
    no key and are not kept here. Keys are sorted as they come and go, so that publishing to a key
    that is there pays nothing for it.

    Attributes:
        bytes: bytes of data and characters of keys kept.
        evicted: how many keys were given up for others.
    """

    __slots__ = ("_bytes_bound", "_keys_bound", "_kept", "_per_key", "_sorted", "bytes", "evicted")

    def __init__(self, retention: Retention) -> None:
        bounds = retention.filled()
        self._per_key = bounds.per_key
        self._keys_bound = bounds.keys if bounds.per_key else 0
        self._bytes_bound = bounds.kept_bytes
        self._kept: OrderedDict[str, list[Message]] = OrderedDict()
        self._sorted: SortedList[str] = SortedList()
        self.bytes = 0
        self.evicted = 0

    def __len__(self) -> int:
        """Return the number of keys of which messages are kept."""
        return len(self._kept)

    def append(self, message: Message) -> None:
        """Keep `message`, which was published to a key, as that key's newest."""
        key = message.key
        kept = self._kept.get(key)
        if kept is None:
            self._add(message)
            return
        self._kept.move_to_end(key)
        size = self.bytes + len(message.data)
        if len(kept) < self._per_key:
            kept.append(message)
            size += len(key)
        elif self._per_key == 1:
            size -= len(kept[0].data)
            kept[0] = message
        else:
            size -= len(kept.pop(0).data)
            kept.append(message)
        self.bytes = size
        if size > self._bytes_bound:
            self._evict()

    def latest(self, key: str) -> Message | None:
        """Return the newest message kept of `key`, if any."""
        kept = self._kept.get(key)
        return kept[-1] if kept else None

    def pages(self, request: WatchRequest, keys_a_page: int) -> Iterator[list[Message]]:
        """Yield the newest `request.history` of each key that `request` covers.

        Some keys at a time. Each page is in order. What is published between two pages may be in the later one.
        """
        selection = Selection(request)
        at = iter(selection.keys)
        while page := list(islice(at, keys_a_page)):
            yield self._newest(page, request.history)
        for start, end in selection.ranges:
            inclusive = True
            while page := list(
                islice(self._sorted.irange(start, end, (inclusive, False)), keys_a_page)
            ):
                yield self._newest(page, request.history)
                start, inclusive = page[-1], False  # noqa: PLW2901

    def _newest(self, keys: Iterable[str], count: int) -> list[Message]:
        found = [message for key in keys for message in self._kept.get(key, ())[-count:]]
        return sorted(found, key=number_of)

    def _add(self, message: Message) -> None:
        if self._keys_bound:
            self._kept[message.key] = [message]
            self._sorted.add(message.key)
            self.bytes += len(message.key) + len(message.data)
            if len(self._kept) > self._keys_bound or self.bytes > self._bytes_bound:
                self._evict()

    def _evict(self) -> None:
        """Give up the keys that were not published to for longest, until the bounds are kept."""
        while len(self._kept) > self._keys_bound or self.bytes > self._bytes_bound:
            key, messages = self._kept.popitem(last=False)
            self._sorted.remove(key)
            self.bytes -= sum(len(key) + len(message.data) for message in messages)
            self.evicted += 1


def number_of(message: Message) -> int:
    """Return the sequence number of `message`."""
    return Position.parse(message.id).sequence
