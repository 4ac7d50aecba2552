"""Accepted messages that some watches are yet to be handed, a step at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, final

from .._message import Message, Position
from ._buffers import LARGE

if TYPE_CHECKING:
    from ._watch import BufferedWatch


@final
class Delivery:
    """Hands messages to watches in order: each to all that it reaches, before the next.

    Args:
        messages: what was accepted in one run, and is in the journal; at least one.
        route_of: tells whom a message reaches.

    Attributes:
        newcomers: watches that were registered since: none of these is for them.
    """

    __slots__ = ("_at", "_before", "_messages", "_prefix_routes", "_rest", "_route_of", "newcomers")

    def __init__(
        self,
        messages: Sequence[Message],
        route_of: Callable[[Message], Iterable[BufferedWatch]],
        before: str,
    ) -> None:
        self._messages = messages
        self._route_of = route_of
        # The position of the message before the one that is handed on.
        self._before = before
        self._at = 0
        self._rest: Iterator[BufferedWatch] | None = None
        # The last prefix and its route: a batch often goes to one.
        self._prefix_routes: tuple[str, list[BufferedWatch]] | None = None
        self.newcomers: set[BufferedWatch] = set()

    def step(self, puts: int) -> bool:
        """Hand on some more; return whether anything is left.

        Args:
            puts: how often a message is handed to a watch, at most.
        """
        while self._at < len(self._messages):
            message = self._messages[self._at]
            if self._rest is None:
                if puts < 0:
                    return True
                looked_up, route = self._find(message)
                self._rest = iter(route)
                # As long as handing it to a watch or two, but for a prefix that reaches many.
                puts -= 2 + looked_up
            part = list(islice(self._rest, max(puts, 0)))
            if self.newcomers:
                part = [watch for watch in part if watch not in self.newcomers]
            if len(message.data) <= LARGE:
                for watch in part:
                    watch.put(message)
            else:
                for watch in part:
                    watch.put_counted(message)
            puts -= len(part)
            if puts <= 0:
                return True
            self._before = message.id
            self._at += 1
            self._rest = None
        return False

    def position_of(self, place: str) -> str:
        """Return where a watch is that has nothing waiting, and received up to `place`."""
        before, own = Position.parse(self._before), Position.parse(place)
        later = own.epoch == before.epoch and own.sequence > before.sequence
        return place if later else self._before

    def _find(self, message: Message) -> tuple[int, Iterable[BufferedWatch]]:
        """Return the route of `message`, and how much work that was, in puts."""
        if not message.is_prefix:
            return 0, self._route_of(message)
        known = self._prefix_routes
        if known is not None and known[0] == message.key:
            return 0, known[1]
        route = list(self._route_of(message))
        self._prefix_routes = (message.key, route)
        return len(route) // 2, route
