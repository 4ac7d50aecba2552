"""A watch: a memory channel whose sending end belongs to the bus.

Not one of `trio.open_memory_channel`: a send there takes three times as long and the pair three
times the memory, and it can neither keep the newest of each key nor fall behind and catch up.
The manners are the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, final

import trio
from trio.lowlevel import (
    Abort,
    Task,
    checkpoint,
    checkpoint_if_cancelled,
    current_task,
    enable_ki_protection,
    reschedule,
    wait_task_rescheduled,
)

from .._message import Message, Position
from .._request import WatchRequest, check_count
from .._statistics import WatchStatistics
from ..abc import Watch
from ._buffers import LARGE, UNCOUNTED, Budget, CountedBuffer, LatestBuffer
from ._state import TRANSITIONS, Event, State

if TYPE_CHECKING:
    from ._journal import Reading

_MESSAGES_A_TURN = 64
"""Messages that a task receives before it lets others run: at 0.4 µs each they take less than
half of what ten trips through the scheduler take, and nobody waits longer than 30 µs for them."""

_BUSY = "another task is waiting to receive from this watch"


# Read on the hot path, where a global costs less than an attribute of an Enum.
_SYNCED, _BEHIND, _ENDING, _ENDED, _CLOSED = State

_NAMES: dict[State, Literal["synced", "behind", "ended", "closed"]] = {
    _SYNCED: "synced",
    _BEHIND: "behind",
    _ENDING: "behind",
    _ENDED: "ended",
    _CLOSED: "closed",
}


class Source(Protocol):
    """Where a watch's messages come from, as the watch sees it."""

    keys_bound: int
    """How many keys a watch of overflow kind ``"latest"`` keeps messages of."""

    budget: Budget
    """What its watches' buffers may hold together."""

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


def _receiving(
    end: type[Exception],
) -> Callable[[BufferedWatch], Coroutine[Any, Any, Message]]:
    """Return what receives one message, and raises `end` where the bus was closed.

    `receive` and `__anext__` differ in that alone. One that awaited the other would add a
    coroutine to each message, a sixth of what it costs; a variable of a closure costs nothing.
    """

    # An interrupt between noting the task and parking would leave it noted.
    @enable_ki_protection
    async def receive(self: BufferedWatch) -> Message:
        # Promise 8 without a trip through the scheduler for each message: the check for a cancel
        # is a fifteenth of one. And parking without another coroutine between: that is a seventh
        # of what a message costs that wakes its consumer.
        woken = False
        if self._task is None:
            if self._buffer:
                if self._turn:
                    self._turn -= 1
                    await checkpoint_if_cancelled()
                else:
                    self._turn = _MESSAGES_A_TURN - 1
                    await checkpoint()
            elif self.state is _SYNCED:
                self._task = current_task()
                self._turn = _MESSAGES_A_TURN - 1
                await wait_task_rescheduled(self._abort)
                woken = True
            if self._buffer and self._task is None:
                message = self._buffer.popleft()
                self.place = message.id
                return message
        try:
            return await self._receive_slowly(woken)
        except trio.EndOfChannel:
            if end is trio.EndOfChannel:
                raise
            raise end from None

    return receive


