"""Whom a message reaches."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import chain
from typing import Generic, TypeVar

from sortedcontainers import SortedList

from .._message import Message
from .._request import WatchRequest
from ._selection import end_of
from ._trie import PrefixTrie

T = TypeVar("T", bound=Hashable)

STEP = 2048
"""Watches to find, or to hand a message to, before other tasks run: 1 ms at 0.5 µs each, and 6 ms
where each has to make room."""

_BOUND = 1_048_576
"""Places in all routes together, and 16 for each key beside them: 65,536 keys that nobody watches,
or a thousand watches of every key, in 10 to 20 MB."""

_PLACES_A_KEY = 16

_UNSORTED = 4096
"""Keys to sort at most where a prefix is opened or closed; with more, all routes are dropped."""


class Routes(Generic[T]):
    """Watches by what they cover, and the routes of messages.

    The routes of keys that were looked up lately are remembered, bounded by their sum. Those keys
    are only sorted where a prefix comes or goes, so that looking up a new key does not pay for it.

    Attributes:
        keys: watches by the keys that they name.
        prefixes: watches by the prefixes that they name.
        known: the routes of keys that no registration touched since; read only.
        met: how often the bound was met.
    """

    __slots__ = ("_places", "_sorted", "_unsorted", "keys", "known", "met", "prefixes")

    def __init__(self) -> None:
        self.keys: PrefixTrie[T] = PrefixTrie()
        self.prefixes: PrefixTrie[T] = PrefixTrie()
        self.known: dict[str, tuple[T, ...]] = {}
        self.met = 0
        self._places = 0
        self._sorted: SortedList[str] = SortedList()
        self._unsorted: list[str] = []

    def add(self, watch: T, request: WatchRequest) -> None:
        """Let what `request` covers reach `watch`."""
        for key in request.keys:
            self.keys.add(key, watch)
            self._forget(key)
        for prefix in request.prefixes:
            self.prefixes.add(prefix, watch)
            self._forget_under(prefix)

    def remove(self, watch: T, request: WatchRequest) -> None:
        """Let nothing reach `watch`, which was added with `request`."""
        for key in request.keys:
            self.keys.remove(key, watch)
            self._forget(key)
        for prefix in request.prefixes:
            self.prefixes.remove(prefix, watch)
            self._forget_under(prefix)

    def of_key(self, key: str) -> tuple[T, ...]:
        """Return the watches that a message to `key` reaches, and remember them."""
        route = self.known.get(key)
        if route is None:
            route = tuple(dict.fromkeys(chain(self.keys.at(key), self.prefixes.covering(key))))
            self._remember(key, route)
        return route

    def of_prefix(self, prefix: str) -> dict[T, None]:
        """Return the watches that a message to `prefix` reaches."""
        # Whoever watches the prefix exactly is among both the covered and the covering ones.
        return dict.fromkeys(
            chain(
                self.keys.under(prefix), self.prefixes.under(prefix), self.prefixes.covering(prefix)
            )
        )

    def short_of(self, message: Message) -> Sequence[T] | None:
        """Return the watches that `message` reaches; None where finding them may take long."""
        key = message.key
        if message.is_prefix:
            few = self.keys.nodes + self.prefixes.nodes <= STEP
            route = list(self.of_prefix(key)) if few else None
            return route if route is None or len(route) <= STEP else None
        if key in self.known or self.keys.filed(key) + self.prefixes.filed(key) <= STEP:
            return self.of_key(key)
        return None

    def in_parts(self, message: Message) -> Iterator[Sequence[T]]:
        """Yield the watches that `message` reaches, some more than once, in bounded parts.

        Watches may come and go between two parts: what is there all the time is in one of them.
        """
        key = message.key
        if message.is_prefix:
            found: Iterator[list[T]] = chain(
                self.keys.under_in_parts(key, STEP),
                self.prefixes.under_in_parts(key, STEP),
                [list(self.prefixes.covering(key))],
            )
        else:
            found = iter([[*self.keys.at(key), *self.prefixes.covering(key)]])
        for part in found:
            for start in range(0, len(part), STEP):
                yield part[start : start + STEP]

    def _remember(self, key: str, route: tuple[T, ...]) -> None:
        """Remember the route of `key`, of which none is known."""
        self._places += _PLACES_A_KEY + len(route)
        if self._places > _BOUND:
            self.met += 1
            self._forget_all()
            self._places = _PLACES_A_KEY + len(route)
        self.known[key] = route
        self._unsorted.append(key)

    def _forget(self, key: str) -> None:
        """Drop the route of `key`."""
        route = self.known.pop(key, None)
        if route is not None:
            self._places -= _PLACES_A_KEY + len(route)

    def _forget_under(self, prefix: str) -> None:
        """Drop the routes of the keys that start with `prefix`."""
        if len(self._unsorted) > _UNSORTED:
            self._forget_all()
            return
        self._sorted.update(self._unsorted)
        self._unsorted.clear()
        under = list(self._sorted.irange(prefix, end_of(prefix), (True, False)))
        for key in under:
            self._sorted.remove(key)
            self._forget(key)

    def _forget_all(self) -> None:
        self.known.clear()
        self._places = 0
        self._sorted.clear()
        self._unsorted.clear()
