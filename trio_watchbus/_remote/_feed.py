"""The source of one watch of a remote bus, across reconnects."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import final

import trio
from trio.lowlevel import enable_ki_protection

from .. import _protocol as protocol
from .._core._buffers import LARGE, Budget
from .._core._watch import BufferedWatch
from .._errors import InvalidPositionError, WatchLaggedError, broken_by
from .._message import Message, Position
from .._request import WatchRequest

_KEYS_BOUND = 100_000
"""Keys that a watch of overflow kind ``"latest"`` keeps messages of: as many as a bus does."""

_DIGITS = 18
"""Digits of a position's number at most."""


@final
class Feed:
    """The source of one watch: what the server sends for it.

    A watch that replays never overflows: it tells the server how many messages it has room for.
    Once those have come, it is behind, and asks for more when its consumer has emptied the buffer.
    A watch that keeps up asks long before that. The other overflow kinds set no window, and drop
    messages here.

    The history comes before the server opens the watch. If the connection breaks in between, all of
    it is requested again: the consumer has seen none of it, and no position stands for the rest.

    Args:
        identifier: what the watch is called on the connection.
        request: what it covers, and how.
        send: sends a request, if there is a connection.
        forget: called when the watch is closed.

    Attributes:
        watch: the watch.
        resume: the position up to which the server has sent; None until the watch is open.
        heard: how many frames of history have come.
        decided: set once the watch is open, or refused.
        ended: whether nothing more comes.
        failure: why nothing more comes; None if the bus was closed.
    """

    keys_bound = _KEYS_BOUND

    def __init__(
        self,
        identifier: int,
        request: WatchRequest,
        send: Callable[[protocol.Request], None],
        forget: Callable[[Feed], None],
    ) -> None:
        self.identifier = identifier
        self.budget = Budget()
        self.watch = BufferedWatch(self, request, "")
        self.resume: str | None = None
        self.heard = 0
        self.decided = trio.Event()
        self.ended = False
        self.failure: BaseException | None = None
        self._send = send
        self._forget = forget
        # The history, until all of it has come.
        self._history: list[Message] = []
        # How many messages of the history are in an encoding that is unknown here.
        self._unreadable = 0
        # A loss that the consumer has not been told of yet, and what came after it.
        self._waiting: deque[Message | WatchLaggedError] = deque()
        # The watch's position once its consumer has received all that is in the buffer.
        self._head = ""
        self._replays = request.overflow == "replay"
        self._size = request.buffer_size
        # How many more messages the server may send.
        self._window = 0
        # The server's last count of dropped messages.
        self._dropped = 0

    def opening(self) -> protocol.Watch:
        """Return the request that opens the watch at its position, on a new connection."""
        request = self.watch.request
        self._dropped = 0
        self._history.clear()
        self._unreadable = 0
        history = request.history if self.resume is None else 0
        # How much room the history leaves is known once it has come.
        self._window = 0 if history else max(0, self._room())
        after = request.after if self.resume is None else self.resume
        return protocol.Watch(
            self.identifier,
            keys=tuple(request.keys),
            prefixes=request.prefixes,
            after=None if after is None else str(after),
            # The first request resumes exactly or is refused. Later ones accept a loss in one step:
            # the oldest message now may be gone by another request.
            lossy=self.resume is not None,
            history=history,
            overflow=request.overflow,
            buffer_size=self._size,
            window=self._window if self._replays else None,
        )

    def end(self, failure: BaseException | None = None) -> None:
        """End the watch, because of `failure` or because the bus was closed."""
        if not self.ended:
            self.ended = True
            self.failure = failure
            self.decided.set()
            self.watch.end()

    # What the server says

    def take_opening(self, position: str) -> None:
        """The server has opened the watch, and sent everything up to `position`."""
        told = parse_position(position)
        if self.resume is None:
            self.watch.place = position
        if self._history:
            # No position stands for a part of the history. Resuming from this one gives the whole
            # epoch, or is refused.
            self.watch.load_history(self._history, str(Position(told.epoch, 0)))
            self._history.clear()
        self.take_position(position)
        self.decided.set()
        if self._unreadable:
            self.lose(WatchLaggedError(self._unreadable, position))
            self._unreadable = 0
        self._settle()

    def take_position(self, position: str) -> None:
        """The server has sent everything up to `position`.

        Raises:
            MalformedFrameError: it had sent more before, or that is of another epoch.
        """
        if self.resume is not None:
            _check_order(self.resume, (), position)
        self._advance(position)

    def take_messages(self, answer: protocol.Messages) -> None:
        """Take messages. One in an encoding that is unknown here is a loss in its place.

        Raises:
            MalformedFrameError: the watch is not open, or there are more messages than it has room
                for, or they are out of order.
        """
        if self.resume is None:
            self._take_history(answer)
            return
        if self._replays:
            self._window -= len(answer.messages)
            if self._window < 0:
                raise protocol.MalformedFrameError("more messages than were asked for")
        _check_order(self.resume, answer.messages, answer.position)
        watch = self.watch
        watch.advance(self._head)
        watch.dropped += answer.dropped - self._dropped
        self._dropped = answer.dropped
        for each in answer.messages:
            message = each.message()
            if message is None:
                self.lose(WatchLaggedError(1, each.id))
            elif self._waiting:
                self._keep(message)
            else:
                (watch.put if len(message.data) <= LARGE else watch.put_counted)(message)
                if watch.behind:
                    # Its bytes do not fit. The server has no reason to send it again.
                    self._waiting.append(message)
                else:
                    self._head = message.id
        self._advance(answer.position)
        self._settle()

    def _take_history(self, answer: protocol.Messages) -> None:
        if not self.watch.request.history:
            raise protocol.MalformedFrameError("messages of a watch that is not open")
        for each in answer.messages:
            parse_position(each.id)
            message = each.message()
            if message is None:
                self._unreadable += 1
            else:
                self._history.append(message)
        self.heard += 1

    def lose(self, loss: WatchLaggedError) -> None:
        """Tell the consumer of a loss, in its place in the order."""
        if not self._waiting:
            self.watch.fall_behind(0)
        elif isinstance(before := self._waiting[-1], WatchLaggedError):
            self._waiting.pop()
            loss = _joined(before, loss)
        self._waiting.append(loss)
        self._advance(loss.position)
        self.watch.wake()

    def skip_to(self, position: str) -> None:
        """Tell the consumer that an unknown number of messages up to `position` are lost.

        Raises:
            MalformedFrameError: that is not after what came before.
        """
        assert self.resume is not None
        _check_order(self.resume, (), position)
        self.lose(WatchLaggedError(None, position))

    # What the watch asks for; see `Source`

    def prepare(self, watch: BufferedWatch) -> bool:  # noqa: ARG002
        return False

    @enable_ki_protection
    def refill(self, watch: BufferedWatch) -> None:
        if self._waiting and isinstance(loss := self._waiting[0], WatchLaggedError):
            self._waiting.popleft()
            self._head = watch.place = loss.position
            self._settle()
            raise loss
        messages: list[Message] = []
        while self._waiting and isinstance(message := self._waiting[0], Message):
            self._waiting.popleft()
            messages.append(message)
            self._head = message.id
        watch.unread -= len(messages)
        watch.load(messages)
        self._settle()

    def position_of(self, watch: BufferedWatch, waiting: Message | None) -> str:
        return self._head if waiting is None else watch.place

    def ending(self) -> Exception:
        if self.failure is None:
            return trio.EndOfChannel("the bus was closed")
        return broken_by(self.failure)

    def unregister(self, watch: BufferedWatch) -> None:  # noqa: ARG002
        self._waiting.clear()
        self._forget(self)

    def _advance(self, position: str) -> None:
        self.resume = position
        if not self._waiting:
            self._head = position

    def _keep(self, message: Message) -> None:
        """Keep a message behind a loss; of the kinds that drop, no more than their buffer holds."""
        watch = self.watch
        overflow = watch.request.overflow
        bound = self.keys_bound if overflow == "latest" else self._size
        if not self._replays and watch.unread >= bound:
            watch.dropped += 1
            if overflow == "drop_newest":
                return
            self._waiting.remove(next(kept for kept in self._waiting if isinstance(kept, Message)))
            watch.unread -= 1
        self._waiting.append(message)
        watch.unread += 1

    def _room(self) -> int:
        statistics = self.watch.statistics()
        return self._size - statistics.buffered - statistics.unread

    def _settle(self) -> None:
        """Catch up, fall behind or ask for more, as the buffer now requires."""
        watch = self.watch
        if not self._waiting and watch.behind:
            watch.catch_up()
            self._head = self.resume or ""
        if not self._replays:
            return
        more = self._room() - self._window
        if more > 0 and more * 2 >= self._size:
            self._window += more
            self._send(protocol.More(self.identifier, more))
        elif self._window == 0 and watch.synced:
            watch.fall_behind(0)


