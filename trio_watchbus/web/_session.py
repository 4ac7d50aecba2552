"""One connection that speaks ``watchbus.v1``, as its server sees it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Protocol, final

import trio
from trio.lowlevel import enable_ki_protection

from .. import _protocol as protocol
from .._errors import WatchBusError
from .._message import Message
from ..abc import WatchBus
from ._answer import Refusal
from ._options import WebOptions
from ._session_watch import Outbox, ServedWatch
from ._watches import Openings
from ._websocket import CloseConnection

_log = logging.getLogger("trio_watchbus.web")

_FRAME_OVERHEAD = 64 * 1024
"""Bytes of a frame that publishes, beside twice those of its data: for the key, the names of the
fields, and the quotes and newlines of data that is text."""


_SHORT_FRAME = 64 * 1024
"""Characters of a frame that is parsed as it is: at most 4 ms, whatever is in it."""

_VALUES_EACH = 3
"""Values that a frame may have for each message of the largest batch: key, data, and one that a
later client may send. Parsing takes 0.2 µs for each: 6 ms by default."""

_STEP_STRINGS = 5000
"""Strings that are looked at before other tasks run: some 2 ms."""

_PIECE = re.compile(r'(?:[^"\\]++|\\.){0,100000}+', re.DOTALL)
"""The rest of a string, without its last quote, or as much of it as takes a millisecond."""


class Peer(Protocol):
    """What a session needs of its connection; see `Connection`."""

    @property
    def draining(self) -> trio.Event: ...
    async def receive(self) -> str | bytes: ...
    async def send(self, data: str, /) -> None: ...


def max_frame_size(bus: WatchBus) -> int:
    """Return the characters that a frame which publishes may have."""
    return 2 * bus.max_message_size + _FRAME_OVERHEAD


async def serve_session(
    bus: WatchBus,
    connection: Peer,
    options: WebOptions,
    encode: Callable[[Message], bytes],
    openings: Openings,
) -> None:
    """Do what the client asks for, until the connection is to be closed.

    What a client publishes is accepted in the order in which it sent it, and answered in any.
    Nothing grows with a client that reads slowly: what waits for it is what its watches hold, one
    frame, and the answers to a bounded number of requests.

    Args:
        bus: the bus.
        connection: the connection.
        options: what the client may do.
        encode: from a message to its JSON.
        openings: bounds how many watches are being opened at once.

    Raises:
        CloseConnection: always, unless cancelled: with what to close the connection.
    """
    session = _Session(bus, connection, options, encode, openings)
    async with trio.open_nursery() as nursery:
        await session.run(nursery)
    raise session.closing


@final
class _Session:
    """The state of one connection.

    Attributes:
        closing: with what to close the connection, once that is known.
    """

    def __init__(
        self,
        bus: WatchBus,
        connection: Peer,
        options: WebOptions,
        encode: Callable[[Message], bytes],
        openings: Openings,
    ) -> None:
        self.closing = CloseConnection(protocol.CloseCode.FAULT, "the server failed")
        self._bus = bus
        self._connection = connection
        self._options = options
        self._openings = openings
        self._outbox = Outbox(connection.send, encode)
        self._watches: dict[int, ServedWatch] = {}
        # Ids of the requests that were not answered yet.
        self._waiting: set[int] = set()
        self._slots = trio.Semaphore(protocol.REQUESTS_AT_ONCE)
        # Held by whoever makes an answer that may be large.
        self._asking = trio.StrictFIFOLock()

    async def run(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        nursery.start_soon(self._keep_alive)
        nursery.start_soon(self._drain)
        await self._outbox.answer(
            protocol.Hello(
                self._bus.position,
                self._bus.max_message_size,
                max_frame_size(self._bus),
                self._options.max_inbound_size,
                self._options.max_batch_messages,
            )
        )
        try:
            while True:
                await self._take_frame(await self._connection.receive())
        except CloseConnection as closing:
            self._close(closing)

    def _close(self, closing: CloseConnection) -> None:
        self.closing = closing
        self._nursery.cancel_scope.cancel()

    @enable_ki_protection
    async def _keep_alive(self) -> None:
        """Say something whenever nothing was said for a while."""
        while True:
            due = self._outbox.spoke + self._options.heartbeat
            if trio.current_time() >= due:
                await self._outbox.answer(protocol.Bookmark(position=self._bus.position))
            else:
                await trio.sleep_until(due)

    @enable_ki_protection
    async def _drain(self) -> None:
        await self._connection.draining.wait()
        await self._end("the server is about to stop")

    async def _end(self, reason: str) -> None:
        await self._outbox.answer(protocol.End(reason))
        self._close(CloseConnection(protocol.CloseCode.DRAIN, reason))

    # What the client asks for

    async def _take_frame(self, frame: str | bytes) -> None:
        if isinstance(frame, bytes):
            await self._refuse_frame("frames are text")
            return
        try:
            if len(frame) > _SHORT_FRAME:
                await check_values(frame, _VALUES_EACH * self._options.max_batch_messages)
            request = protocol.parse_request(frame)
        except protocol.MalformedFrameError as error:
            await self._refuse_frame(str(error))
            return
        except protocol.RequestError as error:
            await self._outbox.answer(protocol.error_answer(None, error))
            return
        publishes = isinstance(request, protocol.Publish | protocol.PublishMany)
        if len(frame) > self._options.max_inbound_size and not publishes:
            raise CloseConnection(
                protocol.CloseCode.TOO_BIG,
                f"a frame may have at most {self._options.max_inbound_size} characters, unless"
                " it publishes",
            )
        try:
            await self._take(request)
        except protocol.RequestError as error:
            await self._outbox.answer(protocol.error_answer(None, error))

    async def _refuse_frame(self, detail: str) -> None:
        await self._outbox.answer(protocol.Error(code="malformed", detail=detail))
        raise CloseConnection(protocol.CloseCode.MALFORMED, "malformed frame")

    async def _take(self, request: protocol.Request) -> None:
        match request:
            case protocol.Ping():
                await self._outbox.answer(protocol.Pong())
            case protocol.More(id=identifier, count=count):
                # Unknown is one that just ended, while this was on its way.
                if identifier in self._watches:
                    self._watches[identifier].grant(count)
            case protocol.Unwatch(id=identifier):
                if identifier not in self._watches:
                    raise protocol.RequestError(identifier, "unknown_id", "no watch has this id")
                self._watches[identifier].close()
            case protocol.Watch():
                self._check_new(request.id)
                self._check_watch(request)
                served = ServedWatch(request, self._outbox, self._options.heartbeat)
                self._watches[request.id] = served
                self._nursery.start_soon(self._serve_watch, request, served)
            case _:
                self._check_new(request.id)
                self._waiting.add(request.id)
                await self._slots.acquire()
                self._nursery.start_soon(self._answer, request)
                # A bus accepts what is published in the first or second step of the task that
                # does it: the next request is not to be there before.
                for _ in range(2):
                    await trio.lowlevel.checkpoint()

    def _check_new(self, identifier: int) -> None:
        if identifier in self._watches or identifier in self._waiting:
            raise protocol.RequestError(
                identifier, "duplicate_id", "this id belongs to a watch or request that goes on"
            )

    def _check_watch(self, request: protocol.Watch) -> None:
        if self._is_full():
            raise protocol.RequestError(
                request.id,
                "limit",
                f"a connection may have at most {self._options.max_watches} watches",
            )
        if len(request.all_keys()) + len(request.all_prefixes()) > self._options.max_keys:
            raise protocol.RequestError(
                request.id,
                "limit",
                f"a watch may name at most {self._options.max_keys} keys and prefixes",
            )

    def _is_full(self) -> bool:
        """Whether there is no room for another watch."""
        bound = self._options.max_watches
        if len(self._watches) < bound:
            return False
        # Those that were closed are gone as soon as that was sent; not more of them than others
        # might be, where the client does not read.
        closed = sum(served.closed for served in self._watches.values())
        return len(self._watches) - closed >= bound or closed >= bound + protocol.REQUESTS_AT_ONCE

    @enable_ki_protection
    async def _answer(self, request: _Answered) -> None:
        """Do one request, and answer it."""
        if isinstance(request, protocol.Latest | protocol.WatchedKeys):
            # One at a time, until its answer is sent: those answers may be large, and this client
            # may not be reading.
            async with self._asking:
                await self._do_and_answer(request)
        else:
            await self._do_and_answer(request)
        self._slots.release()

    async def _do_and_answer(self, request: _Answered) -> None:
        try:
            answer: protocol.Answer = await self._do(request)
        except trio.ClosedResourceError:
            await self._end("the bus was closed")
            return
        except Exception as error:  # noqa: BLE001
            answer = self._failure(request.id, error)
        self._waiting.discard(request.id)
        await self._outbox.answer(answer)

    async def _do(self, request: _Answered) -> protocol.Answer:
        bus = self._bus
        match request:
            case protocol.Publish():
                key, data, is_prefix = request.item()
                publish = bus.publish_prefix if is_prefix else bus.publish
                message_id = await publish(key, data, idempotency_key=request.idempotency_key)
                return protocol.Published(request.id, message_id)
            case protocol.PublishMany():
                if len(request.messages) > self._options.max_batch_messages:
                    raise protocol.RequestError(
                        request.id,
                        "limit",
                        f"a batch may have at most {self._options.max_batch_messages} messages",
                    )
                items = [publication.item() for publication in request.messages]
                ids = await bus.publish_many(items, idempotency_key=request.idempotency_key)
                return protocol.Published(request.id, message_ids=tuple(ids))
            case protocol.Latest():
                message = await bus.latest(request.key)
                return protocol.LatestMessage(
                    request.id, None if message is None else protocol.WireMessage.of(message)
                )
            case protocol.WatchedKeys():
                keys = await bus.watched_keys(request.prefix)
                return protocol.WatchedKeySet(request.id, tuple(sorted(keys)))

    def _failure(self, identifier: int, error: Exception) -> protocol.Error:
        """Return what tells `error`; log it where the client is not to blame."""
        if isinstance(error, Refusal):
            return protocol.Error(id=identifier, code="limit", detail=error.detail)
        if not isinstance(error, WatchBusError | ValueError | protocol.RequestError):
            _log.error("a request of a WebSocket client failed", exc_info=error)
        return protocol.error_answer(identifier, error)

    @enable_ki_protection
    async def _serve_watch(self, request: protocol.Watch, served: ServedWatch) -> None:
        answer: protocol.Answer = protocol.Unwatched(request.id)
        try:
            await served.serve(self._bus, self._openings)
        except trio.ClosedResourceError:
            if not served.closed:
                await self._end("the bus was closed")
                return
        except trio.EndOfChannel:
            del self._watches[request.id]
            if not self._watches:
                await self._end("the bus was closed")
            return
        except trio.BrokenResourceError:
            self._close(CloseConnection(protocol.CloseCode.FAULT, "the bus failed"))
            return
        except Exception as error:  # noqa: BLE001
            answer = self._failure(request.id, error)
        del self._watches[request.id]
        await self._outbox.answer(answer)


async def check_values(text: str, most: int) -> None:
    """Return if a JSON text has at most so many values, whatever is in its strings.

    A parser takes as long for a million values of one digit each as for gigabytes of one string,
    and lets nobody else run meanwhile. Other tasks run here every few thousand strings.

    Args:
        text: the text; it need not be JSON.
        most: how many values, or so many strings that are values or names.

    Raises:
        RequestError: it has more.
    """
    values = strings = end = 0
    while values <= most and strings <= 2 * most:
        quote = text.find('"', end)
        if quote < 0:
            values += text.count(",", end)
            break
        values += text.count(",", end, quote)
        strings += 1
        start, end = quote + 1, _end_of_piece(text, quote + 1)
        while end > start and text[end : end + 1] not in ('"', ""):
            await trio.lowlevel.checkpoint()
            start, end = end, _end_of_piece(text, end)
        end += 1
        if strings % _STEP_STRINGS == 0:
            await trio.lowlevel.checkpoint()
    if values > most or strings > 2 * most:
        raise protocol.RequestError(None, "limit", f"a frame may have at most {most} values")


def _end_of_piece(text: str, start: int) -> int:
    piece = _PIECE.match(text, start)
    assert piece is not None
    return piece.end()


_Answered = protocol.Publish | protocol.PublishMany | protocol.Latest | protocol.WatchedKeys
