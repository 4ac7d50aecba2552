"""One connection to a served bus, from its first packet to its last.

The only module that imports trio-websocket.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import final

import trio
from trio_websocket import (
    CloseReason,
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
    wrap_client_stream,
)
from wsproto.utilities import ProtocolError

from .. import _protocol as protocol
from ._address import Address

_GOODBYE_SECONDS = 0.5
"""How long closing in good order may take; a server that does not answer is left without."""

_MAX_FRAME_SIZE = 64 * 1024 * 1024
"""Bytes of one frame that are accepted, beside what a message of the server's may take."""

_ESCAPED = 6
"""Bytes that one of data takes at most, as JSON."""

_RECEIVE_SIZE = 256 * 1024
"""Bytes read from the socket at once: a whole frame of messages."""

_QUEUED_FRAMES = 8
"""Frames that may wait for the one before to be understood, while more are read."""

_HOPELESS_STATUS = {401: "it wants another token", 403: "it does not allow it"}
_HOPELESS_CLOSE: dict[int, str] = {
    protocol.CloseCode.UNAUTHENTICATED: "it wants another token",
    protocol.CloseCode.FORBIDDEN: "it does not allow it",
    protocol.CloseCode.MALFORMED: "it does not understand this client; are both of one version?",
}


class LinkError(Exception):
    """A connection could not be made, or has ended.

    Attributes:
        hopeless: whether it is no use to try again.
    """

    def __init__(self, reason: str, *, hopeless: bool = False) -> None:
        super().__init__(reason)
        self.hopeless = hopeless


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """How connections are made and watched over.

    Attributes:
        address: where to.
        headers: further headers of the request; a secret may be among them.
        ssl_context: for TLS; None where the address is spoken to without.
        connect_timeout: seconds until the server has to have said its first word.
        heartbeat: seconds of silence after which the server is asked whether it is there.
        heartbeat_timeout: seconds that it may take to answer.
    """

    address: Address
    headers: tuple[tuple[bytes, bytes], ...]
    ssl_context: ssl.SSLContext | None
    connect_timeout: float
    heartbeat: float
    heartbeat_timeout: float

    def __repr__(self) -> str:
        return f"<LinkOptions for {self.address}>"


@final
class Link:
    """One connection: frames out by `send`, answers in by what `run` is given.

    One task sends, and no send is ever cancelled but by the end of the connection: half a frame
    would spoil all that follow.
    """

    def __init__(self, options: LinkOptions) -> None:
        self._options = options
        self._outbox: deque[str] = deque()
        self._wake = trio.Event()
        self._goodbye = trio.Event()

    def send(self, frame: str) -> None:
        """Have `frame` sent after those before it."""
        self._outbox.append(frame)
        self._wake.set()

    def withdraw(self, frame: str) -> bool:
        """Have `frame` not sent; return whether that is still possible."""
        try:
            self._outbox.remove(frame)
        except ValueError:
            return False
        return True

    def close(self) -> None:
        """Have the connection closed in good order; `run` returns then, within half a second."""
        self._goodbye.set()

    async def run(
        self, greet: Callable[[protocol.Hello], None], take: Callable[[protocol.Answer], None]
    ) -> None:
        """Connect, and hand on what the server says, until `close` was called.

        Args:
            greet: gets the server's first word, once the connection stands.
            take: gets each answer that follows.

        Raises:
            LinkError: the connection could not be made, or has ended.
        """
        deadline = trio.current_time() + self._options.connect_timeout
        with self._in_time(deadline):
            socket = await self._open_stream()
        stream = _AttentiveStream(socket)
        try:
            async with trio.open_nursery() as nursery:
                with self._in_time(deadline):
                    websocket = await self._shake_hands(nursery, stream)
                    hello = await _first_word(websocket)
                    # It wants to be told before the server could say it.
                    websocket._max_message_size += _ESCAPED * hello.max_message_size
                    greet(hello)
                nursery.start_soon(self._send_all, websocket)
                nursery.start_soon(self._watch_over, stream)
                nursery.start_soon(self._close_when_told, websocket)
                await self._receive_all(websocket, take)
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # During the handshake, trio-websocket fails in more ways than it means to.
            told, others = group.split(_EXPECTED if stream.open else Exception)
            if told is None or others is not None:
                raise
            raise _explained(told) from None
        finally:
            await trio.aclose_forcefully(socket)

    @contextmanager
    def _in_time(self, deadline: float) -> Iterator[None]:
        try:
            with trio.fail_at(deadline):
                yield
        except trio.TooSlowError:
            raise LinkError(f"no answer within {self._options.connect_timeout:g} seconds") from None

    async def _open_stream(self) -> trio.abc.Stream:
        address = self._options.address
        try:
            stream = await trio.open_tcp_stream(address.host, address.port)
        except OSError as error:
            raise LinkError(_reason(error)) from None
        if self._options.ssl_context is None:
            return stream
        secured = trio.SSLStream(
            stream,
            self._options.ssl_context,
            server_hostname=address.host,
            https_compatible=True,
        )
        try:
            await secured.do_handshake()
        except BaseException as error:
            await trio.aclose_forcefully(secured)
            if isinstance(error, trio.BrokenResourceError):
                raise LinkError(f"no TLS: {error.__cause__ or error}") from None
            raise
        return secured

    async def _shake_hands(
        self, nursery: trio.Nursery, stream: _AttentiveStream
    ) -> WebSocketConnection:
        websocket = await wrap_client_stream(
            nursery,
            stream,  # type: ignore[arg-type]
            self._options.address.authority,
            self._options.address.resource,
            subprotocols=[protocol.SUBPROTOCOL],
            extra_headers=[*self._options.headers],
            message_queue_size=_QUEUED_FRAMES,
            max_message_size=_MAX_FRAME_SIZE,
            receive_buffer_size=_RECEIVE_SIZE,
        )
        if websocket.subprotocol != protocol.SUBPROTOCOL:
            raise LinkError(f"it does not speak {protocol.SUBPROTOCOL}")
        stream.open = True
        return websocket

    async def _send_all(self, websocket: WebSocketConnection) -> None:
        # Whoever receives notices too that the connection has ended, and says why.
        with suppress(ConnectionClosed, ProtocolError):
            while True:
                while not self._outbox:
                    self._wake = trio.Event()
                    await self._wake.wait()
                await websocket.send_message(self._outbox.popleft())

    async def _receive_all(
        self, websocket: WebSocketConnection, take: Callable[[protocol.Answer], None]
    ) -> None:
        while True:
            try:
                frame = await websocket.get_message()
            except ConnectionClosed:
                if self._goodbye.is_set():
                    return
                raise
            take(_parse(frame))

    async def _watch_over(self, stream: _AttentiveStream) -> None:
        """Ask whether the server is there when it is silent, and give up when it stays so."""
        while True:
            due = stream.heard + self._options.heartbeat
            if trio.current_time() < due:
                await trio.sleep_until(due)
                continue
            self.send(protocol.encode(protocol.Ping()))
            with trio.move_on_after(self._options.heartbeat_timeout) as patience:
                await stream.next_word()
            if patience.cancelled_caught:
                silence = trio.current_time() - stream.heard
                raise LinkError(f"nothing was heard for {silence:.1f} seconds")

    async def _close_when_told(self, websocket: WebSocketConnection) -> None:
        await self._goodbye.wait()
        with trio.move_on_after(_GOODBYE_SECONDS):
            await websocket.aclose()


