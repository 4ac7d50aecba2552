"""The end of a watch that belongs to its source: a buffer, and whether it keeps up."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from trio.lowlevel import Task, reschedule

from .._message import Message, Position
from .._request import WatchRequest
from ._buffers import LARGE, SMALL, Budget, CountedBuffer, LatestBuffer, size_of
from ._state import TRANSITIONS, Event, State

if TYPE_CHECKING:
    from ._journal import Reading
    from ._watch import BufferedWatch

_GROWTH = 8
"""How many times as long a buffer may get when it needs room: to a thousand messages in four
steps, and no more than 8 times as much is set aside as was needed."""

# Read on the hot path, where a global costs less than an attribute of an Enum.
_SYNCED, _BEHIND, _ENDING, _, _CLOSED = State


class Source(Protocol):
    """Where a watch's messages come from, as the watch sees it."""

    keys_bound: int
    """How many keys a watch of overflow kind ``"latest"`` keeps messages of."""

    budget: Budget
    """What its watches' buffers may hold together."""

    def prepare(self, watch: BufferedWatch) -> bool:
        """Do some of what `refill` would have to do; return whether there is more.

        For one that can let other tasks run between.
        """

    def refill(self, watch: BufferedWatch) -> None:
        """Put into `watch`, behind and with an empty buffer, what comes next.

        May leave it empty, where that takes time: `put` follows then.

        Raises:
            WatchLaggedError: what comes next is lost; the watch's place is after it now.
        """

    def position_of(self, watch: BufferedWatch, waiting: Message | None) -> str:
        """Return where `watch` is to be resumed.

        Args:
            watch: an open watch.
            waiting: the oldest message in its buffer, or None where that is empty.
        """

    def ending(self) -> Exception:
        """Return a new error that says why no more messages come."""

    def unregister(self, watch: BufferedWatch) -> None:
        """Forget `watch`."""


