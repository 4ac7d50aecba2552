"""How much to read from Redis at once."""

from __future__ import annotations

PAGE_BYTES = 1024 * 1024
"""Bytes of data in one page: much for one trip, little to hold beside the journal."""


class PageSize:
    """The number of entries to request, adapted to the sizes of those that came.

    It starts small, as nothing is known of the sizes, and doubles while pages stay small. After a
    failure it is halved, as Redis cuts a connection whose answer is larger than it may buffer; from
    there on it grows by one every 16 pages, as each attempt at more may cost a connection.

    Args:
        most: entries at most.

    Attributes:
        entries: how many to request next.
    """

    _FIRST = 16
    _PAGES_TO_GROW = 16

    def __init__(self, most: int) -> None:
        self._most = most
        self._threshold = most
        # Pages since it grew or shrank.
        self._pages = 0
        self.entries = min(self._FIRST, most)

    def came(self, count: int, size: int) -> None:
        """Adapt to a page of `count` entries with `size` bytes of data."""
        self._pages += 1
        grown = self.entries
        if grown < self._threshold:
            grown *= 2
        elif self._pages >= self._PAGES_TO_GROW:
            grown += 1
        fitting = PAGE_BYTES * count // size if size else grown
        self._resize(max(1, min(grown, fitting, self._most)))

    def failed(self) -> None:
        """Adapt to a page that did not come."""
        self._threshold = max(1, self.entries // 2)
        self._resize(self._threshold)

    def _resize(self, entries: int) -> None:
        if entries != self.entries:
            self.entries = entries
            self._pages = 0