@final
class _AttentiveStream(trio.abc.Stream):
    """A stream that knows when something came, and fails when it ends before it is open.

    A WebSocket connection waits for ever where the stream ends during its handshake.

    Attributes:
        heard: the time, on Trio's clock, at which something came.
        open: whether the handshake is over.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.heard = trio.current_time()
        self.open = False
        self._awaited = trio.Event()

    async def next_word(self) -> None:
        """Return when something comes."""
        self._awaited = trio.Event()
        await self._awaited.wait()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            data = await self._stream.receive_some(max_bytes)
        except trio.BrokenResourceError as error:
            if self.open:
                raise
            raise LinkError(f"it broke the connection off: {error.__cause__ or error}") from None
        if not data and not self.open:
            raise LinkError("it closed the connection without an answer")
        self.heard = trio.current_time()
        self._awaited.set()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()
        if not self.open:
            raise LinkError("it does not answer as a WebSocket server does")


_EXPECTED = (
    LinkError,
    ConnectionClosed,
    ConnectionRejected,
    ProtocolError,
    protocol.MalformedFrameError,
)


async def _first_word(websocket: WebSocketConnection) -> protocol.Hello:
    hello = _parse(await websocket.get_message())
    if not isinstance(hello, protocol.Hello):
        raise protocol.MalformedFrameError("it does not begin with its greeting")
    return hello


def _parse(frame: str | bytes) -> protocol.Answer:
    if isinstance(frame, bytes):
        raise protocol.MalformedFrameError("a binary frame")
    return protocol.parse_answer(frame)


def _explained(group: BaseExceptionGroup[BaseException]) -> LinkError:
    """Return what the first of a connection's errors means."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    match error:
        case LinkError():
            return error
        case ConnectionRejected(status_code=404):
            return LinkError("no bus is served at this path (HTTP status 404)")
        case ConnectionRejected(status_code=status):
            hopeless = _HOPELESS_STATUS.get(status)
            return LinkError(
                f"{hopeless or 'it refuses'} (HTTP status {status})", hopeless=hopeless is not None
            )
        case ConnectionClosed(reason=CloseReason(code=code, reason=said)):
            hopeless = _HOPELESS_CLOSE.get(code)
            return LinkError(
                f"{hopeless or 'it closed the connection'} (WebSocket code {code}, {said!r})",
                hopeless=hopeless is not None,
            )
        case ConnectionClosed():
            return LinkError("the connection was closed")
        case protocol.MalformedFrameError() | ProtocolError():
            return LinkError(f"what it said makes no sense: {error}")
    return LinkError("it does not answer as a WebSocket server does")


def _reason(error: OSError) -> str:
    """Return in a few words why there is no connection."""
    cause: BaseException = error
    # Trio tries all addresses of a name, and groups what came of it.
    while isinstance(cause.__cause__, BaseException):
        cause = cause.__cause__
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
    return getattr(cause, "strerror", None) or str(cause)
