"""Whom a message to a key reaches, remembered for keys that were looked up lately."""

from __future__ import annotations

from typing import Generic, TypeVar

from sortedcontainers import SortedList

from ._selection import end_of

T = TypeVar("T")

_BOUND = 1_048_576
"""Places in all routes together, and 16 for each key beside them: 65,536 keys that nobody watches,
or a thousand watches of every key, in 10 to 20 MB."""

_PLACES_A_KEY = 16

_UNSORTED = 4096
"""Keys to sort at most where a prefix is opened or closed; with more, all routes are dropped."""


class Routes(Generic[T]):
    """Routes by key, bounded by their sum.

    The keys are only sorted where a prefix comes or goes, so that
    looking up a new key does not pay for it.

    Attributes:
        known: the routes; read only.
        met: how often the bound was met.
    """

    __slots__ = ("_places", "_sorted", "_unsorted", "known", "met")

    def __init__(self) -> None:
        self.known: dict[str, tuple[T, ...]] = {}
        self.met = 0
        self._places = 0
        self._sorted: SortedList[str] = SortedList()
        self._unsorted: list[str] = []

    def remember(self, key: str, route: tuple[T, ...]) -> None:
        """Remember the route of `key`, of which none is known."""
        self._places += _PLACES_A_KEY + len(route)
        if self._places > _BOUND:
            self.met += 1
            self._forget_all()
            self._places = _PLACES_A_KEY + len(route)
        self.known[key] = route
        self._unsorted.append(key)

    def forget(self, key: str) -> None:
        """Drop the route of `key`."""
        route = self.known.pop(key, None)
        if route is not None:
            self._places -= _PLACES_A_KEY + len(route)

    def forget_under(self, prefix: str) -> None:
        """Drop the routes of the keys that start with `prefix`."""
        if len(self._unsorted) > _UNSORTED:
            self._forget_all()
            return
        self._sorted.update(self._unsorted)
        self._unsorted.clear()
        under = list(self._sorted.irange(prefix, end_of(prefix), (True, False)))
        for key in under:
            self._sorted.remove(key)
            self.forget(key)

    def _forget_all(self) -> None:
        self.known.clear()
        self._places = 0
        self._sorted.clear()
        self._unsorted.clear()
