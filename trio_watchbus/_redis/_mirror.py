"""The core of a bus over Redis: what each process has of the log."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from time import monotonic
from typing import final

from .._core._dispatcher import Dispatcher
from .._core._watch import BufferedWatch
from .._message import Message, Position
from .._request import WatchRequest
from .._retention import Retention


@final
class Mirror(Dispatcher):
    """A dispatcher that tells which keys are no longer watched by one that closed.

    Args:
        left: called with the keys of each watch that is closed.
        buffers_bytes: bytes that the buffers of all watches may hold.
    """

    def __init__(
        self,
        position: Position,
        retention: Retention,
        left: Callable[[Collection[str]], None],
        buffers_bytes: int,
    ) -> None:
        super().__init__(position, retention, buffers_bytes=buffers_bytes, clock=monotonic)
        self._left = left

    def unregister(self, watch: BufferedWatch) -> None:
        super().unregister(watch)
        self._left(watch.request.keys)

    def withdraw(self, watch: BufferedWatch) -> None:
        """Forget a watch that nobody was given."""
        super().unregister(watch)

    def register_after(
        self, request: WatchRequest, earlier: Sequence[Message], after: Position
    ) -> BufferedWatch:
        """Add a watch that gets `earlier` first, and then what came after `after`.

        Raises:
            HistoryLostError: not everything after `after` is held; nothing was added.
        """
        self.check(after)
        watch = self.register(request)
        watch.place = str(request.after)
        watch.load(earlier)
        self.replay(watch, after.sequence)
        return watch
