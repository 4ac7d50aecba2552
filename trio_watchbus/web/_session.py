"""One connection that speaks ``watchbus.v1``, as its server sees it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Protocol, final

import trio

from .. import _protocol as protocol
from .._errors import HistoryLostError, LossReason, WatchBusError, WatchLaggedError
from .._message import Message, Position
from .._request import BUFFER_SIZE, WatchRequest
from ..abc import Watch, WatchBus
from ._connection import CloseConnection
from ._loss import open_after_loss
from ._options import WebOptions

_log = logging.getLogger("trio_watchbus.web")

_FRAME_MESSAGES = 1024
_FRAME_BYTES = 256 * 1024
"""What goes into one frame of messages, the last one whole: enough that the cost of a frame is
shared by many messages, little enough that the other watches soon have their turn."""

_FRAME_OVERHEAD = 64 * 1024
"""Bytes of a frame that publishes, beside twice those of its data: for the key, the names of the
fields, and the quotes and newlines of data that is text."""

_JOINING_TURNS = 3
"""Turns that everybody else has before messages are sent: what is published meanwhile costs no
frame of its own, and a frame costs as much as ten messages in one. Idle, they take some 10 µs."""


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

    Raises:
        CloseConnection: always, unless cancelled: with what to close the connection.
    """
    session = _Session(bus, connection, options, encode)
    async with trio.open_nursery() as nursery:
        await session.run(nursery)
    raise session.closing


