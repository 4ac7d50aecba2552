"""A watch: a memory channel whose sending end belongs to the bus.

Not one of `trio.open_memory_channel`: a send there takes three times as long and the pair three
times the memory, and it can neither keep the newest of each key nor fall behind and catch up.
The manners are the same.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Literal, Protocol, final

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

_MESSAGES_A_TURN = 64
"""Messages that a task receives before it lets others run: at 0.4 µs each they take less than
half of what ten trips through the scheduler take, and nobody waits longer than 30 µs for them."""


_BUSY = "another task is waiting to receive from this watch"


class Source(Protocol):
    """Where a watch's messages come from, as the watch sees it."""

    keys_bound: int
    """How many keys a watch of overflow kind ``"latest"`` keeps messages of."""

    ended: bool
    """Whether no more messages come."""

    def refill(self, watch: BufferedWatch) -> None:
        """Put into `watch`, behind and with an empty buffer, what comes next.

        May leave it empty, where that takes time: `put` follows then.

        Raises:
            WatchLaggedError: what comes next is lost; the watch's place is after it now.
        """

    def head(self, watch: BufferedWatch) -> str:
        """Return the position of `watch` when it is synced and has received everything."""

    def ending(self) -> Exception:
        """Return a new error that says why no more messages come."""

    def unregister(self, watch: BufferedWatch) -> None:
        """Forget `watch`."""


