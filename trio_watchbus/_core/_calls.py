"""Idempotency keys, and what their calls got."""

from __future__ import annotations

from collections import OrderedDict

_KEYS = 100_000
"""Idempotency keys remembered: minutes of retries at a high rate, in about 20 MB."""

_BYTES = 8 * 1024 * 1024
"""Characters of those keys: 80 for each, where one may have 512."""


class Calls:
    """The first and last sequence number that each of the newest idempotency keys got."""

    __slots__ = ("_bytes", "_numbers")

    def __init__(self) -> None:
        self._numbers: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: str) -> tuple[int, int] | None:
        """Return the numbers that the call of this key got, or None where there was none."""
        return self._numbers.get(key)

    def remember(self, key: str, first: int, last: int) -> None:
        """Remember what numbers a new call got, and forget the oldest beyond the bounds."""
        self._numbers[key] = (first, last)
        self._bytes += len(key)
        while len(self._numbers) > _KEYS or self._bytes > _BYTES:
            forgotten, _ = self._numbers.popitem(last=False)
            self._bytes -= len(forgotten)