@final
class BufferedWatch(Watch):
    """Both ends of a watch: `put` for its source, the rest for its consumer.

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
        "_room",
        "_source",
        "_task",
        "_turn",
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
        self._set_room()
        self.cursor = 0
        self.reading: Reading | None = None
        self.unread = 0
        self.dropped = 0
        self.gap = False
        self.rewritten = False
        self._task: Task | None = None
        self._turn = _MESSAGES_A_TURN

    # The source's end

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
            size = len(message.data)
            full = self._size() <= len(self._buffer)
            if not full:
                self._count_if(size > LARGE or len(self._buffer) >= UNCOUNTED)
            buffer = self._buffer
            if full or (
                isinstance(buffer, CountedBuffer | LatestBuffer)
                and not self._source.budget.has_room(buffer, size)
            ):
                self._overflow(message)
            else:
                buffer.append(message)
            if self._task is not None:
                self.wake()

    def load(self, messages: Sequence[Message]) -> None:
        """Put `messages` into the buffer, whatever room there is."""
        self._count_if(
            len(messages) > UNCOUNTED or any(len(message.data) > LARGE for message in messages)
        )
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

    def _move(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state][event]
        self._set_room()

    def _set_room(self) -> None:
        """Say how long the buffer may get by `put`, so that one look there says all.

        0 where there is more to look at: unless it is synced, and where bytes are counted.
        """
        plain = self.state is _SYNCED and type(self._buffer) is deque
        self._room = min(self._size(), UNCOUNTED) if plain else 0

    def _count_if(self, much: bool) -> None:
        """Count the bytes in the buffer from now on if they may be many; no more once it is empty.

        Args:
            much: whether what is put into it is large, or makes it long.
        """
        buffer = self._buffer
        if much and type(buffer) is deque:
            self._buffer = CountedBuffer(self._source.budget, buffer)
            self._set_room()
        elif not much and not buffer and isinstance(buffer, CountedBuffer):
            self._buffer = deque()
            self._set_room()

    def _size(self) -> int:
        """Return how many messages the buffer may hold, or how many keys' newest."""
        request = self.request
        return self._source.keys_bound if request.overflow == "latest" else request.buffer_size

    def _overflow(self, message: Message) -> None:
        kind = self.request.overflow
        if kind == "replay":
            self.fall_behind(Position.parse(message.id).sequence - 1)
            self.unread = 1
        elif kind == "drop_newest":
            self.dropped += 1
        else:
            buffer = self._buffer
            buffer.append(message)
            while len(buffer) > 1 and (len(buffer) > self._size() or self._too_large()):
                buffer.popleft()
                self.dropped += 1

    def _too_large(self) -> bool:
        buffer = self._buffer
        if isinstance(buffer, CountedBuffer | LatestBuffer):
            budget = self._source.budget
            return buffer.bytes > budget.each or budget.exhausted
        return False

    # The consumer's end

    @enable_ki_protection
    def receive_nowait(self) -> Message:
        if self._task is not None:
            raise trio.BusyResourceError(_BUSY)
        if not self._buffer:
            self._refill()
        message = self._buffer.popleft()
        self.place = message.id
        return message

    receive = _receiving(trio.EndOfChannel)
    __anext__ = _receiving(StopAsyncIteration)

    @enable_ki_protection
    async def receive_batch(self, max_messages: int | None = None) -> list[Message]:
        if max_messages is not None:
            check_count("max_messages", max_messages, least=1)
        if self._buffer:
            await checkpoint()
        if self._buffer and self._task is None:
            batch = [self._buffer.popleft()]
        else:
            batch = [await self._receive_slowly(woken=False)]
        count = len(self._buffer)
        if max_messages is not None:
            count = min(count, max_messages - 1)
        batch.extend(self._buffer.popleft() for _ in range(count))
        self.place = batch[-1].id
        return batch

    @enable_ki_protection
    def close(self) -> None:
        if self.state is not _CLOSED:
            self.place = self.position
            self._move(Event.CLOSE)
            self._buffer.clear()
            self._source.unregister(self)
            self.wake()

    @property
    def position(self) -> str:
        if self.state is _CLOSED:
            return self.place
        return self._source.position_of(self, self._buffer[0] if self._buffer else None)

    def statistics(self) -> WatchStatistics:
        return WatchStatistics(
            state=_NAMES[self.state],
            buffered=len(self._buffer),
            unread=self.unread,
            dropped=self.dropped,
        )

    def _refill(self) -> None:
        """Have something in the empty buffer, or raise why there is nothing."""
        if self.state is _CLOSED:
            raise trio.ClosedResourceError("this watch is closed")
        if self.behind:
            self._source.refill(self)
        if not self._buffer:
            if self.state is _ENDED:
                raise self._source.ending()
            raise trio.WouldBlock

    @enable_ki_protection
    async def _receive_slowly(self, woken: bool) -> Message:
        """Receive where the buffer was empty: by waiting, or at least after a checkpoint.

        Args:
            woken: whether it was waited for already: then why nothing came is told before a
                cancel that comes after it, a failed bus's own say.
        """
        if not woken:
            if self.state is _SYNCED and not self._buffer:
                await self._wait()
            else:
                await checkpoint()
        while True:
            try:
                return self.receive_nowait()
            except trio.WouldBlock:
                await self._wait()

    async def _wait(self) -> None:
        """Park until there is something to look at; nothing is taken yet, so a cancel is safe."""
        if self._task is not None:
            raise trio.BusyResourceError(_BUSY)
        self._task = current_task()
        self._turn = _MESSAGES_A_TURN - 1
        await wait_task_rescheduled(self._abort)

    def _abort(self, _: object) -> Abort:
        self._task = None
        return Abort.SUCCEEDED
