"""Bytes in flight: what clients sent and is not done with, and what waits for clients."""

from __future__ import annotations

from types import TracebackType
from typing import Self, final

from ._answer import Refusal


@final
class Budget:
    """Counts the bytes in flight of one server.

    Args:
        limit: how many there may be.

    Attributes:
        held: how many there are.
        refused: how often there were too many.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self.refused = 0

    def hold(self) -> Hold:
        """Return a hold of no bytes yet."""
        return Hold(self)


@final
class Hold:
    """Some bytes of a budget; a context manager that gives them back."""

    __slots__ = ("_budget", "_size")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._size = 0

    def add(self, size: int) -> None:
        """Hold `size` more bytes.

        Raises:
            Refusal: the budget does not have them; nothing has changed.
        """
        budget = self._budget
        if budget.held + size > budget.limit:
            budget.refused += 1
            raise Refusal(
                503,
                "server_busy",
                "this server has as many bytes in flight as it may (max_in_flight_size); try again"
                " later",
            )
        budget.held += size
        self._size += size

    def give_back(self, size: int) -> None:
        """Hold `size` bytes less."""
        self._budget.held -= size
        self._size -= size

    def release(self) -> None:
        """Hold none any more."""
        self.give_back(self._size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
