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

    Args:
        position: where the numbering begins: the next message is the one after it.
        retention: how much of the past the journal keeps.

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

    def __init__(self, position: Position, retention: Retention) -> None:
        self.epoch = position.epoch
        self.journal = Journal(retention, position)
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
        return Position.parse(self.journal.newest)

    @property
    def oldest(self) -> Position:
        """The oldest position from which a watch can be resumed."""
        return Position.parse(self.journal.base)

    def before(self, message: Message) -> str:
        """Return a position from which `message` and all that followed it is received or refused.

        Args:
            message: accepted, some time ago maybe, and in another epoch maybe.
        """
        number = self._held(message)
        if number is not None:
            return self.journal.position_at(number - 1)
        # Before all of its epoch: refused, unless everything since is held.
        return str(Position(Position.parse(message.id).epoch, 0))

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

    def lose(self, position: Position, missed: int | None, *, rewritten: bool = False) -> None:
        """Take note that no message up to `position` will come any more.

        Every watch is told in its place in the order.

        Args:
            position: where the order goes on: the next message is the one after it.
            missed: how many messages were lost, over all keys; None where nobody knows.
            rewritten: whether history was rewritten, so that what was received may be no part of
                it: another epoch, or another branch of this one.
        """
        before, newest = self.journal.last, self.journal.newest
        self.epoch = position.epoch
        self.journal.restart(position)
        for watch in self.watches:
            if watch.synced:
                watch.advance(newest)
                watch.fall_behind(before)
            watch.unread += missed or 0
            watch.gap = True
            watch.rewritten |= rewritten
            watch.wake()

    def register(self, request: WatchRequest, after: Position | None = None) -> BufferedWatch:
        """Add a watch that gets what is accepted from now on, or first what came after `after`.

        Raises:
            HistoryLostError: not everything after `after` is held; nothing was added.
        """
        if after is not None:
            self.check(after)
        watch = BufferedWatch(self, request, self.journal.newest)
        for key in request.keys:
            self.keys.add(key, watch)
            self.routes.pop(key, None)
        for prefix in request.prefixes:
            self.prefixes.add(prefix, watch)
            self.routes.clear()
        self.watches.add(watch)
        if after is not None:
            watch.place = str(after)
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
        journal = self.journal
        if after.epoch != self.epoch:
            raise HistoryLostError("epoch", journal.base)
        if after.sequence > journal.last:
            raise HistoryLostError("future", journal.base)
        if after.sequence < journal.first - 1:
            raise HistoryLostError("trimmed", journal.base)
        if str(after) != journal.position_at(after.sequence):
            # Another message had this number, in a branch of history that was replaced.
            raise HistoryLostError("epoch", journal.base)

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
        if watch.rewritten or watch.cursor < self.journal.first - 1:
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

    def position_of(self, watch: BufferedWatch, waiting: Message | None) -> str:
        """Return where `watch` is to be resumed.

        Args:
            watch: an open watch.
            waiting: the oldest message in its buffer, or None where that is empty.
        """
        journal = self.journal
        if waiting is not None:
            # Nearer than what it received last: there may be much between that is not for it.
            number = self._held(waiting)
            return watch.place if number is None else journal.position_at(number - 1)
        if not watch.behind:
            return journal.newest
        if watch.rewritten or watch.cursor < journal.first - 1:
            return watch.place
        return journal.position_at(watch.cursor)

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

    def _held(self, message: Message) -> int | None:
        """Return the number of `message` in the journal, or None where that does not hold it."""
        number = Position.parse(message.id).sequence
        journal = self.journal
        held = journal.first <= number <= journal.last
        return number if held and journal.position_at(number) == message.id else None

    def _pass_loss(self, watch: BufferedWatch) -> WatchLaggedError | None:
        """Move `watch` past what is no longer held; count that, or return the error to raise."""
        journal = self.journal
        cursor = journal.first - 1
        held = len(watch.request.select(journal.since(cursor)))
        missed = watch.unread - held
        rewritten = watch.rewritten
        told = watch.gap or watch.request.overflow == "replay"
        watch.cursor = cursor
        watch.unread = held
        watch.gap = watch.rewritten = False
        if rewritten or (missed and told):
            watch.place = journal.base
        if rewritten:
            return WatchLaggedError(None, journal.base, "epoch")
        if missed and told:
            return WatchLaggedError(missed, journal.base)
        watch.dropped += missed
        return None