class FedWatch:
    """What a source does with a watch.

    A buffer of small messages is not counted in bytes: it has room set aside for some, and gives
    that back when others need it. Large messages, and what comes without such room, are counted
    one by one.

    Attributes:
        request: what it covers.
        state: what it does with the next message.
        place: the position of what its consumer received last, or where it began.
        cursor: while behind, the sequence number up to which its source was read.
        reading: while behind, what its source found from there on; its source's own.
        unread: while behind, the number of matching messages known after `cursor`.
        dropped: messages dropped by the overflow kind.
        gap: while behind, whether the bus itself lost messages after `cursor`; those are in
            `unread` at most.
        rewritten: while behind, whether history was rewritten after `cursor`.
    """

    __slots__ = (
        "_buffer",
        "_reserved",
        "_room",
        "_source",
        "_task",
        "cursor",
        "dropped",
        "gap",
        "place",
        "reading",
        "request",
        "rewritten",
        "state",
        "unread",
    )

    def __init__(self, source: Source, request: WatchRequest, position: str) -> None:
        self._source = source
        self.request = request
        self.place = position
        latest = request.overflow == "latest"
        self._buffer: deque[Message] | LatestBuffer
        self._buffer = LatestBuffer(source.budget) if latest else deque()
        self.state = _SYNCED
        # For how many messages room is set aside, and how long the buffer may get by `put`: that
        # or, where there is more to look at, 0. So one look there says all.
        self._reserved = 0
        self._room = 0
        self.cursor = 0
        self.reading: Reading | None = None
        self.unread = 0
        self.dropped = 0
        self.gap = False
        self.rewritten = False
        # The consumer's, where it waits.
        self._task: Task | None = None

    def put(self, message: Message) -> None:
        """Take the next matching message from the source; not for a large one."""
        if len(self._buffer) < self._room:
            self._buffer.append(message)
            if self._task is not None:
                self.wake()
        elif self.state is _BEHIND:
            self.unread += 1
        else:
            self.put_counted(message)

    def put_counted(self, message: Message) -> None:
        """Take the next matching message from the source, however large."""
        if self.state is _BEHIND:
            self.unread += 1
        elif self.state is _SYNCED:
            if len(self._buffer) < self._size() and self._has_room(message):
                self._buffer.append(message)
            else:
                self._overflow(message)
            if self._task is not None:
                self.wake()

    def load(self, messages: Sequence[Message], largest: int | None = None) -> None:
        """Put `messages` into the buffer, whatever room there is.

        Args:
            messages: in order.
            largest: bytes of data that each of them has at most, where that is known.
        """
        if type(self._buffer) is not LatestBuffer:
            if largest is None:
                largest = max([len(message.data) for message in messages], default=0)
            self._set_aside(len(self._buffer) + len(messages), large=largest > LARGE)
        self._buffer.extend(messages)
        if self._task is not None and self._buffer:
            self.wake()

    def load_history(self, history: Sequence[Message], before: str) -> None:
        """Put `history`, from before it began, into the buffer.

        Args:
            history: messages of this epoch or earlier ones, in order.
            before: a position that is before all of them.
        """
        self.place = before
        self.load(history)

    def advance(self, position: str) -> None:
        """Note that all that it matches up to `position` is received or in its buffer."""
        if not self._buffer:
            self.place = position

    def fall_behind(self, cursor: int) -> None:
        """Read on from the source after number `cursor`, once the buffer is empty."""
        self._move(Event.FALL_BEHIND)
        self.cursor = cursor
        self.reading = None
        self.unread = 0

    def catch_up(self) -> None:
        """Be synced again: the source has nothing more than what is in the buffer."""
        self._move(Event.CATCH_UP)
        self.unread = 0
        self.reading = None

    def end(self) -> None:
        """Take note that the source has ended: nothing follows what it has accepted."""
        self._move(Event.END)
        self.wake()

    @property
    def buffered(self) -> int:
        """How many messages are in the buffer."""
        return len(self._buffer)

    @property
    def synced(self) -> bool:
        """Whether it is fed as messages come in."""
        return self.state is _SYNCED

    @property
    def behind(self) -> bool:
        """Whether its source has more for it than is in the buffer."""
        return self.state is _BEHIND or self.state is _ENDING

    def wake(self) -> None:
        """Let the waiting consumer, if there is one, look again."""
        if self._task is not None:
            task, self._task = self._task, None
            reschedule(task)

    def left(self) -> int:
        """Return how many bytes may be put into the buffer."""
        buffer = self._buffer
        counted = buffer.bytes if isinstance(buffer, CountedBuffer | LatestBuffer) else 0
        return self._source.budget.left() - counted

    def give_back(self) -> None:
        """Have no room set aside any more: count what is in the buffer instead."""
        self._release()
        if type(self._buffer) is deque and self._buffer:
            self._buffer = CountedBuffer(self._source.budget, self._buffer)

    def _move(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state][event]
        self._set_room()
        if self.state is _CLOSED:
            self._buffer.clear()
            self._release()

    def _set_room(self) -> None:
        # A history may be longer than what comes after it may be.
        synced = self.state is _SYNCED
        self._room = min(self._reserved, self.request.buffer_size) if synced else 0

    def _has_room(self, message: Message) -> bool:
        """Whether `message` fits in, by its bytes."""
        if type(self._buffer) is not LatestBuffer:
            self._set_aside(len(self._buffer) + 1, large=len(message.data) > LARGE)
        buffer = self._buffer
        if isinstance(buffer, CountedBuffer | LatestBuffer):
            return self._source.budget.has_room(buffer, size_of(message))
        return True

    def _set_aside(self, length: int, *, large: bool) -> None:
        """Set room aside for a buffer of that length or, where that cannot be, count its bytes.

        Args:
            length: how many messages it will have.
            large: whether some of those to come are large.
        """
        budget = self._source.budget
        if isinstance(self._buffer, CountedBuffer) and not self._buffer and not large:
            self._buffer = deque()
        if type(self._buffer) is not deque or (length <= self._reserved and not large):
            return
        most = min(budget.each // SMALL, max(length, self.request.buffer_size))
        if not large and length <= most:
            more = min(most, max(length, _GROWTH * self._reserved)) - self._reserved
            if budget.reserve(self, more * SMALL):
                self._reserved += more
                self._set_room()
                return
        self._release()
        self._buffer = CountedBuffer(budget, self._buffer)

    def _release(self) -> None:
        if self._reserved:
            self._source.budget.release(self, self._reserved * SMALL)
            self._reserved = self._room = 0

    def _size(self) -> int:
        """Return how many messages the buffer may hold, or how many keys' newest."""
        request = self.request
        return self._source.keys_bound if request.overflow == "latest" else request.buffer_size

    def _overflow(self, message: Message) -> None:
        kind = self.request.overflow
        buffer = self._buffer
        if kind == "replay" or not buffer:
            self._leave_in_journal(message)
        elif kind == "drop_newest":
            self.dropped += 1
        else:
            # By number one for one: a history may be longer than the buffer otherwise is.
            most = max(len(buffer), self._size())
            buffer.append(message)
            while len(buffer) > most or self._too_large():
                buffer.popleft()
                self.dropped += 1
            if not buffer:
                self.dropped -= 1
                self._leave_in_journal(message)

    def _leave_in_journal(self, message: Message) -> None:
        """Fall behind before `message`.

        Of any kind, where all buffers together hold too much for one message more: read by the
        consumer, it takes no room.
        """
        self.fall_behind(Position.parse(message.id).sequence - 1)
        self.unread = 1

    def _too_large(self) -> bool:
        buffer = self._buffer
        if not buffer or not isinstance(buffer, CountedBuffer | LatestBuffer):
            return False
        budget = self._source.budget
        return budget.exhausted or (len(buffer) > 1 and buffer.bytes > budget.each)
