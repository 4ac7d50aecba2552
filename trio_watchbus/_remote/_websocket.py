"""The client's end of a WebSocket: trio-websocket, with bounds on what the server sends.

The only module that imports trio-websocket. `_Connection` overrides private handlers of its
connection, which has no bound on fragments, ends the connection for a message that is too long,
reads the body of a refusal without end, and handles what one read brought without yielding.
`tests/remote/test_websocket.py` names each private part that is used here.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO, StringIO
from typing import final

import trio
from trio.lowlevel import enable_ki_protection
from trio_websocket import CloseReason, ConnectionClosed, ConnectionRejected, WebSocketConnection
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    RejectConnection,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError

_RECEIVE_SIZE = 256 * 1024
"""Bytes read from the stream at once: a whole frame of messages."""

_EVENTS_A_TURN = 64
"""Frames handled before other tasks run: at about 10 µs each, under a millisecond."""

_FREE_FRAGMENTS = 1024
_BYTES_A_FRAGMENT = 64
"""A message may have this many fragments, and beyond that one for this many bytes. Only a server
that wants to keep its client busy sends smaller ones."""

EXCERPT = 1024
"""Characters of the start and of the end of a message that is not read whole."""

_MAX_SKIPPED = 1024 * 1024 * 1024
"""Bytes of a message that is too long which are read and dropped; then the connection ends."""

_QUEUED_MESSAGES = 1
"""Messages that wait while the one before is handled; each may be as long as the client takes."""

_ABNORMAL = 1006
"""The code by which trio-websocket says that the stream ended without a close frame."""

_PROTOCOL_ERROR = 1002

_LONGEST_REASON = 100
"""Characters of the reason in a close frame, which has room for 123 bytes."""


class WebSocketError(Exception):
    """The server broke the protocol, or does not speak it."""


class RefusedError(WebSocketError):
    """The server answered the handshake with an HTTP status other than 101.

    Attributes:
        status: that status.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class ClosedError(WebSocketError):
    """The server closed the connection.

    Attributes:
        code: the close code; None if the stream ended without a close frame.
        reason: the reason in its close frame.
    """

    def __init__(self, code: int | None, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class TooLong:
    """A message that was longer than the bound.

    Attributes:
        size: its bytes, as UTF-8.
        start: its first characters.
        end: its last characters.
    """

    size: int
    start: str
    end: str


@final
class WebSocket:
    """One connection. One task receives, and one sends.

    Args:
        stream: the transport.
        max_message_size: bytes of one message that are kept.
    """

    def __init__(self, stream: trio.abc.Stream, max_message_size: int) -> None:
        self._stream = stream
        self._max_message_size = max_message_size
        self._connection: _Connection

    async def open(
        self,
        nursery: trio.Nursery,
        authority: str,
        resource: str,
        headers: list[tuple[bytes, bytes]],
        subprotocol: str,
    ) -> None:
        """Do the opening handshake.

        Args:
            nursery: for the task that reads; it ends with the connection, or with the nursery.
            authority: the header ``Host``.
            resource: the path and query.
            headers: further headers of the request.
            subprotocol: what is to be spoken.

        Raises:
            RefusedError: the server refused; the body of its answer is not read.
            WebSocketError: it does not speak WebSocket, or not this subprotocol.
        """
        self._connection = connection = _Connection(
            self._stream,
            WSConnection(ConnectionType.CLIENT),
            host=authority,
            path=resource,
            client_subprotocols=[subprotocol],
            client_extra_headers=headers,
            message_queue_size=_QUEUED_MESSAGES,
            receive_buffer_size=_RECEIVE_SIZE,
        )
        connection.bound(self._max_message_size)
        nursery.start_soon(connection.read)
        await connection._open_handshake.wait()
        if connection.failure is not None:
            raise connection.failure
        if connection.subprotocol != subprotocol:
            raise WebSocketError(f"it does not speak {subprotocol}")

    async def receive(self) -> str | bytes | TooLong:
        """Return the next message; of one that is too long, its start and end.

        Raises:
            ClosedError: the server closed the connection, or the stream ended.
            WebSocketError: it broke the protocol.
        """
        try:
            return await self._connection.get_message()
        except ConnectionClosed as closed:
            raise self._connection.failure or _closed(closed.reason) from None

    async def send(self, message: str | bytes) -> None:
        """Send a message. A cancel may leave half of it sent: then nothing can follow.

        Raises:
            ClosedError: the connection is closed, or being closed.
        """
        try:
            await self._connection.send_message(message)
        except ConnectionClosed as closed:
            raise _closed(closed.reason) from None
        except LocalProtocolError:
            # The reader began to close it; trio-websocket does not know yet.
            raise ClosedError(None) from None

    async def close(self) -> None:
        """Do the closing handshake, and close the stream; `receive` raises `ClosedError` then."""
        await self._connection.aclose()


@final
class _Connection(WebSocketConnection):
    """trio-websocket's connection, with bounds.

    Attributes:
        failure: why it ended, if the server broke the protocol or refused the handshake.
    """

    failure: WebSocketError | None = None

    def bound(self, max_message_size: int) -> None:
        """Keep messages of at most this many bytes."""
        self._bound = max_message_size
        self._incoming = _Message(max_message_size)
        self._events_in_turn = 0

    # Within trio-websocket, an interrupt would be swallowed: the main task gets it instead.
    @enable_ki_protection
    async def read(self) -> None:
        """Read until the connection ends; raises nothing but a cancel."""
        try:
            await self._reader_task()
        except ConnectionRejected as rejected:
            self.failure = RefusedError(rejected.status_code)
        except LocalProtocolError:
            # It answered a ping while the other side of this connection was closing it.
            await self._abort_web_socket()
        except Exception:
            # On what is not HTTP, the parsers fail in many ways.
            if self._open_handshake.is_set():
                raise
            self.failure = WebSocketError("it does not answer as a WebSocket server does")
        if not self._open_handshake.is_set():
            # Otherwise trio-websocket would wait for it forever.
            if self.failure is None:
                self.failure = WebSocketError("it closed the connection without an answer")
            self._open_handshake.set()

    async def _handle_reject_connection_event(self, event: RejectConnection) -> None:
        raise ConnectionRejected(event.status_code, (), None)

    async def _handle_message_event(self, event: BytesMessage | TextMessage) -> None:
        await self._pass_turn()
        try:
            finished = self._incoming.add(event)
        except WebSocketError as error:
            await self._fail(error)
            return
        if finished:
            message, self._incoming = self._incoming.whole(), _Message(self._bound)
            try:
                await self._send_channel.send(message)  # type: ignore[arg-type]
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                # This end is closing; what still comes is dropped.
                return

    async def _handle_ping_event(self, event: Ping) -> None:
        await self._pass_turn()
        await super()._handle_ping_event(event)

    async def _handle_pong_event(self, event: Pong) -> None:
        await self._pass_turn()
        await super()._handle_pong_event(event)

    async def _handle_close_connection_event(self, event: CloseConnection) -> None:
        if self._wsproto.state is ConnectionState.OPEN:
            # Not from the server: wsproto says what is wrong with what came.
            await self._fail(
                WebSocketError(f"it broke the WebSocket protocol: {event.reason}"), event.code
            )
        else:
            await super()._handle_close_connection_event(event)

    async def _fail(self, error: WebSocketError, code: int = _PROTOCOL_ERROR) -> None:
        self.failure = error
        await self._close_web_socket(code)
        await self._send(CloseConnection(code, str(error)[:_LONGEST_REASON]))
        self._close_handshake.set()
        self._reader_running = False

    async def _pass_turn(self) -> None:
        """Let other tasks run, now and then."""
        self._events_in_turn += 1
        if self._events_in_turn >= _EVENTS_A_TURN:
            self._events_in_turn = 0
            await trio.lowlevel.checkpoint()


def _closed(reason: CloseReason | None) -> ClosedError:
    if reason is None or reason.code == _ABNORMAL:
        return ClosedError(None)
    return ClosedError(reason.code, reason.reason or "")


def _size(data: str | bytes | bytearray) -> int:
    if isinstance(data, str) and not data.isascii():
        return len(data.encode())
    return len(data)


class _Message:
    """A message that comes in pieces."""

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._fragments = 0
        self._size = 0
        self._text = StringIO()
        self._data = BytesIO()
        self._is_text = True
        self._start = ""
        self._end = ""

    def add(self, event: TextMessage | BytesMessage) -> bool:
        """Add a piece; return whether it was the last.

        Raises:
            WebSocketError: there are too many fragments, or the message never ends.
        """
        self._size += _size(event.data)
        self._fragments += event.frame_finished
        if self._fragments > _FREE_FRAGMENTS + self._size // _BYTES_A_FRAGMENT:
            raise WebSocketError(f"it sent a message in {self._fragments} fragments")
        if self._size > _MAX_SKIPPED:
            raise WebSocketError(f"it sent a message of more than {_MAX_SKIPPED} bytes")
        self._is_text = isinstance(event, TextMessage)
        if self._size <= self._max_size:
            if isinstance(event, TextMessage):
                self._text.write(event.data)
            else:
                self._data.write(event.data)
        elif isinstance(event, TextMessage):
            self._drop(event.data)
        return event.message_finished

    def whole(self) -> str | bytes | TooLong:
        """Return the message."""
        if self._size > self._max_size:
            return TooLong(self._size, self._start, self._end)
        return self._text.getvalue() if self._is_text else self._data.getvalue()

    def _drop(self, piece: str) -> None:
        """Keep the start and the end alone."""
        if self._text.tell():
            kept = self._text.getvalue()
            self._text = StringIO()
            self._start, self._end = kept[:EXCERPT], kept[-EXCERPT:]
        if len(self._start) < EXCERPT:
            self._start += piece[: EXCERPT - len(self._start)]
        self._end = (self._end + piece[-EXCERPT:])[-EXCERPT:]
