"""One connection to a served bus, from connecting to closing."""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import final

import trio
from trio.lowlevel import enable_ki_protection

from .. import _protocol as protocol
from ._address import Address
from ._websocket import EXCERPT, ClosedError, RefusedError, TooLong, WebSocket, WebSocketError

_GOODBYE_SECONDS = 0.5
"""How long the closing handshake may take; after that the connection is dropped."""

_PART = 256 * 1024
"""Characters of a frame that are parsed at once, whatever they are: under 2 ms."""

_MAX_STRINGS = 200_000
"""Strings, names of fields included, in a frame that is longer: it is parsed in one step, in under
10 ms. The keys of 200,000 watches, or many times the messages that a frame may have."""

_PERMANENT_STATUS = {401: "it rejects the token", 403: "it does not allow access"}
_PERMANENT_CLOSE: dict[int | None, str] = {
    protocol.CloseCode.UNAUTHENTICATED: "it rejects the token",
    protocol.CloseCode.FORBIDDEN: "it does not allow access",
    protocol.CloseCode.MALFORMED: "it does not understand this client: upgrade the older one",
}


class LinkError(Exception):
    """A connection could not be made, or has ended.

    Attributes:
        permanent: whether trying again cannot help.
    """

    def __init__(self, reason: str, *, permanent: bool = False) -> None:
        super().__init__(reason)
        self.permanent = permanent


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """How connections are made and monitored.

    Attributes:
        address: the server's.
        headers: further headers of the request; a secret may be among them.
        ssl_context: for TLS; None for an address without.
        connect_timeout: seconds until the server's hello has to be there.
        heartbeat: seconds of silence after which the client pings.
        heartbeat_timeout: seconds that the server then has to send something.
        max_frame_size: bytes of one frame of the server that are read.
    """

    address: Address
    headers: tuple[tuple[bytes, bytes], ...]
    ssl_context: ssl.SSLContext | None
    connect_timeout: float
    heartbeat: float
    heartbeat_timeout: float
    max_frame_size: int

    def __repr__(self) -> str:
        return f"<LinkOptions for {self.address}>"


@final
class Link:
    """One connection: frames out by `send`, answers in by the callbacks of `run`.

    One task sends, and only the end of the connection cancels a send: half a frame would corrupt
    the stream.
    """

    def __init__(self, options: LinkOptions) -> None:
        self._options = options
        self._outbox: deque[str] = deque()
        self._wake = trio.Event()
        self._goodbye = trio.Event()

    @enable_ki_protection
    def send(self, frame: str) -> None:
        """Queue `frame` for sending."""
        self._outbox.append(frame)
        self._wake.set()

    def withdraw(self, frame: str) -> bool:
        """Take `frame` out of the queue; return whether it was still there."""
        try:
            self._outbox.remove(frame)
        except ValueError:
            return False
        return True

    def close(self) -> None:
        """Begin the closing handshake; `run` returns within half a second."""
        self._goodbye.set()

    async def run(
        self,
        greet: Callable[[protocol.Hello], None],
        take: Callable[[protocol.Answer], None],
        skip: Callable[[protocol.SkippedFrame], None],
    ) -> None:
        """Connect, and pass on what the server sends, until `close` is called.

        Args:
            greet: called with the server's hello, once connected.
            take: called with each answer that follows.
            skip: called with what is known of each frame that was not parsed.

        Raises:
            LinkError: the connection could not be made, or has ended.
        """
        deadline = trio.current_time() + self._options.connect_timeout
        socket = None
        try:
            with self._in_time(deadline):
                socket = await self._open_stream()
            stream = _MonitoredStream(socket)
            websocket = WebSocket(stream, self._options.max_frame_size)
            async with trio.open_nursery() as nursery:
                with self._in_time(deadline):
                    await self._open_websocket(nursery, websocket, stream)
                    greet(await _receive_hello(websocket))
                nursery.start_soon(self._send_all, websocket)
                nursery.start_soon(self._monitor, stream)
                nursery.start_soon(self._close_when_told, websocket, nursery.cancel_scope)
                await self._receive_all(websocket, take, skip)
                nursery.cancel_scope.cancel()
        except _EXPECTED as error:
            raise _explained(error) from None
        except BaseExceptionGroup as group:
            expected, others = group.split(_EXPECTED)
            if expected is None or others is not None:
                raise
            raise _explained(expected) from None
        finally:
            if socket is not None:
                await _drop(socket)

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
        try:
            secured = trio.SSLStream(
                stream,
                self._options.ssl_context,
                server_hostname=address.host,
                https_compatible=True,
            )
            await secured.do_handshake()
        except BaseException as error:
            await _drop(stream)
            if isinstance(error, trio.BrokenResourceError):
                raise LinkError(f"the TLS handshake failed: {error.__cause__ or error}") from None
            raise
        return secured

    async def _open_websocket(
        self, nursery: trio.Nursery, websocket: WebSocket, stream: _MonitoredStream
    ) -> None:
        try:
            await websocket.open(
                nursery,
                self._options.address.authority,
                self._options.address.resource,
                [*self._options.headers],
                protocol.SUBPROTOCOL,
            )
        except WebSocketError:
            if stream.broken is not None:
                raise LinkError(f"the connection broke: {stream.broken}") from None
            raise

    @enable_ki_protection
    async def _send_all(self, websocket: WebSocket) -> None:
        # The task that receives notices the end of the connection too, and reports it.
        with suppress(ClosedError):
            while True:
                while not self._outbox:
                    self._wake = trio.Event()
                    await self._wake.wait()
                await websocket.send(self._outbox.popleft())

    async def _receive_all(
        self,
        websocket: WebSocket,
        take: Callable[[protocol.Answer], None],
        skip: Callable[[protocol.SkippedFrame], None],
    ) -> None:
        while True:
            try:
                frame = await websocket.receive()
            except ClosedError:
                if self._goodbye.is_set():
                    return
                raise
            answer = await self._read(frame)
            if isinstance(answer, protocol.SkippedFrame):
                skip(answer)
            elif answer is not None:
                take(answer)

    async def _read(
        self, frame: str | bytes | TooLong
    ) -> protocol.Answer | protocol.SkippedFrame | None:
        """Parse a frame; other tasks run between the parts of the work that a large one is."""
        if isinstance(frame, TooLong):
            return protocol.parse_skipped(
                f"the server sent a frame of {frame.size} bytes, and max_frame_size is"
                f" {self._options.max_frame_size}: open the bus with a larger one",
                frame.start,
                frame.end,
            )
        if len(frame) <= _PART or isinstance(frame, bytes):
            return _parse(frame)
        strings = 0
        for start in range(0, len(frame), _PART):
            # An escaped quote does not begin or end a string.
            part = frame[start : start + _PART]
            strings += part.count('"') - part.count('\\"')
            await trio.lowlevel.checkpoint()
        if strings > 2 * _MAX_STRINGS:
            return protocol.parse_skipped(
                f"the server sent a frame of more than {_MAX_STRINGS} strings",
                frame[:EXCERPT],
                frame[-EXCERPT:],
            )
        answer = _parse(frame)
        await trio.lowlevel.checkpoint()
        return answer

    @enable_ki_protection
    async def _monitor(self, stream: _MonitoredStream) -> None:
        """Ping the server when it is silent, and fail when it stays so."""
        while True:
            due = stream.last_received + self._options.heartbeat
            if trio.current_time() < due:
                await trio.sleep_until(due)
                continue
            self.send(protocol.encode(protocol.Ping()))
            with trio.move_on_after(self._options.heartbeat_timeout) as patience:
                await stream.received()
            if patience.cancelled_caught:
                silence = trio.current_time() - stream.last_received
                raise LinkError(f"it sent nothing for {silence:.1f} seconds")

    @enable_ki_protection
    async def _close_when_told(self, websocket: WebSocket, scope: trio.CancelScope) -> None:
        await self._goodbye.wait()
        with trio.move_on_after(_GOODBYE_SECONDS):
            await websocket.close()
        scope.cancel()


