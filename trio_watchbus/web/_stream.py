"""A watch as a stream of Server-Sent Events."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Self, final

import trio
from trio.lowlevel import enable_ki_protection

from .._errors import HistoryLostError, WatchLaggedError
from .._message import Message
from .._request import WatchRequest
from ..abc import Watch, WatchBus
from ._drain import Drain
from ._query import StreamQuery
from ._sse import CONTENT_TYPE, at_position, bookmark, end_event, gap_event, opening
from ._watches import Openings, take_waiting

logger = logging.getLogger("trio_watchbus.web")

BUFFER_SIZE = 128
"""Messages in the buffer of a served watch; what does not fit it reads from the journal. More
would not make chunks any cheaper."""

CHUNK_SIZE = 256 * 1024
"""Bytes from which a chunk gets no further message: far beyond where the cost of a chunk matters,
and what a client that stopped reading holds in memory beside its watch."""

_SMALL_CHUNK = 16
"""Messages that a stream takes at once without waiting for its turn: some 20 µs."""

_RETRY = (1000, 5000)
"""Milliseconds between which clients come back: spread, so that a restart of the server is not
followed by everybody at once."""

HEADERS = {
    "Content-Type": CONTENT_TYPE,
    "X-Content-Type-Options": "nosniff",
    # Compressing proxies hold events back until they have a block's worth.
    "Cache-Control": "no-cache, no-transform",
    # nginx buffers responses unless told.
    "X-Accel-Buffering": "no",
}


@final
class EventStream:
    """What one client of ``/sse`` receives: chunks of all that waits, until either side ends it.

    Made by `open_stream`, with its watch open; whoever has it must `close` it. A class, as a
    generator's cleanup would have to wait for whoever iterates it.

    Attributes:
        headers: the headers of the response.
    """

    __slots__ = (
        "_drain",
        "_encode",
        "_ended",
        "_finished",
        "_heartbeat",
        "_history",
        "_opening",
        "_scope",
        "_turn",
        "_watch",
        "headers",
    )

    def __init__(
        self,
        watch: Watch,
        opening: bytes,
        history: deque[Message],
        encode: Callable[[Message], bytes],
        drain: Drain,
        heartbeat: float,
        turn: trio.StrictFIFOLock,
    ) -> None:
        self.headers = HEADERS
        self._watch = watch
        # What is sent before the watch is asked for more.
        self._opening = opening
        self._history: deque[Message] | None = history or None
        self._encode = encode
        self._drain = drain
        self._heartbeat = heartbeat
        self._turn = turn
        self._ended = False
        self._finished = False
        self._scope: trio.CancelScope | None = None

    def close(self) -> None:
        """Close the watch."""
        self._watch.close()

    def ask_client(self) -> None:
        """Send a bookmark at once: if the client has gone, that breaks the connection."""
        if self._scope is not None:
            self._scope.cancel()

    def finish(self) -> None:
        """End after the history, for a client that has ended its side."""
        self._finished = True
        self.ask_client()

    def __aiter__(self) -> Self:
        return self

    # Quart-Trio swallows an interrupt in one of its tasks: the main task gets it instead.
    @enable_ki_protection
    async def __anext__(self) -> bytes:
        if self._opening:
            opening, self._opening = self._opening, b""
            return opening
        if self._ended:
            raise StopAsyncIteration
        return await self._next(None)

    async def send_all(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Send what iterating gives, at half the cost.

        Args:
            send: sends one chunk whole, whatever is cancelled.
        """
        async for chunk in self:
            await send(chunk)
            while not self._ended:
                await send(await self._next(send))

    async def _next(self, send: Callable[[bytes], Awaitable[None]] | None) -> bytes:
        """Return the next chunk; with `send`, the next that is not messages, those being sent."""
        try:
            if self._history is not None:
                return self._history_chunk()
            if self._finished:
                return self._end("half_closed")
            chunk = b""
            with self._drain.interrupting(self._heartbeat) as scope:
                self._scope = scope
                # Others run before what waits is taken, so that what comes meanwhile joins it.
                chunk = await self._chunk(await self._watch.receive_batch(1))
                while send is not None:
                    await send(chunk)
                    chunk = b""
                    chunk = await self._chunk(await self._watch.receive_batch(1))
            self._scope = None
            if chunk:
                return chunk
            if self._drain.begun.is_set():
                return self._end("shutdown")
            return bookmark(self._watch.position)
        except WatchLaggedError as lagged:
            return gap_event(lagged.reason, lagged.missed, lagged.position)
        except trio.EndOfChannel:
            return self._end("closed")
        except trio.BrokenResourceError:
            # The bus raises why where it was opened; or it is the client that is gone.
            return self._end("failed")
        except Exception:
            # Beside a cancel, a framework would lose it.
            logger.exception("a stream failed")
            return self._end("failed")

    async def _chunk(self, messages: list[Message]) -> bytes:
        """Return the events of `messages` and of what waits behind, as much as one chunk takes.

        Streams with much to send take turns, so that many of them together leave the loop to
        others between any two.
        """
        loss = take_waiting(self._watch, messages, _SMALL_CHUNK, CHUNK_SIZE)
        if loss is None and len(messages) == _SMALL_CHUNK:
            # What was taken is sent, whatever is cancelled.
            with trio.CancelScope(shield=True):
                async with self._turn:
                    await trio.lowlevel.checkpoint()
                    loss = take_waiting(self._watch, messages, BUFFER_SIZE, CHUNK_SIZE)
        chunk = b"".join(map(self._encode, messages))
        if loss is not None:
            chunk += gap_event(loss.reason, loss.missed, loss.position)
        return chunk

    def _history_chunk(self) -> bytes:
        """Return the next events of the history, the last of which has the watch's position.

        The history is not resumed: its messages may be older than what the bus can resume from,
        and what follows one of them in the bus is more than the rest of the history. So the client
        gets no id before all of it has come: cut amid it, it comes back as it came, and gets it
        anew.
        """
        history = self._history
        assert history is not None
        events: list[bytes] = []
        size = 0
        while history and size < CHUNK_SIZE:
            event = self._encode(history.popleft())
            events.append(at_position(event, None if history else self._watch.position))
            size += len(events[-1])
        if not history:
            self._history = None
        return b"".join(events)

    def _end(self, reason: str) -> bytes:
        self._ended = True
        return end_event(reason, _retry())