@final
class BufferedWatch(Watch):
    """Both ends of a watch: `put` for its source, the rest for its consumer.

    It is *synced*, fed by its source as messages come in, or *behind*: then what comes in is only
    counted, and whenever its consumer has emptied the buffer, its source refills it, until that
    has nothing more to give. (The words are those of etcd's watchable store.)

    Attributes:
        request: what it covers.
        synced: whether it is synced.
        epoch: the epoch that `cursor` counts in.
        cursor: while behind, the sequence number up to which its source was read.
        unread: while behind, the number of matching messages known after `cursor`.
        dropped: messages dropped by the overflow kind.
        gap: while behind, whether the bus itself lost messages after `cursor`; those are in
            `unread` at most.
    """

    __slots__ = (
        "_buffer",
        "_final_position",
        "_room",
        "_source",
        "_task",
        "_turn",
        "cursor",
        "dropped",
        "epoch",
        "gap",
        "request",
        "synced",
        "unread",
    )

    def __init__(self, source: Source, request: WatchRequest, epoch: str) -> None:
        self._source = source
        self.epoch = epoch
        self.request = request
        self._buffer: deque[Message] | _LatestBuffer
        if request.overflow == "latest":
            self._room = source.keys_bound
            self._buffer = _LatestBuffer()
        else:
            self._room = request.buffer_size
            self._buffer = deque()
        self.synced = True
        self.cursor = 0
        self.unread = 0
        self.dropped = 0
        self.gap = False
        self._task: Task | None = None
        self._turn = _MESSAGES_A_TURN
        self._final_position: str | None = None

    # The source's end

    def put(self, message: Message) -> None:
        """Take the next matching message from the source."""
        if not self.synced:
            self.unread += 1
        elif len(self._buffer) < self._room:
            self._buffer.append(message)
            if self._task is not None:
                self.wake()
        else:
            self._overflow(message)

    def load(self, messages: Iterable[Message]) -> None:
        """Put `messages` into the buffer, whatever room there is."""
        self._buffer.extend(messages)
        if self._task is not None and self._buffer:
            self.wake()

    def fall_behind(self, cursor: int) -> None:
        """Read on from the source after `cursor`, once the buffer is empty."""
        self.synced = False
        self.cursor = cursor
        self.unread = 0

    def catch_up(self) -> None:
        """Be synced again: the source has nothing more than what is in the buffer."""
        self.synced = True
        self.unread = 0

    def wake(self) -> None:
        """Let the waiting consumer, if there is one, look again."""
        if self._task is not None:
            task, self._task = self._task, None
            reschedule(task)

    def _overflow(self, message: Message) -> None:
        kind = self.request.overflow
        if kind == "replay":
            self.fall_behind(Position.parse(message.id).sequence - 1)
            self.unread = 1
        elif kind == "drop_newest":
            self.dropped += 1
        else:
            self._buffer.append(message)
            if len(self._buffer) > self._room:
                self._buffer.popleft()
                self.dropped += 1

    # The consumer's end

    def receive_nowait(self) -> Message:
        if self._task is not None:
            raise trio.BusyResourceError(_BUSY)
        if not self._buffer:
            self._refill()
        return self._buffer.popleft()

    async def receive(self) -> Message:
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
            elif self.synced and self._final_position is None and not self._source.ended:
                self._task = current_task()
                self._turn = _MESSAGES_A_TURN - 1
                await wait_task_rescheduled(self._abort)
                woken = True
            if self._buffer and self._task is None:
                return self._buffer.popleft()
        return await self._receive_slowly(woken)

    async def __anext__(self) -> Message:
        # As receive, to the letter but for the end: one coroutine less for each message.
        woken = False
        if self._task is None:
            if self._buffer:
                if self._turn:
                    self._turn -= 1
                    await checkpoint_if_cancelled()
                else:
                    self._turn = _MESSAGES_A_TURN - 1
                    await checkpoint()
            elif self.synced and self._final_position is None and not self._source.ended:
                self._task = current_task()
                self._turn = _MESSAGES_A_TURN - 1
                await wait_task_rescheduled(self._abort)
                woken = True
            if self._buffer and self._task is None:
                return self._buffer.popleft()
        try:
            return await self._receive_slowly(woken)
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

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
        return batch

    @enable_ki_protection
    def close(self) -> None:
        if self._final_position is None:
            self._final_position = self.position
            self._buffer.clear()
            self._source.unregister(self)
            self.wake()

    @property
    def position(self) -> str:
        if self._final_position is not None:
            return self._final_position
        if self._buffer:
            oldest = Position.parse(self._buffer[0].id)
            return str(oldest._replace(sequence=oldest.sequence - 1))
        return self._source.head(self)

    def statistics(self) -> WatchStatistics:
        return WatchStatistics(
            state="synced" if self.synced else "behind",
            buffered=len(self._buffer),
            unread=self.unread,
            dropped=self.dropped,
        )

    def _refill(self) -> None:
        """Have something in the empty buffer, or raise why there is nothing."""
        if self._final_position is not None:
            raise trio.ClosedResourceError("this watch is closed")
        if not self.synced:
            self._source.refill(self)
        if not self._buffer:
            if self._source.ended and self.synced:
                raise self._source.ending()
            raise trio.WouldBlock

    async def _receive_slowly(self, woken: bool) -> Message:
        """Receive where the buffer was empty: by waiting, or at least after a checkpoint.

        Args:
            woken: whether it was waited for already: then why nothing came is told before a
                cancel that comes after it, a failed bus's own say.
        """
        if not woken:
            closed = self._final_position is not None
            if self.synced and not self._buffer and not closed and not self._source.ended:
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


class _LatestBuffer:
    """The newest message of each key, oldest first; of a deque's methods those that are used."""

    __slots__ = ("_newest",)

    def __init__(self) -> None:
        self._newest: OrderedDict[tuple[str, bool], Message] = OrderedDict()

    def __len__(self) -> int:
        return len(self._newest)

    def __getitem__(self, index: Literal[0]) -> Message:
        return next(iter(self._newest.values()))

    def append(self, message: Message) -> None:
        place = (message.key, message.is_prefix)
        self._newest[place] = message
        self._newest.move_to_end(place)

    def extend(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self.append(message)

    def popleft(self) -> Message:
        return self._newest.popitem(last=False)[1]

    def clear(self) -> None:
        self._newest.clear()
