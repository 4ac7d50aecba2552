"""A watch: a memory channel whose sending end belongs to the bus.

Not one of `trio.open_memory_channel`: a send there takes three times as long and the pair three
times the memory, and it can neither keep the newest of each key nor fall behind and catch up.
The manners are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Literal, final

import trio
from trio.lowlevel import (
    Abort,
    checkpoint,
    checkpoint_if_cancelled,
    current_task,
    enable_ki_protection,
    wait_task_rescheduled,
)

from .._message import Message
from .._request import WatchRequest, check_count
from .._statistics import WatchStatistics
from ..abc import Watch
from ._feeding import FedWatch, Source
from ._state import Event, State

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
class BufferedWatch(FedWatch, Watch):
    """Both ends of a watch: its source's, and here that of its consumer."""

    __slots__ = ("_turn",)

    def __init__(self, source: Source, request: WatchRequest, position: str) -> None:
        super().__init__(source, request, position)
        self._turn = _MESSAGES_A_TURN

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
            while self.behind and self._source.prepare(self):
                await checkpoint()
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
