"""From the order of all messages to those who watch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import trio

from .._errors import HistoryLostError, WatchLaggedError, broken_by
from .._message import Message, Position
from .._request import WatchRequest
from .._retention import Retention
from ._buffers import BUFFERS_BYTES, LARGE, Budget
from ._delivery import Delivery
from ._journal import Journal, Reading
from ._routes import STEP, Routes
from ._selection import Selection
from ._watch import BufferedWatch

_PAGE = 4096
"""Messages that are read from the journal at a time: in about a millisecond."""


class Dispatcher:
    """Numbers no message and does no input or output: hands each to the watches that it reaches.

    `accept` is the only way in. All of it is synchronous and runs in one thread, so that no lock
    is needed and nothing slips between a watch's registration and its replay.

    Args:
        position: where the numbering begins: the next message is the one after it.
        retention: how much of the past the journal keeps.
        buffers_bytes: bytes that the buffers of all watches may hold, and a sixteenth for one.
        clock: seconds by a clock that never goes back; only needed for a bound on age.

    Attributes:
        epoch: the epoch of the numbering.
        journal: the recent messages; knows the newest one's number.
        watches: all watches.
        ended: whether the bus is closed or failed.
        delivery: what was accepted and is yet to be handed on by `step`, or None.
        budget: what the watches' buffers hold, and may.
        routes: whom a message reaches.
        keys: watches by the keys that they name.
        prefixes: watches by the prefixes that they name.
    """

    def __init__(
        self,
        position: Position,
        retention: Retention,
        *,
        buffers_bytes: int = BUFFERS_BYTES,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.epoch = position.epoch
        self.journal = Journal(retention, position, clock)
        self._append = self.journal.append
        self.budget = Budget(buffers_bytes)
        self.watches: set[BufferedWatch] = set()
        self.keys_bound = max(1, retention.filled().keys)
        self.routes: Routes[BufferedWatch] = Routes()
        self.keys, self.prefixes = self.routes.keys, self.routes.prefixes
        self.ended = False
        self.delivery: Delivery | None = None
        # Watches that were overtaken while there was something to hand on: what they missed is
        # known after that.
        self._overtaken: set[BufferedWatch] = set()
        self._failure: BaseException | None = None
        # Watches that are to be told that the bus has ended.
        self._to_end: deque[BufferedWatch] = deque()

    def set_retention(self, retention: Retention) -> None:
        """Keep that much from now on."""
        self.journal.set_bounds(retention)
        self.keys_bound = max(1, retention.filled().keys)

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
        self._append(message)
        key = message.key
        routes = self.routes
        route = routes.of_prefix(key) if message.is_prefix else routes.of_key(key)
        if len(message.data) <= LARGE:
            for watch in route:
                watch.put(message)
        else:
            self.journal.last_large = self.journal.last
            for watch in route:
                watch.put_counted(message)

    def accept_in_steps(self, messages: Sequence[Message]) -> None:
        """Take the next messages of the order, to be handed on by `step`.

        Nothing may be left to hand on before.
        """
        before = self.journal.newest
        append = self._append
        for message in messages:
            append(message)
            if len(message.data) > LARGE:
                self.journal.last_large = self.journal.last
        self.delivery = Delivery(messages, self.routes, before)

    def step(self, puts: int = STEP) -> bool:
        """Hand on some of what was accepted, or of what is to be told.

        Args:
            puts: how often a message is handed to a watch, at most, or as much other work.

        Returns:
            whether there is more.
        """
        if self.delivery is not None:
            if self.delivery.step(puts):
                return True
            self.delivery = None
        for _ in range(min(puts, len(self._to_end))):
            self._to_end.popleft().end()
        for _ in range(min(puts, len(self._overtaken))):
            self._overtaken.pop().wake()
        return bool(self._to_end or self._overtaken)

    def finish(self) -> None:
        """Hand on all that was accepted, however long that takes."""
        while self.step():
            pass

    def lose(self, position: Position, missed: int | None, *, rewritten: bool = False) -> None:
        """Take note that no message up to `position` will come any more.

        Every watch is told in its place in the order.

        Args:
            position: where the order goes on: the next message is the one after it.
            missed: how many messages were lost, over all keys; None where nobody knows.
            rewritten: whether history was rewritten, so that what was received may be no part of
                it: another epoch, or another branch of this one.
        """
        self.finish()
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

    def register(
        self, request: WatchRequest, after: Position | None = None, *, in_steps: bool = False
    ) -> BufferedWatch:
        """Add a watch that gets what is accepted from now on, or first what came after `after`.

        Args:
            request: what it covers, and how.
            after: where it is resumed; its indexes are best made before, in steps.
            in_steps: whether `prepare` follows, for an overflow kind that may read much.

        Raises:
            HistoryLostError: not everything after `after` is held; nothing was added.
        """
        if after is not None:
            self.check(after)
        watch = BufferedWatch(self, request, self.journal.newest)
        self.routes.add(watch, request)
        self.watches.add(watch)
        if self.delivery is not None:
            self.delivery.newcomers.add(watch)
        if after is not None:
            watch.place = str(after)
            self.replay(watch, after.sequence)
            if watch.behind and self.budget.left():
                # At once as much as fits, so that a consumer that keeps up is not overtaken.
                more = self._read(watch)
                while more and not in_steps and request.overflow == "latest":
                    more = self._read(watch)
        return watch

    def replay(self, watch: BufferedWatch, after: int) -> None:
        """Let `watch` read on in the journal after number `after`, if that has anything for it."""
        selection = Selection(watch.request)
        unread = self.journal.count(selection, after)
        if unread:
            watch.fall_behind(after)
            watch.unread = unread
            watch.reading = Reading(selection, after)

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
        self.routes.remove(watch, watch.request)

    def prepare(self, watch: BufferedWatch) -> bool:
        """Do some of what `refill` would have to do; return whether there is more."""
        if self._is_overtaken(watch):
            return self.delivery is None and self.journal.make_indexes(self.journal.first - 1)
        if watch.request.overflow == "latest":
            return self._read(watch)
        return self._reading_of(watch).look(self.journal, self._wanted(watch))

    def refill(self, watch: BufferedWatch) -> None:
        """Put into `watch`, which is behind, what comes next in the journal.

        Raises:
            WatchLaggedError: the journal no longer holds it; what it does hold is in the buffer,
                so that after a loss at least so much is received before the next.
        """
        lagged = None
        if self._is_overtaken(watch):
            if self.delivery is not None:
                self._overtaken.add(watch)
                return
            lagged = self._pass_loss(watch)
        while self._read(watch) and watch.request.overflow == "latest":
            pass
        if lagged is not None:
            raise lagged

    def _is_overtaken(self, watch: BufferedWatch) -> bool:
        return watch.rewritten or watch.cursor < self.journal.first - 1

    def _reading_of(self, watch: BufferedWatch) -> Reading:
        if watch.reading is None:
            watch.reading = Reading(Selection(watch.request), watch.cursor)
        return watch.reading

    def _wanted(self, watch: BufferedWatch) -> int:
        """Return how many messages to read for `watch` at a time."""
        if watch.request.overflow == "latest":
            return _PAGE
        return min(watch.unread, watch.request.buffer_size, _PAGE)

    def _read(self, watch: BufferedWatch) -> bool:
        """Read some for `watch`; return whether there is more and room for it."""
        reading = self._reading_of(watch)
        taken = reading.read(self.journal, self._wanted(watch), watch.left())
        watch.cursor = reading.cursor
        watch.unread -= len(taken)
        watch.load(taken, reading.largest)
        if not watch.unread:
            watch.catch_up()
            return False
        return watch.left() > 0

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
            if number is None:
                epoch, number, _ = Position.parse(waiting.id)
                return _later(watch.place, epoch, number - 1)
            return journal.position_at(number - 1)
        if not watch.behind:
            if self.delivery is None:
                return journal.newest
            watch.place = self.delivery.position_of(watch.place)
            return watch.place
        if self._is_overtaken(watch):
            return watch.place if watch.rewritten else _later(watch.place, self.epoch, watch.cursor)
        return journal.position_at(watch.cursor)

    def close(self, failure: BaseException | None = None, *, in_steps: bool = False) -> None:
        """End every watch once its consumer has received what was accepted.

        Args:
            failure: why the bus failed, or None where it was closed.
            in_steps: whether the watches are told by `step`, as they are where something is to be
                handed on before.
        """
        if not self.ended:
            self.ended = True
            self._failure = failure
            self._to_end.extend(self.watches)
            if self.delivery is None and not in_steps:
                self.finish()

    def ending(self) -> Exception:
        """Return a new error that says why no more messages come."""
        if self._failure is not None:
            return broken_by(self._failure)
        return trio.EndOfChannel("the bus was closed")

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
        selection = Selection(watch.request) if watch.reading is None else watch.reading.selection
        held = journal.count(selection, cursor)
        missed = watch.unread - held
        rewritten = watch.rewritten
        told = watch.gap or watch.request.overflow == "replay"
        watch.cursor = cursor
        watch.reading = Reading(selection, cursor)
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


def _later(position: str, epoch: str, number: int) -> str:
    """Return the position at `number`, of which no message is held, if that is after `position`.

    It is refused, as all before it are. It tells how much is lost: before it there may be messages
    that were never for the watch.
    """
    place = Position.parse(position)
    later = place.epoch == epoch and number > place.sequence
    return str(place._replace(sequence=number)) if later else position