@final
class _ServedWatch:
    """A watch that the client opened.

    Attributes:
        watch: the watch, once it is open.
        window: how many messages the client lets come, or None for as many as there are.
        more: set when it lets more come.
        told: the position that the client knows.
        closed: whether the client closed it.
    """

    def __init__(self, window: int | None) -> None:
        self.watch: Watch | None = None
        self.window = window
        self.more = trio.Event()
        self.told = ""
        self.closed = False

    def grant(self, count: int) -> None:
        """Let `count` more messages come."""
        if self.window is not None:
            self.window += count
        self.more.set()

    def close(self) -> None:
        """Have nothing more come."""
        self.closed = True
        if self.watch is not None:
            self.watch.close()
        self.more.set()


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
    ) -> None:
        self.closing = CloseConnection(protocol.CloseCode.FAULT, "the server failed")
        self._bus = bus
        self._connection = connection
        self._options = options
        self._encode = encode
        self._watches: dict[int, _ServedWatch] = {}
        # Ids of the requests that were not answered yet.
        self._waiting: set[int] = set()
        self._slots = trio.Semaphore(protocol.REQUESTS_AT_ONCE)
        # In the order of asking, so that no watch keeps another one or a pong from being sent.
        self._turn = trio.StrictFIFOLock()
        self._asking = trio.StrictFIFOLock()
        self._spoke = trio.current_time()

    async def run(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        nursery.start_soon(self._keep_alive)
        nursery.start_soon(self._drain)
        await self._send(
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

    async def _send(self, answer: protocol.Answer) -> None:
        async with self._turn:
            await self._send_text(protocol.encode(answer))

    async def _send_text(self, text: str) -> None:
        self._spoke = trio.current_time()
        await self._connection.send(text)

    async def _keep_alive(self) -> None:
        """Say something whenever nothing was said for a while."""
        while True:
            due = self._spoke + self._options.heartbeat
            if trio.current_time() >= due:
                await self._send(protocol.Bookmark(position=self._bus.position))
            else:
                await trio.sleep_until(due)

    async def _drain(self) -> None:
        await self._connection.draining.wait()
        await self._end("the server is about to stop")

    async def _end(self, reason: str) -> None:
        await self._send(protocol.End(reason))
        self._close(CloseConnection(protocol.CloseCode.DRAIN, reason))

    # What the client asks for

    async def _take_frame(self, frame: str | bytes) -> None:
        if isinstance(frame, bytes):
            await self._refuse_frame("frames are text")
            return
        try:
            request = protocol.parse_request(frame)
        except protocol.MalformedFrameError as error:
            await self._refuse_frame(str(error))
            return
        except protocol.RequestError as error:
            await self._send(protocol.error_answer(None, error))
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
            await self._send(protocol.error_answer(None, error))

    async def _refuse_frame(self, detail: str) -> None:
        await self._send(protocol.Error(code="malformed", detail=detail))
        raise CloseConnection(protocol.CloseCode.MALFORMED, "malformed frame")

    async def _take(self, request: protocol.Request) -> None:
        match request:
            case protocol.Ping():
                await self._send(protocol.Pong())
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
                self._watches[request.id] = served = _ServedWatch(request.window)
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
        await self._send(answer)

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
        if not isinstance(error, WatchBusError | ValueError | protocol.RequestError):
            _log.error("a request of a WebSocket client failed", exc_info=error)
        return protocol.error_answer(identifier, error)

    # What the watches say

    async def _serve_watch(self, request: protocol.Watch, served: _ServedWatch) -> None:
        answer: protocol.Answer = protocol.Unwatched(request.id)
        try:
            watch, loss = await self._open_watch(request)
            with closing(watch):
                served.watch = watch
                if request.history:
                    await self._send_history(request.id, served, watch)
                if loss is not None:
                    await self._tell_loss(request.id, served, loss)
                served.told = watch.position
                await self._send(protocol.Watching(request.id, served.told))
                while not served.closed:
                    await self._pass_on(request.id, served, watch)
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
        await self._send(answer)

    async def _open_watch(self, request: protocol.Watch) -> tuple[Watch, WatchLaggedError | None]:
        """Open a watch; where its client puts up with a loss, after that."""
        opening = partial(
            WatchRequest,
            request.all_keys(),
            request.all_prefixes(),
            overflow=request.overflow,
            buffer_size=_buffer_size(request),
        )
        try:
            first = opening(after=request.after, history=request.history)
            return await self._bus.open_watch(first), None
        except HistoryLostError as lost:
            if not request.lossy or request.after is None:
                raise
            watch = await open_after_loss(self._bus, lost, opening)
            missed = None
            if lost.reason == "trimmed":
                after, now = Position.parse(request.after), Position.parse(watch.position)
                missed = now.sequence - after.sequence if now.epoch == after.epoch else None
            reason: LossReason = "trimmed" if lost.reason == "trimmed" else "epoch"
            return watch, WatchLaggedError(missed, watch.position, reason)

    async def _send_history(self, identifier: int, served: _ServedWatch, watch: Watch) -> None:
        """Send the history, which is all that `watch`, just opened, has in its buffer."""
        # At once, as the kinds that drop could drop it for what comes.
        history = deque(watch.receive_nowait() for _ in range(watch.statistics().buffered))
        while history and not served.closed:
            async with self._turn:
                messages = _take_frame(history)
                encoded = list(map(self._encode, messages))
                await self._send_text(
                    protocol.encode_messages(identifier, encoded, messages[-1].id)
                )

    async def _pass_on(self, identifier: int, served: _ServedWatch, watch: Watch) -> None:
        """Send what comes next: messages, a loss, or after a while where the watch is."""
        if served.window == 0:
            served.more = trio.Event()
            await served.more.wait()
            return
        try:
            first = await self._receive(watch)
        except WatchLaggedError as error:
            await self._tell_loss(identifier, served, error)
            return
        if first is not None:
            for _ in range(_JOINING_TURNS):
                await trio.lowlevel.checkpoint()
        async with self._turn:
            if first is None:
                if watch.position != served.told:
                    served.told = watch.position
                    bookmark = protocol.Bookmark(id=identifier, position=served.told)
                    await self._send_text(protocol.encode(bookmark))
                return
            # Only now, so that what waits for its turn waits in the watch.
            messages, loss = _take_waiting(watch, first, served.window)
            if served.window is not None:
                served.window -= len(messages)
            served.told = messages[-1].id if loss is not None else watch.position
            dropped = watch.statistics().dropped
            encoded = list(map(self._encode, messages))
            await self._send_text(
                protocol.encode_messages(identifier, encoded, served.told, dropped)
            )
        if loss is not None:
            await self._tell_loss(identifier, served, loss)

    async def _receive(self, watch: Watch) -> Message | None:
        """Return the next message, or None when there was none for a while."""
        try:
            return watch.receive_nowait()
        except trio.WouldBlock:
            pass
        with trio.move_on_after(self._options.heartbeat):
            return await watch.receive()
        return None

    async def _tell_loss(
        self, identifier: int, served: _ServedWatch, loss: WatchLaggedError
    ) -> None:
        served.told = loss.position
        await self._send(protocol.Lagged(identifier, loss.missed, loss.position, loss.reason))


_Answered = protocol.Publish | protocol.PublishMany | protocol.Latest | protocol.WatchedKeys


def _buffer_size(request: protocol.Watch) -> int:
    # A replaying watch reads from the journal what does not fit; one that drops has its client's
    # own buffer beside this one.
    return BUFFER_SIZE if request.buffer_size is None else min(request.buffer_size, BUFFER_SIZE)


def _take_frame(history: deque[Message]) -> list[Message]:
    """Take from `history` as much as one frame takes."""
    messages: list[Message] = []
    size = 0
    while history and len(messages) < _FRAME_MESSAGES and size < _FRAME_BYTES:
        messages.append(history.popleft())
        size += len(messages[-1].data)
    return messages


def _take_waiting(
    watch: Watch, first: Message, window: int | None
) -> tuple[list[Message], WatchLaggedError | None]:
    """Return `first` and what waits behind it, as much as one frame takes, and a loss after it."""
    room = _FRAME_MESSAGES if window is None else min(_FRAME_MESSAGES, window)
    messages = [first]
    size = len(first.data)
    while len(messages) < room and size < _FRAME_BYTES:
        try:
            message = watch.receive_nowait()
        except WatchLaggedError as loss:
            return messages, loss
        except (
            trio.WouldBlock,
            # Those come again with the next receive.
            trio.ClosedResourceError,
            trio.EndOfChannel,
            trio.BrokenResourceError,
        ):
            break
        messages.append(message)
        size += len(message.data)
    return messages, None