async def open_stream(
    bus: WatchBus,
    query: StreamQuery,
    encode: Callable[[Message], bytes],
    drain: Drain,
    heartbeat: float,
    openings: Openings,
    turn: trio.StrictFIFOLock,
) -> EventStream:
    """Return the stream that `query` asks for, with its watch open.

    A position that is lost begins it with a gap.

    Args:
        bus: the bus.
        query: what to stream.
        encode: from a message to its event.
        drain: ends the stream.
        heartbeat: seconds after which an idle stream gets a bookmark.
        openings: bounds how many watches are being opened at once.
        turn: shared by streams that have much to send.

    Raises:
        Exception: as `WatchBus.open_watch` does, but for a position that is lost.
    """
    request = partial(WatchRequest, query.keys, query.prefixes, buffer_size=BUFFER_SIZE)
    as_new = request(history=query.history)
    first = as_new if query.after is None else request(after=query.after)
    lost: HistoryLostError | None = None
    try:
        watch = await openings.open(bus, first)
    except HistoryLostError as error:
        lost = error
        if query.history:
            first = as_new
            watch = await openings.open(bus, first)
        else:
            watch = await openings.open_after_loss(bus, error, request)
    try:
        history: deque[Message] = deque()
        if first.history:
            # That is all that the watch, just opened, has in its buffer.
            waiting = watch.statistics().buffered
            history.extend(watch.receive_nowait() for _ in range(waiting))
        position = None if history else watch.position
        gap = b"" if lost is None else gap_event(lost.reason, None, position)
        begin = opening(position, _retry()) + gap
        return EventStream(watch, begin, history, encode, drain, heartbeat, turn)
    except BaseException:
        watch.close()
        raise


def _retry() -> int:
    return random.randint(*_RETRY)  # noqa: S311, nobody gains by foreseeing it
