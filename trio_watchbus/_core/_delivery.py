"""Accepted messages that some watches are yet to be handed, a step at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, final

from .._message import Message, Position
from ._buffers import LARGE
from ._routes import Routes

if TYPE_CHECKING:
    from ._watch import BufferedWatch

_LARGE_PUTS = 16
"""What handing on a large message counts: it may have to count all that waits in the buffer."""


@final
class Delivery:
    """Hands messages to watches in order: each to all that it reaches, before the next.

    Args:
        messages: what was accepted in one run, and is in the journal; at least one.
        routes: whom a message reaches.
        before: the position before the first of them.

    Attributes:
        newcomers: watches that were registered since: none of these is for them.
    """

    __slots__ = (
        "_at",
        "_before",
        "_found",
        "_known",
        "_messages",
        "_parts",
        "_rest",
        "_routes",
        "newcomers",
    )

    def __init__(
        self, messages: Sequence[Message], routes: Routes[BufferedWatch], before: str
    ) -> None:
        self._messages = messages
        self._routes = routes
        # The position of the message before the one that is handed on.
        self._before = before
        self._at = 0
        # Who is yet to be handed that one, once its route is found.
        self._rest: Iterator[BufferedWatch] | None = None
        # A route that is found in parts, and what of it was found.
        self._parts: Iterator[Iterable[BufferedWatch]] | None = None
        self._found: dict[BufferedWatch, None] = {}
        # What the last such route is of: a batch often goes to one prefix.
        self._known: tuple[str, bool] | None = None
        self.newcomers: set[BufferedWatch] = set()

    def step(self, puts: int) -> bool:
        """Hand on some more; return whether anything is left.

        Args:
            puts: how often a message is handed to a watch, at most, or as much other work.
        """
        while self._at < len(self._messages):
            message = self._messages[self._at]
            if self._rest is None:
                if puts <= 0:
                    return True
                puts = self._find(message, puts)
            if self._rest is None:
                return True
            puts = self._hand_on(message, self._rest, puts)
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

    def _find(self, message: Message, puts: int) -> int:
        """Find the route of `message`, or a part of it; return what is left of `puts`."""
        if self._parts is None:
            if self._known == (message.key, message.is_prefix):
                self._rest = iter(self._found)
                return puts
            route = self._routes.short_of(message)
            if route is not None:
                self._rest = iter(route)
                # As long as handing it to a watch or two.
                return puts - 2
            self._parts = self._routes.in_parts(message)
            self._found = {}
            self._known = None
        for part in self._parts:
            before = len(self._found)
            self._found.update(dict.fromkeys(part))
            puts -= 1 + (len(self._found) - before) // 2
            if puts <= 0:
                return puts
        self._parts = None
        self._known = (message.key, message.is_prefix)
        self._rest = iter(self._found)
        return puts

    def _hand_on(self, message: Message, rest: Iterator[BufferedWatch], puts: int) -> int:
        """Hand `message` to some of `rest`; return what is left of `puts`, 0 if not to all."""
        large = len(message.data) > LARGE
        most = max(1, puts // _LARGE_PUTS if large else puts)
        part = list(islice(rest, most))
        all_of_it = len(part) < most
        if self.newcomers:
            part = [watch for watch in part if watch not in self.newcomers]
        if large:
            for watch in part:
                watch.put_counted(message)
            return puts - _LARGE_PUTS * len(part) if all_of_it else 0
        for watch in part:
            watch.put(message)
        return puts - len(part) if all_of_it else 0
