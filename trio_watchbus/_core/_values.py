"""The newest messages of each key, in key order."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice

from sortedcontainers import SortedSet

from .._message import Message, Position
from .._request import WatchRequest
from .._retention import Retention
from ._selection import Selection


class Values:
    """The newest messages of each of the most recently published keys.

    Bounded in keys, in messages a key, and in bytes. Messages that were sent to a prefix belong to
    no key and are not kept here. Keys are sorted when somebody asks for a prefix, each once, so
    that publishing pays nothing for it.

    Attributes:
        bytes: bytes of data and characters of keys kept.
        evicted: how many keys were given up for others.
    """

    __slots__ = (
        "_bytes_bound",
        "_keys_bound",
        "_kept",
        "_per_key",
        "_sorted",
        "_unsorted",
        "bytes",
        "evicted",
    )

    def __init__(self, retention: Retention) -> None:
        bounds = retention.filled()
        self._per_key = bounds.per_key
        self._keys_bound = bounds.keys if bounds.per_key else 0
        self._bytes_bound = bounds.kept_bytes
        self._kept: OrderedDict[str, list[Message]] = OrderedDict()
        # Some that are not kept any more may be among them.
        self._sorted: SortedSet[str] = SortedSet()
        self._unsorted: list[str] = []
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
        grown = len(message.data)
        if self._per_key == 1:
            replaced = kept[0]
            kept[0] = message
            if len(replaced.data) == grown:
                return
            grown -= len(replaced.data)
        elif len(kept) < self._per_key:
            kept.append(message)
            grown += len(key)
        else:
            grown -= len(kept.pop(0).data)
            kept.append(message)
        self.bytes += grown
        if self.bytes > self._bytes_bound:
            self._evict()

    def latest(self, key: str) -> Message | None:
        """Return the newest message kept of `key`, if any."""
        kept = self._kept.get(key)
        return kept[-1] if kept else None

    def pages(self, request: WatchRequest, messages_a_page: int) -> Iterator[list[Message]]:
        """Yield the newest `request.history` of each key that `request` covers.

        Some messages at a time, or of one key all. Each page is in order. What is published
        between two pages may be in the later one. A page may be empty, where keys were sorted.
        """
        selection = Selection(request)
        keys_a_page = max(1, messages_a_page // max(1, min(request.history, self._per_key)))
        at = iter(selection.keys)
        while page := list(islice(at, keys_a_page)):
            yield self._newest(page, request.history)
        if selection.ranges:
            yield from self._sort(keys_a_page)
        for start, end in selection.ranges:
            inclusive = True
            while page := list(
                islice(self._sorted.irange(start, end, (inclusive, False)), keys_a_page)
            ):
                yield self._newest(page, request.history)
                start, inclusive = page[-1], False  # noqa: PLW2901

    def _sort(self, keys_a_page: int) -> Iterator[list[Message]]:
        """Sort what came since the last time, and yield an empty page after some keys each."""
        if len(self._sorted) > 2 * len(self._kept):
            self._start_sorting()
        while self._unsorted:
            for _ in range(min(keys_a_page, len(self._unsorted))):
                self._sorted.add(self._unsorted.pop())
            if self._unsorted:
                yield []

    def _start_sorting(self) -> None:
        self._sorted = SortedSet()
        self._unsorted = list(self._kept)

    def _newest(self, keys: Iterable[str], count: int) -> list[Message]:
        found = [message for key in keys for message in self._kept.get(key, ())[-count:]]
        return sorted(found, key=number_of)

    def _add(self, message: Message) -> None:
        if self._keys_bound:
            self._kept[message.key] = [message]
            self._unsorted.append(message.key)
            if len(self._unsorted) > 2 * self._keys_bound:
                # Most of them are not kept any more.
                self._start_sorting()
            self.bytes += len(message.key) + len(message.data)
            if len(self._kept) > self._keys_bound or self.bytes > self._bytes_bound:
                self._evict()

    def _evict(self) -> None:
        """Give up the keys that were not published to for longest, until the bounds are kept."""
        while len(self._kept) > self._keys_bound or self.bytes > self._bytes_bound:
            key, messages = self._kept.popitem(last=False)
            self.bytes -= sum(len(key) + len(message.data) for message in messages)
            self.evicted += 1


def number_of(message: Message) -> int:
    """Return the sequence number of `message`."""
    return Position.parse(message.id).sequence
