"""From the order of all messages to those who watch."""

from __future__ import annotations

from itertools import chain

import trio

from .._errors import HistoryLostError, WatchLaggedError, broken_by
from .._message import Message, Position
from .._request import WatchRequest
from .._retention import Retention
from ._journal import Journal
from ._trie import PrefixTrie
from ._watch import BufferedWatch

_ROUTES_BOUND = 65_536
"""Keys whose routes are remembered: more than most services publish to within minutes, in about
10 MB."""

_SCAN = 1024
"""Messages of the journal that are looked at before asking whether enough were found."""


class Dispatcher:
    """Numbers no message and does no input or output: hands each to the watches that it reaches.

    `accept` is the only way in. All of it is synchronous and runs in one thread, so that no lock
    is needed and nothing slips between a watch's registration and its replay.

    Attributes:
        epoch: the epoch of the numbering.
        journal: the recent messages; knows the newest one's number.
        keys: watches by the keys that they name.
        prefixes: watches by the prefixes that they name.
        watches: all watches.
        ended: whether the bus is closed or failed.
        routes: whom a message to a key reaches, for keys that were looked up lately and that no
            registration touched since.
    """

    def __init__(self, epoch: str, retention: Retention, last: int = 0) -> None:
        self.epoch = epoch
        self.journal = Journal(retention, last)
        self.keys: PrefixTrie[BufferedWatch] = PrefixTrie()
        self.prefixes: PrefixTrie[BufferedWatch] = PrefixTrie()
        self.watches: set[BufferedWatch] = set()
        self.keys_bound = max(1, retention.keys)
        self.routes: dict[str, tuple[BufferedWatch, ...]] = {}
        self.ended = False
        self._failure: BaseException | None = None

    @property
    def position(self) -> Position:
        """The position of the newest message."""
        return Position(self.epoch, self.journal.last)

    @property
    def oldest(self) -> Position:
        """The oldest position from which a watch can be resumed."""
        return Position(self.epoch, self.journal.first - 1)

    def accept(self, message: Message) -> None:
        """Take the next message of the order, and hand it to every watch that it reaches."""
        self.journal.append(message)
        if message.is_prefix:
            for watch in self._prefix_route(message.key):
                watch.put(message)
            return
        key = message.key
        for watch in self.routes[key] if key in self.routes else self._key_route(key):
            watch.put(message)

    def lose(self, epoch: str, last: int, missed: int | None) -> None:
        """Take note that no message up to number `last` of `epoch` will come any more.

        Every watch is told in its place in the order.

        Args:
            epoch: the epoch that the next message counts in; another one than before where
                history was rewritten.
            last: the number before the next message's.
            missed: how many messages were lost, over all keys; None where nobody knows.
        """
        before = self.journal.last
        self.epoch = epoch
        self.journal.restart(last)
        for watch in self.watches:
            if watch.synced:
                watch.fall_behind(before)
            watch.unread += missed or 0
            watch.gap = True
            watch.wake()

    def register(self, request: WatchRequest, after: Position | None = None) -> BufferedWatch:
        """Add a watch that gets what is accepted from now on, or first what came after `after`.

        Raises:
            HistoryLostError: not everything after `after` is held; nothing was added.
        """
        if after is not None:
            self.check(after)
        watch = BufferedWatch(self, request, self.epoch)
        for key in request.keys:
            self.keys.add(key, watch)
            self.routes.pop(key, None)
        for prefix in request.prefixes:
            self.prefixes.add(prefix, watch)
            self.routes.clear()
        self.watches.add(watch)
        if after is not None:
            watch.fall_behind(after.sequence)
            watch.unread = len(request.select(self.journal.since(after.sequence)))
            # At once as much as fits, so that a consumer that keeps up is not overtaken.
            self.refill(watch)
        return watch

    def check(self, after: Position) -> None:
        """Return if everything after `after` is held.

        Raises:
            HistoryLostError: it is not.
        """
        if after.epoch != self.epoch:
            raise HistoryLostError("epoch", str(self.oldest))
        if after.sequence > self.journal.last:
            raise HistoryLostError("future", str(self.oldest))
        if after.sequence < self.oldest.sequence:
            raise HistoryLostError("trimmed", str(self.oldest))

    def unregister(self, watch: BufferedWatch) -> None:
        """Forget `watch`."""
        self.watches.discard(watch)
        for key in watch.request.keys:
            self.keys.remove(key, watch)
            self.routes.pop(key, None)
        for prefix in watch.request.prefixes:
            self.prefixes.remove(prefix, watch)
            self.routes.clear()

    def refill(self, watch: BufferedWatch) -> None:
        """Put into `watch`, which is behind, what comes next in the journal.

        Raises:
            WatchLaggedError: the journal no longer holds it; what it does hold is in the buffer,
                so that after a loss at least so much is received before the next.
        """
        request = watch.request
        lagged = None
        if watch.epoch != self.epoch or watch.cursor < self.oldest.sequence:
            lagged = self._pass_loss(watch)
        wanted = watch.unread
        if request.overflow != "latest":
            wanted = min(wanted, request.buffer_size)
        taken: list[Message] = []
        cursor = watch.cursor
        while len(taken) < wanted and cursor < self.journal.last:
            page = self.journal.since(cursor, _SCAN)
            taken += request.select(page)
            cursor += len(page)
        if len(taken) > wanted:
            del taken[wanted:]
            cursor = Position.parse(taken[-1].id).sequence
        watch.cursor = cursor
        watch.unread -= len(taken)
        watch.load(taken)
        if not watch.unread:
            watch.catch_up()
        if lagged is not None:
            raise lagged

    def head(self, watch: BufferedWatch) -> str:
        """Return where `watch`, whose buffer is empty, is."""
        if not watch.behind:
            return str(self.position)
        return str(Position(watch.epoch, watch.cursor))

    def close(self, failure: BaseException | None = None) -> None:
        """End every watch once its consumer has received what was accepted.

        Args:
            failure: why the bus failed, or None where it was closed.
        """
        if not self.ended:
            self.ended = True
            self._failure = failure
            for watch in self.watches:
                watch.end()

    def ending(self) -> Exception:
        """Return a new error that says why no more messages come."""
        if self._failure is not None:
            return broken_by(self._failure)
        return trio.EndOfChannel("the bus was closed")

    def _key_route(self, key: str) -> tuple[BufferedWatch, ...]:
        if len(self.routes) >= _ROUTES_BOUND:
            self.routes.clear()
        route = tuple(dict.fromkeys(chain(self.keys.at(key), self.prefixes.covering(key))))
        self.routes[key] = route
        return route

    def _prefix_route(self, prefix: str) -> dict[BufferedWatch, None]:
        # Whoever watches a prefix exactly is among both the covering and the covered ones.
        return dict.fromkeys(
            chain(
                self.keys.under(prefix), self.prefixes.under(prefix), self.prefixes.covering(prefix)
            )
        )

    def _pass_loss(self, watch: BufferedWatch) -> WatchLaggedError | None:
        """Move `watch` past what is no longer held; count that, or return the error to raise."""
        held = len(watch.request.select(self.journal.since(self.oldest.sequence)))
        rewritten = watch.epoch != self.epoch
        missed = watch.unread - held
        told = watch.gap or watch.request.overflow == "replay"
        watch.epoch, watch.cursor = self.oldest.epoch, self.oldest.sequence
        watch.unread = held
        watch.gap = False
        if rewritten:
            return WatchLaggedError(None, str(self.oldest), "epoch")
        if missed and told:
            return WatchLaggedError(missed, str(self.oldest))
        watch.dropped += missed
        return None
