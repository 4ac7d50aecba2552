"""Everything that reaches into hypercorn; nothing else does.

What is overridden here is private to hypercorn, and so its version is capped. A test names each
attribute that is relied on.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from math import inf
from typing import Any, Final, final

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, RawData, Updated
from hypercorn.logging import Logger
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.events import Data, Event, StreamClosed
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.ws_stream import FrameTooLargeError, WSStream
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, ResponseSummary
from trio.lowlevel import enable_ki_protection
from wsproto.connection import ConnectionState as State
from wsproto.events import CloseConnection, Message, Ping

from ._answer import Refusal, last_answer
from ._client import CLIENT, ClientStream
from ._options import ServerOptions

_LOGGED = "trio_watchbus.logged"

_PONG_SECONDS = 5.0
"""Seconds that a WebSocket client has to answer a ping, or a heartbeat where that is less."""

_HANDSHAKE_SECONDS = 10.0
"""Seconds that a TLS handshake may take: hypercorn's minute would hold as many connections as are
allowed for those who only begin one."""

_HEAD_SECONDS = 5.0
"""Seconds in which the head of a request has to arrive, from its first byte on. Hypercorn has no
bound but that of idling, which is far longer."""

_FRAMES_A_TURN = 32
"""WebSocket frames of one client that are handled before other tasks run: about a millisecond."""

_FREE_FRAGMENTS: Final = 1024
_FRAGMENT_SIZE: Final = 16
"""A message may have so many fragments, and one more for each so many bytes: else a client makes
much work of few bytes, and endless work of none."""

_POLICY = 1008
_TOO_BIG = 1009
_BUSY = 1013

_OTHER_VERSION = last_answer(
    Refusal(505, "http_version", "this server speaks HTTP/1.0 and 1.1 alone")
)

logger = logging.getLogger("trio_watchbus.web")
access_logger = logging.getLogger("trio_watchbus.access")


def log_request(address: str, method: str, path: str, status: object, seconds: float) -> None:
    """Log a request without its query and headers, which may hold a secret.

    Args:
        address: the client's.
        method: the method, or ``WEBSOCKET``.
        path: as it stands in the target: decoded, it could hold line ends.
        status: the status that it was answered with.
        seconds: how long it took.
    """
    access_logger.info("%s %s %s %s %.3f", address, method, path, status, seconds)


def make_config(options: ServerOptions, max_frame_size: int) -> Config:
    """Return the configuration that serves these options.

    Args:
        options: what the server allows.
        max_frame_size: the longest WebSocket message of any route. With a longer one hypercorn
            closes by itself, having gathered so much.

    Raises:
        OSError: a TLS file cannot be read.
        ssl.SSLError: a TLS file is not what it should be.
    """
    config = Config()
    config.logger_class = _Log
    config.accesslog = access_logger if options.access_log else None
    config.errorlog = logger
    config.include_server_header = False
    # Without h2: hypercorn ignores its flow control, so a slow reader's data would pile up.
    config.alpn_protocols = ["http/1.1"]
    config.certfile = options.certfile
    config.keyfile = options.keyfile
    config.ssl_handshake_timeout = _HANDSHAKE_SECONDS
    config.keep_alive_timeout = options.keep_alive
    # A program that publishes keeps its connection for as long as it likes.
    config.keep_alive_max_requests = sys.maxsize
    config.websocket_max_message_size = max_frame_size
    # Messages and pieces of bodies that wait for the application, of each connection.
    config.max_app_queue_size = 2
    return config


class _Log(Logger):
    async def access(
        self, request: Any, response: ResponseSummary | None, request_time: float
    ) -> None:
        # Hypercorn logs a response twice when the client closes as soon as it has it.
        if self.access_logger is None or request.get(_LOGGED):
            return
        request[_LOGGED] = True
        client = request["client"]
        log_request(
            "-" if client is None else client[0],
            request.get("method", "WEBSOCKET"),
            request["raw_path"].decode("ascii", "backslashreplace"),
            # Without a response, the client left: only a stream goes on after its start.
            200 if response is None else response["status"],
            request_time,
        )


def pinger(send: Any) -> Callable[[], Awaitable[None]] | None:
    """Return what pings the client of a WebSocket, or None if hypercorn does not run it.

    ASGI has no word for it.

    Args:
        send: what the server gave to the application.
    """
    stream = getattr(send, "__self__", None)
    if not isinstance(stream, WSStream):
        return None
    return partial(stream._send_wsproto_event, Ping())


@final
class WebSocketGuard:
    """An application whose WebSockets are neither compressed nor silent for long.

    Args:
        app: the application.
        heartbeat: seconds of silence after which a client is asked for a sign of life.
    """

    def __init__(self, app: Any, heartbeat: float) -> None:
        self._app = app
        self._heartbeat = heartbeat
        self._pong_seconds = min(heartbeat, _PONG_SECONDS)

    # Hypercorn swallows an interrupt in one of its tasks: the main task gets it instead.
    @enable_ki_protection
    async def __call__(self, scope: Any, receive: Any, send: Any, *_: Any) -> None:
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        client: ClientStream = scope["state"][CLIENT]
        _refuse_compression(send)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cut_when_silent, client)
            await self._app(scope, receive, send)
            nursery.cancel_scope.cancel()
        # Hypercorn would tell the application that the connection is over, and wait for ever where
        # it has no room left for that.
        await client.aclose()
        client.cut()

    @enable_ki_protection
    async def _cut_when_silent(self, client: ClientStream) -> None:
        while True:
            await trio.sleep_until(client.last_heard + self._heartbeat)
            asked = trio.current_time()
            await client.ping()
            await trio.sleep(self._pong_seconds)
            if client.last_heard < asked:
                client.cut()


def _refuse_compression(send: Any) -> None:
    """Have hypercorn not agree to compress, for which it has no option.

    It takes 300 kB a connection, and 64 kB from a client can become 64 MB before their size is
    looked at.
    """
    stream = getattr(send, "__self__", None)
    if isinstance(stream, WSStream):
        stream.handshake.extensions = None


@final
class _LastMessage(h11.Connection):
    """Ignores what follows the last message of a client, so that it still gets its answer.

    h11 takes input after a message that closes the connection for an error, and hypercorn closes
    the connection for that error at once: while the answer is being made or sent.
    """

    def receive_data(self, data: bytes) -> None:
        if not (data and self._has_ended()):
            super().receive_data(data)

    def next_event(self) -> type[h11.NEED_DATA | h11.PAUSED] | h11.Event:
        if self._has_ended():
            return h11.NEED_DATA
        try:
            return super().next_event()
        except h11.RemoteProtocolError:
            if self.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                raise
            # The answer has begun; the connection is closed after it.
            return h11.NEED_DATA

    def _has_ended(self) -> bool:
        if self.their_state is h11.ERROR:
            return self.our_state not in (h11.IDLE, h11.SEND_RESPONSE)
        return self.their_state in (h11.MUST_CLOSE, h11.CLOSED)


class OtherHttpVersionError(Exception):
    """A client began to speak another version; it was told so, and the connection is over."""


@final
class ConnectionServer(TCPServer):
    """Serves one connection over HTTP/1 alone, and serves half-closed requests.

    Without TLS, hypercorn changes over to HTTP/2 whenever a client asks for it, at the start of a
    connection or later, and has no option for that. It then holds each response until the client
    opens its window, shielded from every cancel: one client could keep the server from ever
    stopping. An offer to upgrade is passed over, and so answered over HTTP/1, as RFC 9110 allows.

    An end of input after a whole request is no reason to drop it (RFC 9112, section 9.6).

    Args:
        app: the application.
        config: of the server.
        context: of the server.
        client: the connection.
    """

    def __init__(
        self, app: Any, config: Config, context: WorkerContext, client: ClientStream
    ) -> None:
        state: Any = ConnectionState({CLIENT: client})
        stream: Any = client
        super().__init__(app, config, context, state, stream)
        self._client = client
        self._answered = trio.Event()
        # Until when the head that has begun has to arrive.
        self._head_deadline = inf

    # Where hypercorn keeps what it made, just before the first byte is read.
    @property
    def protocol(self) -> ProtocolWrapper:
        return self._protocol

    @protocol.setter
    def protocol(self, protocol: ProtocolWrapper) -> None:
        self._protocol = protocol
        http: Any = protocol.protocol
        http.connection = _LastMessage(
            h11.SERVER, max_incomplete_event_size=self.config.h11_max_incomplete_size
        )
        http._check_protocol = self._check_version
        http._create_stream = partial(self._create_stream, http)

    async def _read_data(self) -> None:
        http: Any = self._protocol.protocol
        while True:
            data: bytes | bytearray | None = None
            try:
                with trio.move_on_at(self._head_deadline):
                    data = await self.stream.receive_some(2**16)
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                break
            if data is None:
                break
            if not data and _is_unanswered(http):
                await self._answered.wait()
            await self._protocol.handle(RawData(bytes(data)))
            if not data:
                break
            if http.connection.their_state is h11.IDLE and http.connection.trailing_data[0]:
                # Half a head has come.
                deadline = trio.current_time() + _HEAD_SECONDS
                self._head_deadline = min(self._head_deadline, deadline)
        await self._protocol.handle(Closed())
        if http.stream is None:
            # Hypercorn would keep the connection until it has idled for long enough.
            await self._client.aclose()
            self._client.cut()

    async def protocol_send(self, event: Any) -> None:
        await super().protocol_send(event)
        stream: Any = self._protocol.protocol.stream  # type: ignore[union-attr]
        accepted = isinstance(stream, WSStream) and stream.handshake.accepted
        if accepted or isinstance(event, Closed) or (isinstance(event, Updated) and event.idle):
            self._answered.set()

    async def _check_version(self, request: h11.Request) -> None:
        if request.http_version not in (b"1.0", b"1.1"):
            await self.stream.send_all(_OTHER_VERSION)
            raise OtherHttpVersionError

    async def _create_stream(self, http: H11Protocol, request: h11.Request) -> None:
        self._answered = trio.Event()
        self._head_deadline = inf
        await H11Protocol._create_stream(http, request)
        stream: Any = http.stream
        if isinstance(stream, WSStream):
            frames = _Frames(stream, self._client)
            stream.handle = frames.handle  # type: ignore[method-assign]


def _is_unanswered(http: Any) -> bool:
    """Whether a whole request came that is not answered yet."""
    if isinstance(http.stream, WSStream):
        # It is closed where hypercorn itself refused the handshake.
        return not (http.stream.handshake.accepted or http.stream.closed)
    return http.connection.their_state in (h11.DONE, h11.MUST_CLOSE)


@final
class _Frames:
    """Handles the frames of a WebSocket client in place of hypercorn, which has no bounds.

    Other tasks run between any few frames, the fragments of a message are bounded, and the bytes
    that wait for the application are counted.
    """

    def __init__(self, stream: WSStream, client: ClientStream) -> None:
        self._stream = stream
        self._client = client
        # Of the message that is arriving.
        self._fragments = 0
        self._size = 0

    async def handle(self, event: Event) -> None:
        """Hand on what happens to a WebSocket.

        Raises:
            h11.RemoteProtocolError: the client sent frames before its handshake was answered.
                Hypercorn would answer with 400 while the application is accepting, and both would
                go on writing.
        """
        if not isinstance(event, Data):
            await WSStream.handle(self._stream, event)
            return
        if not self._stream.handshake.accepted:
            raise h11.RemoteProtocolError("frames came before the handshake was answered")
        if not self._stream.closed:
            self._stream.connection.receive_data(event.data)
            await self._handle_frames()

    async def _handle_frames(self) -> None:
        stream = self._stream
        for number, event in enumerate(stream.connection.events(), 1):
            if isinstance(event, Message):
                code = await self._take(event)
                if code:
                    await stream._send_wsproto_event(CloseConnection(code=code))
                    return
            elif isinstance(event, Ping):
                await stream._send_wsproto_event(event.response())
            elif isinstance(event, CloseConnection):
                if stream.connection.state == State.REMOTE_CLOSING:
                    await stream._send_wsproto_event(event.response())
                await stream.send(StreamClosed(stream_id=stream.stream_id))
            if number % _FRAMES_A_TURN == 0:
                await trio.lowlevel.checkpoint()

    async def _take(self, event: Message[Any]) -> int:
        """Take a fragment of a message; return the code to close with, or 0."""
        stream = self._stream
        try:
            stream.buffer.extend(event)
            self._client.inbound.add(len(event.data))
        except FrameTooLargeError:
            return _TOO_BIG
        except Refusal:
            return _BUSY
        self._fragments += 1
        self._size += len(event.data)
        if self._size < _FRAGMENT_SIZE * (self._fragments - _FREE_FRAGMENTS):
            return _POLICY
        if event.message_finished:
            self._fragments = self._size = 0
            put: Any = stream.app_put
            await put(stream.buffer.to_message())
            stream.buffer.clear()
        return 0
