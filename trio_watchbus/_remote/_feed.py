"""What feeds one watch from a served bus, over as many connections as it takes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import final

import trio

from .. import _protocol as protocol
from .._core._buffers import LARGE, Budget
from .._core._watch import BufferedWatch
from .._errors import InvalidPositionError, WatchLaggedError, broken_by
from .._message import Message, Position
from .._request import WatchRequest

_KEYS_BOUND = 100_000
"""Keys that a watch of overflow kind ``"latest"`` keeps messages of: as many as a bus does."""

_DIGITS = 18
"""As many as a position's number has at most."""


@final
class Feed:
    """The source of one watch: what its server's watch sends.

    A replaying watch never overflows, as it tells the server how many messages it has room for.
    When all those have come, it is behind, and asks for more once its consumer has emptied the
    buffer; asked by a watch that keeps up, long before. The other kinds let everything come, and
    drop by themselves.

    The history comes before the server opens the watch. If the connection breaks amid it, it is
    asked for anew: nobody has seen a part, and no position stands for the rest of it.

    Args:
        identifier: what the watch is called on the connection.
        request: what it covers, and how.
        send: sends a request, if there is a connection.
        forget: called when the watch is closed.

    Attributes:
        watch: the watch.
        resume: up to where the server has sent; None until the watch is open.
        heard: how many frames of history have come.
        decided: set when it is open, or known why not.
        ended: whether nothing more comes.
        failure: why nothing more comes, if that is not that the bus was closed.
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
        # What comes first, once all of it is there.
        self._history: list[Message] = []
        # What came after a loss that the consumer is yet to be told, that loss included.
        self._waiting: deque[Message | WatchLaggedError] = deque()
        # Where the watch is when its consumer has received all that is in the buffer.
        self._head = ""
        self._replays = request.overflow == "replay"
        self._size = request.buffer_size
        # How many messages the server may send yet.
        self._window = 0
        # How many the server dropped, as it said last.
        self._dropped = 0

    def opening(self) -> protocol.Watch:
        """Return the request that opens the watch on a new connection, where it stands."""
        request = self.watch.request
        self._dropped = 0
        self._history.clear()
        history = request.history if self.resume is None else 0
        # What room the history leaves is known once it is there.
        self._window = 0 if history else max(0, self._room())
        after = request.after if self.resume is None else self.resume
        return protocol.Watch(
            self.identifier,
            keys=tuple(request.keys),
            prefixes=request.prefixes,
            after=None if after is None else str(after),
            # Who was promised to be resumed exactly is refused otherwise; who watched already is
            # told of the loss, in one step: what is the oldest now is gone after the next.
            lossy=self.resume is not None,
            history=history,
            overflow=request.overflow,
            buffer_size=self._size,
            window=self._window if self._replays else None,
        )

    def end(self, failure: BaseException | None = None) -> None:
        """Let nothing more come, because of `failure`, or because the bus was closed."""
        if not self.ended:
            self.ended = True
            self.failure = failure
            self.decided.set()
            self.watch.end()

    # What the server says

    def take_opening(self, position: str) -> None:
        """Take note that the server has opened the watch, and sent everything up to `position`."""
        told = parse_position(position)
        if self.resume is None:
            self.watch.place = position
        if self._history:
            # No position stands for a part of the history: from this one, all that there is of the
            # epoch is received, or refused.
            self.watch.load_history(self._history, str(Position(told.epoch, 0)))
            self._history.clear()
        self.take_position(position)
        self.decided.set()
        self._settle()

    def take_position(self, position: str) -> None:
        """Take note that the server has sent everything up to `position`.

        Raises:
            MalformedFrameError: it had sent more before, or that is of another epoch.
        """
        if self.resume is not None:
            _check_order(self.resume, [], position)
        self._advance(position)

    def take_messages(self, answer: protocol.Messages) -> None:
        """Take messages.

        Raises:
            MalformedFrameError: nobody asked for them, there are more than there is room for, or
                they are not in order after what came before.
        """
        messages = [message.message() for message in answer.messages]
        watch = self.watch
        if self.resume is None:
            if not watch.request.history:
                raise protocol.MalformedFrameError("messages of a watch that is not open")
            for message in messages:
                parse_position(message.id)
            self._history += messages
            self.heard += 1
            return
        if self._replays:
            self._window -= len(messages)
            if self._window < 0:
                raise protocol.MalformedFrameError("more messages than were asked for")
        _check_order(self.resume, messages, answer.position)
        watch.advance(self._head)
        watch.dropped += answer.dropped - self._dropped
        self._dropped = answer.dropped
        for message in messages:
            if self._waiting:
                self._keep(message)
            else:
                (watch.put if len(message.data) <= LARGE else watch.put_counted)(message)
        self._advance(answer.position)
        self._settle()

    def lose(self, loss: WatchLaggedError) -> None:
        """Take note of a loss, of which the consumer is told in its place."""
        if not self._waiting:
            self.watch.fall_behind(0)
        elif isinstance(before := self._waiting[-1], WatchLaggedError):
            self._waiting.pop()
            loss = _joined(before, loss)
        self._waiting.append(loss)
        self._advance(loss.position)
        self.watch.wake()

    # What the watch asks for; see `Source`

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
        """Be behind or not, and ask for more or not, as things are now."""
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
    """Return the position that a server wrote.

    Raises:
        MalformedFrameError: it is not a position.
    """
    try:
        return Position.parse(text)
    except InvalidPositionError as error:
        raise protocol.MalformedFrameError(str(error)) from None


def _check_order(after: str, messages: list[Message], position: str) -> None:
    """Check that `messages` follow `after` and each other, and that `position` is not before them.

    Raises:
        MalformedFrameError: they do not, or it is.
    """
    epoch, last, _ = parse_position(after)
    start = f"{epoch}-"
    for message in messages:
        # At half the cost of parsing it.
        number = message.id.removeprefix(start)[:_DIGITS]
        before, last = last, int(number) if number.isdecimal() else -1
        if last <= before or message.id != f"{start}{last}":
            raise protocol.MalformedFrameError(
                f"a message at {message.id[:80]!r} after {start}{before}"
            )
    told = parse_position(position)
    if told.epoch != epoch or told.sequence < last:
        raise protocol.MalformedFrameError(f"the position {told} after {start}{last}")


def _joined(first: WatchLaggedError, second: WatchLaggedError) -> WatchLaggedError:
    """Return one loss for two with nothing between them."""
    missed = None
    if first.missed is not None and second.missed is not None:
        missed = first.missed + second.missed
    return WatchLaggedError(missed, second.position, second.reason)