def parse_position(text: str) -> Position:
    """Return the position that a server sent.

    Raises:
        MalformedFrameError: it is not a position.
    """
    try:
        return Position.parse(text)
    except InvalidPositionError as error:
        raise protocol.MalformedFrameError(str(error)) from None


def _check_order(after: str, messages: Sequence[protocol.WireMessage], position: str) -> None:
    """Check that `messages` follow `after` and each other, and that `position` is not before them.

    Raises:
        MalformedFrameError: they do not, or it is.
    """
    epoch, last, _ = parse_position(after)
    known = None
    for message in messages:
        # At half the cost of parsing each: many have the same epoch and branch.
        start, _, digits = message.id.rpartition("-")
        if start != known:
            if parse_position(message.id).epoch != epoch:
                raise protocol.MalformedFrameError(f"a message at {message.id} after {after}")
            known = start
        digits = digits[: _DIGITS + 1]
        before, last = last, int(digits) if digits.isdecimal() else -1
        if last <= before or digits != str(last) or len(digits) > _DIGITS:
            raise protocol.MalformedFrameError(
                f"a message at {message.id[:80]!r} after number {before}"
            )
    told = parse_position(position)
    if told.epoch != epoch or told.sequence < last:
        raise protocol.MalformedFrameError(f"the position {told} after number {last} of {epoch}")


def _joined(first: WatchLaggedError, second: WatchLaggedError) -> WatchLaggedError:
    """Return one loss for two with nothing between them."""
    missed = None
    if first.missed is not None and second.missed is not None:
        missed = first.missed + second.missed
    return WatchLaggedError(missed, second.position, second.reason)
