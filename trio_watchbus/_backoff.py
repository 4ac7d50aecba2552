"""Pauses between attempts to reach a server."""

from __future__ import annotations

from random import uniform
from typing import final

import trio


@final
class Backoff:
    """Pauses between attempts: each twice the one before, up to a bound, and jittered by half.

    So that many clients that lost one server do not all come back at once.

    Args:
        first: seconds of the first pause at most, more than 0.
        longest: seconds of any pause at most.
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    async def pause(self) -> None:
        """Sleep for the next pause."""
        pause, self._next = self._next, min(2 * self._next, self._longest)
        await trio.sleep(uniform(pause / 2, pause))  # noqa: S311, nobody gains by foreseeing it

    def reset(self) -> None:
        """Begin again with the first pause."""
        self._next = self._first
