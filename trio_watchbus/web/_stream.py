"""A watch as the body of a response: a stream of Server-Sent Events."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Self, final

import trio
from quart.wrappers.response import ResponseBody

from .._errors import HistoryLostError, WatchLaggedError
from .._message import Message
from .._request import WatchRequest
from ..abc import Watch, WatchBus
from ._drain import Drain
from ._loss import open_after_loss
from ._query import StreamQuery
from ._refusal import refusal_of
from ._sse import at_position, bookmark, end_event, gap_event, opening

logger = logging.getLogger("trio_watchbus.web")

BUFFER_SIZE = 128
"""Messages in the buffer of a served watch. A client that stopped reading holds them, and as many
on the way to it, though the journal may have dropped them; the rest it finds in the journal. More
would not make chunks any cheaper."""

CHUNK_SIZE = 256 * 1024
"""Bytes from which a chunk gets no further message: far beyond where the cost of a chunk matters,
and what a client that stopped reading holds in memory."""

_RETRY = (1000, 5000)
"""Milliseconds between which clients come back: spread, so that a restart of the server is not
followed by everybody at once."""


@final
class EventStream(ResponseBody):
    """What one client of ``/sse`` receives: chunks of all that waits, until either side ends it.

    A class, as a generator's cleanup would have to wait for whoever iterates it.

    The history is not resumed: its messages may be older than what the bus can resume from, and
    what follows one of them in the bus is more than the rest of the history. So the client gets no
    id before all of it has come: cut amid it, it comes back as it came, and gets it anew. The last
    message of it has the position at which the watch began.

    Args:
        bus: the bus.
        query: what to stream.
        encode: from a message to its event.
        drain: ends the stream.
        heartbeat: seconds after which an idle stream gets a bookmark.
        send_chunk: sends a chunk of the response by a shorter way than being iterated, if there
            is one. Then only what comes first, and what is not messages, is iterated.
    """

    def __init__(
        self,
        bus: WatchBus,
        query: StreamQuery,
        encode: Callable[[Message], bytes],
        drain: Drain,
        heartbeat: float,
        send_chunk: Callable[[bytes], Awaitable[None]] | None = None,
    ) -> None:
        self._bus = bus
        self._query = query
        self._encode = encode
        self._drain = drain
        self._heartbeat = heartbeat
        self._send_chunk = send_chunk
        self._watch: Watch
        self._is_open = False
        # What is to be sent before the watch is asked for more.
        self._opening = b""
        self._messages: list[Message] = []
        # How many of those are history.
        self._history = 0
        self._ended = False

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except Exception as error:
            if refusal_of(error) is None:
                logger.exception("cannot open the watch of a stream")
            self._opening = self._end("unavailable")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_open:
            self._watch.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._opening:
            opening, self._opening = self._opening, b""
            return opening
        if self._ended:
            raise StopAsyncIteration
        try:
            if not self._messages:
                with self._drain.interrupting(self._heartbeat):
                    self._messages.extend(await self._watch.receive_batch())
                    while self._send_chunk is not None:
                        while self._messages:
                            await self._send_chunk(self._chunk())
                        self._messages.extend(await self._watch.receive_batch())
            if self._messages:
                return self._chunk()
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
            # Beside a cancel, the framework would lose it.
            logger.exception("a stream failed")
            return self._end("failed")

    async def _open(self) -> None:
        query = self._query
        request = partial(WatchRequest, query.keys, query.prefixes, buffer_size=BUFFER_SIZE)
        as_new = request(history=query.history)
        first = as_new if query.after is None else request(after=query.after)
        lost: HistoryLostError | None = None
        try:
            self._watch = await self._bus.open_watch(first)
        except HistoryLostError as error:
            lost = error
            if query.history:
                first = as_new
                self._watch = await self._bus.open_watch(first)
            else:
                self._watch = await open_after_loss(self._bus, error, request)
        self._is_open = True
        if first.history:
            # That is all that the watch, just opened, has in its buffer.
            self._history = self._watch.statistics().buffered
            self._messages = [self._watch.receive_nowait() for _ in range(self._history)]
        gap = b"" if lost is None else gap_event(lost.reason, None, self._position())
        self._opening = opening(self._position(), _retry()) + gap

    def _position(self) -> str | None:
        """Return where the client resumes from now on; None from where it was before."""
        return None if self._history else self._watch.position

    def _chunk(self) -> bytes:
        pieces = []
        size = 0
        for message in self._messages:
            event = self._encode(message)
            if self._history:
                self._history -= 1
                event = at_position(event, self._position())
            pieces.append(event)
            size += len(event)
            if size >= CHUNK_SIZE:
                break
        del self._messages[: len(pieces)]
        return b"".join(pieces)

    def _end(self, reason: str) -> bytes:
        self._ended = True
        return end_event(reason, _retry())


def _retry() -> int:
    return random.randint(*_RETRY)  # noqa: S311, nobody gains by foreseeing it