@final
class _MonitoredStream(trio.abc.Stream):
    """A stream that records when something was received.

    Attributes:
        last_received: the time of that, on Trio's clock.
        broken: what broke it, if anything did.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.last_received = trio.current_time()
        self.broken: BaseException | None = None
        self._event = trio.Event()

    async def received(self) -> None:
        """Wait until something is received."""
        self._event = trio.Event()
        await self._event.wait()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            data = await self._stream.receive_some(max_bytes)
        except trio.BrokenResourceError as error:
            self.broken = error.__cause__ or error
            raise
        self.last_received = trio.current_time()
        self._event.set()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


@enable_ki_protection
async def _drop(stream: trio.abc.Stream) -> None:
    """Close a stream at once."""
    await trio.aclose_forcefully(stream)


_EXPECTED = (
    LinkError,
    WebSocketError,
    protocol.MalformedFrameError,
)


async def _receive_hello(websocket: WebSocket) -> protocol.Hello:
    frame = await websocket.receive()
    hello = None if isinstance(frame, TooLong) else _parse(frame)
    if not isinstance(hello, protocol.Hello):
        raise protocol.MalformedFrameError("its first frame is not a hello")
    return hello


def _parse(frame: str | bytes) -> protocol.Answer | None:
    if isinstance(frame, bytes):
        raise protocol.MalformedFrameError("a binary frame")
    return protocol.parse_answer(frame)


def _explained(error: BaseException) -> LinkError:
    """Return `error`, or the first in it if it is a group, as a `LinkError`."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    match error:
        case LinkError():
            return error
        case RefusedError(status=404):
            return LinkError("no bus is served at this path (HTTP status 404)")
        case RefusedError(status=status):
            permanent = _PERMANENT_STATUS.get(status)
            return LinkError(
                f"{permanent or 'it refuses'} (HTTP status {status})",
                permanent=permanent is not None,
            )
        case ClosedError(code=None):
            return LinkError("the connection was closed")
        case ClosedError(code=code, reason=said):
            permanent = _PERMANENT_CLOSE.get(code)
            return LinkError(
                f"{permanent or 'it closed the connection'} (WebSocket code {code}, {said!r})",
                permanent=permanent is not None,
            )
        case protocol.MalformedFrameError():
            return LinkError(f"what it sent makes no sense: {error}")
    return LinkError(str(error))


def _reason(error: OSError) -> str:
    """Return a short reason why there is no connection."""
    cause: BaseException = error
    # Trio tries all addresses of a name, and groups their errors.
    while isinstance(cause.__cause__, BaseException):
        cause = cause.__cause__
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
    return getattr(cause, "strerror", None) or str(cause)
