"""One watch of a ``watchbus.v1`` connection, and the frames that it sends."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial
from typing import final

import trio

from .. import _protocol as protocol
from .._errors import HistoryLostError, LossReason, WatchLaggedError
from .._message import Message, Position
from .._request import BUFFER_SIZE, WatchRequest
from ..abc import Watch, WatchBus
from ._watches import Openings, take_waiting

_FRAME_BYTES = 256 * 1024
"""Bytes of messages in one frame, the last one whole: enough that the cost of a frame is shared by
many messages, and few enough that the other watches soon have their turn."""

_JOINING_TURNS = 3
"""Turns that everybody else has before messages are sent: what is published meanwhile costs no
frame of its own, and a frame costs as much as ten messages in one. Idle, they take some 10 µs."""


@final
class Outbox:
    """What is sent over one connection, by many tasks.

    Attributes:
        turn: held while a frame is made and sent. First come, first served, so that no watch
            keeps another one or a pong from being sent.
        spoke: when something was sent last, by Trio's clock.
    """

    def __init__(
        self, send: Callable[[str], Awaitable[None]], encode: Callable[[Message], bytes]
    ) -> None:
        self.turn = trio.StrictFIFOLock()
        self.spoke = trio.current_time()
        self._send = send
        self._encode = encode

    async def answer(self, answer: protocol.Answer) -> None:
        """Send `answer`, in turn."""
        async with self.turn:
            await self.send(protocol.encode(answer))

    async def send(self, text: str) -> None:
        """Send a frame; the caller holds `turn`."""
        self.spoke = trio.current_time()
        await self._send(text)

    async def send_messages(
        self, identifier: int, messages: list[Message], position: str, dropped: int = 0
    ) -> None:
        """Send messages of a watch in one frame; the caller holds `turn`."""
        encoded = list(map(self._encode, messages))
        await self.send(protocol.encode_messages(identifier, encoded, position, dropped))


@final
class ServedWatch:
    """A watch that the client opened.

    Args:
        request: what the client asked for.
        outbox: sends to the client.
        heartbeat: seconds after which an idle watch sends where it is.

    Attributes:
        closed: whether the client closed it.
    """

    def __init__(self, request: protocol.Watch, outbox: Outbox, heartbeat: float) -> None:
        self.closed = False
        self._request = request
        self._outbox = outbox
        self._heartbeat = heartbeat
        # The watch, once it is open.
        self._watch: Watch | None = None
        # How many messages the client lets come, or None for as many as there are.
        self._window = request.window
        # Set when it lets more come.
        self._more = trio.Event()
        # The position that the client knows.
        self._last_sent_position = ""

    def grant(self, count: int) -> None:
        """Let `count` more messages come."""
        if self._window is not None:
            self._window += count
        self._more.set()

    def close(self) -> None:
        """Have nothing more come."""
        self.closed = True
        if self._watch is not None:
            self._watch.close()
        self._more.set()

    async def serve(self, bus: WatchBus, openings: Openings) -> None:
        """Open the watch, and send what it receives until the client closes it.

        Raises:
            Exception: as the watch does on opening and receiving.
        """
        watch, loss = await self._open(bus, openings)
        with closing(watch):
            self._watch = watch
            if self._request.history:
                await self._send_history(watch)
            if loss is not None:
                await self._tell_loss(loss)
            self._last_sent_position = watch.position
            answer = protocol.Watching(self._request.id, self._last_sent_position)
            await self._outbox.answer(answer)
            while not self.closed:
                await self._pass_on(watch)

    async def _open(
        self, bus: WatchBus, openings: Openings
    ) -> tuple[Watch, WatchLaggedError | None]:
        """Open a watch; where its client puts up with a loss, after that."""
        request = self._request
        opening = partial(
            WatchRequest,
            request.all_keys(),
            request.all_prefixes(),
            overflow=request.overflow,
            buffer_size=_buffer_size(request),
        )
        try:
            first = opening(after=request.after, history=request.history)
            return await openings.open(bus, first), None
        except HistoryLostError as lost:
            if not request.lossy or request.after is None:
                raise
            watch = await openings.open_after_loss(bus, lost, opening)
            missed = None
            if lost.reason == "trimmed":
                after, now = Position.parse(request.after), Position.parse(watch.position)
                missed = now.sequence - after.sequence if now.epoch == after.epoch else None
            reason: LossReason = "trimmed" if lost.reason == "trimmed" else "epoch"
            return watch, WatchLaggedError(missed, watch.position, reason)

    async def _send_history(self, watch: Watch) -> None:
        """Send the history, which is all that `watch`, just opened, has in its buffer."""
        # At once, as the kinds that drop could drop it for what comes.
        history = deque(watch.receive_nowait() for _ in range(watch.statistics().buffered))
        while history and not self.closed:
            async with self._outbox.turn:
                messages = _take_frame(history)
                await self._outbox.send_messages(self._request.id, messages, messages[-1].id)

    async def _pass_on(self, watch: Watch) -> None:
        """Send what comes next: messages, a loss, or after a while where the watch is."""
        if self._window == 0:
            self._more = trio.Event()
            await self._more.wait()
            return
        try:
            first = await self._receive(watch)
        except WatchLaggedError as error:
            await self._tell_loss(error)
            return
        if first is None:
            await self._tell_position(watch)
            return
        for _ in range(_JOINING_TURNS):
            await trio.lowlevel.checkpoint()
        async with self._outbox.turn:
            # Only now, so that what waits for its turn waits in the watch.
            messages = [first]
            room = protocol.MAX_FRAME_MESSAGES
            if self._window is not None:
                room = min(room, self._window)
            loss = take_waiting(watch, messages, room, _FRAME_BYTES)
            if self._window is not None:
                self._window -= len(messages)
            position = messages[-1].id if loss is not None else watch.position
            self._last_sent_position = position
            dropped = watch.statistics().dropped
            await self._outbox.send_messages(self._request.id, messages, position, dropped)
        if loss is not None:
            await self._tell_loss(loss)

    async def _receive(self, watch: Watch) -> Message | None:
        """Return the next message, or None when there was none for a while."""
        try:
            return watch.receive_nowait()
        except trio.WouldBlock:
            pass
        with trio.move_on_after(self._heartbeat):
            return await watch.receive()
        return None

    async def _tell_position(self, watch: Watch) -> None:
        async with self._outbox.turn:
            if watch.position != self._last_sent_position:
                self._last_sent_position = watch.position
                bookmark = protocol.Bookmark(id=self._request.id, position=watch.position)
                await self._outbox.send(protocol.encode(bookmark))

    async def _tell_loss(self, loss: WatchLaggedError) -> None:
        self._last_sent_position = loss.position
        await self._outbox.answer(
            protocol.Lagged(self._request.id, loss.missed, loss.position, loss.reason)
        )


def _buffer_size(request: protocol.Watch) -> int:
    # A replaying watch reads from the journal what does not fit; one that drops has its client's
    # own buffer beside this one.
    return BUFFER_SIZE if request.buffer_size is None else min(request.buffer_size, BUFFER_SIZE)


def _take_frame(history: deque[Message]) -> list[Message]:
    """Take from `history` as much as one frame takes."""
    messages: list[Message] = []
    size = 0
    while history and len(messages) < protocol.MAX_FRAME_MESSAGES and size < _FRAME_BYTES:
        messages.append(history.popleft())
        size += len(messages[-1].data)
    return messages
