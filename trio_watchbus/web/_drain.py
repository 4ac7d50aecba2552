"""Ending every stream before the server stops."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import trio


@final
class Drain:
    """Tells everything that is served for long that the server is about to stop.

    Attributes:
        begun: set once that is so.
    """

    def __init__(self) -> None:
        self.begun = trio.Event()
        self._scopes: set[trio.CancelScope] = set()

    def begin(self) -> None:
        """Tell them; again does nothing."""
        self.begun.set()
        for scope in self._scopes:
            scope.cancel()

    @contextmanager
    def interrupting(self, seconds: float) -> Iterator[trio.CancelScope]:
        """Cancel what is waited for inside when the drain begins, or after so many seconds.

        Yields the scope, to be cancelled for other reasons too.
        """
        with trio.move_on_after(seconds) as scope:
            if self.begun.is_set():
                scope.cancel()
            self._scopes.add(scope)
            try:
                yield scope
            finally:
                self._scopes.discard(scope)
