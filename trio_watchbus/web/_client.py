"""The connection of one client: what HTTP is spoken over, ours or hypercorn's."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any, final

import trio

from ._answer import Refusal
from ._budget import Budget, Hold

_MAX_BYTES = 64 * 1024

CLIENT = "trio_watchbus.client"
"""Where the state of a request holds the `ClientStream` that it came by."""

_PING = b"\x89\x00"

_GONE = (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError)

_CLOSING_SECONDS = 1.0
"""Seconds for which a client that was told to go may go on sending. Closing at once would reset the
connection, and the client might never read why."""


@final
class ClientStream(trio.abc.HalfCloseableStream):
    """A stream over a socket, with what hypercorn does not do.

    - It pings over WebSocket, and knows when the client was last heard: hypercorn pings without
      looking for an answer, and for a while after the client has gone.
    - What comes after a WebSocket close frame was sent is thrown away. Hypercorn, having closed
      for a message that was too long, would go on gathering the rest of it.
    - Closing waits a moment for the client to have read everything.
    - It can be cut at once and synchronously, even while hypercorn shields a send, and is when
      sending fails: hypercorn would wait for ever to hand on what such a client sent before.
    - What waits for the client to read it is counted in the server's budget.

    Args:
        stream: a `trio.SocketStream`, or a `trio.SSLStream` over one.
        budget: counts bytes in flight.

    Attributes:
        scope: for all that is done for this client.
        address: the client's, without its port.
        is_tls: whether the stream speaks TLS.
        last_heard: when something came from the client, by Trio's clock.
        inbound: the bytes of WebSocket messages that were received and not looked at.
    """

    __slots__ = (
        "_budget",
        "_closing",
        "_idle",
        "_is_read_out",
        "_is_websocket",
        "_left",
        "_sending",
        "_socket",
        "_stream",
        "_transport",
        "_unread",
        "address",
        "inbound",
        "is_tls",
        "last_heard",
        "scope",
    )

    def __init__(self, stream: Any, budget: Budget) -> None:
        self.scope = trio.CancelScope()
        self._stream = stream
        self.is_tls = isinstance(stream, trio.SSLStream)
        self._transport: trio.SocketStream = stream.transport_stream if self.is_tls else stream
        self._socket: trio.socket.SocketType = self._transport.socket
        self.address: str = self._socket.getpeername()[0]
        self.last_heard = trio.current_time()
        self.inbound: Hold = budget.hold()
        self._budget = budget
        self._is_websocket = False
        self._closing = False
        self._is_read_out = False
        # Set once the client was let read everything; None before somebody closes.
        self._left: trio.Event | None = None
        self._unread = b""
        # Set while nobody is receiving; None before somebody did.
        self._idle: trio.Event | None = None
        # Held while the socket takes no more; None before that.
        self._sending: trio.Lock | None = None

    def __getattr__(self, name: str) -> Any:
        # What hypercorn asks for to find out whether this is TLS, and by which protocol.
        return getattr(self._stream, name)

    @property
    def server(self) -> tuple[str, int]:
        """The address and port that the client connected to."""
        host, port = self._socket.getsockname()[:2]
        return host, port

    def fileno(self) -> int:
        """Return the descriptor of the socket; -1 once it is closed."""
        return self._socket.fileno()

    def unread(self, data: bytes) -> None:
        """Have `data`, which was received, received again first."""
        self._unread = data

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._unread:
            data, self._unread = self._unread, b""
            await trio.lowlevel.checkpoint()
            return data
        idle = self._idle = trio.Event()
        try:
            if not self._closing:
                received: bytes = await self._stream.receive_some(max_bytes)
                self.last_heard = trio.current_time()
                if not self._closing:
                    return received
            await self._read_out()
        finally:
            idle.set()
        return b""

    async def receive_first(self) -> bytes:
        """Receive for the loop that serves plain requests: nobody closes meanwhile."""
        if self.is_tls:
            data: bytes = await self._stream.receive_some(_MAX_BYTES)
            return data
        # Trio's stream would try to read first, where mostly nothing has come yet.
        await trio.lowlevel.wait_readable(self._socket.fileno())
        try:
            return os.read(self._socket.fileno(), _MAX_BYTES)
        except OSError as error:
            raise trio.BrokenResourceError("the client is gone") from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_websocket:
            # Hypercorn sends each frame by itself. This one is a close frame.
            self._closing = self._closing or data[0] & 0x0F == 0x08
        elif data[:12] == b"HTTP/1.1 101":
            self._is_websocket = True
        await self._write(data)
        await trio.lowlevel.checkpoint()

    async def send(self, data: bytes) -> None:
        """Send `data`. Not a checkpoint where the socket takes it at once."""
        await self._write(data)

    async def send_chunk(self, data: bytes) -> None:
        """Send a chunk of a chunked response.

        Not a checkpoint where the socket takes it at once.
        """
        await self._write(b"%x\r\n%b\r\n" % (len(data), data))

    async def send_frames(self, frames: bytes) -> None:
        """Send whole WebSocket frames past hypercorn; after a close frame, nothing.

        Not a checkpoint where the socket takes them at once.
        """
        if not self._closing:
            await self._write(frames)

    async def ping(self) -> None:
        """Ask a WebSocket client for a sign of life."""
        if not self._closing:
            with suppress(*_GONE):
                await self.send_all(_PING)

    async def _write(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`, and nothing of anyone else's amid it; a cancel does not stop it.

        Trio's way to the socket takes as long as the socket itself, so that comes first.
        """
        sent = 0
        if not self.is_tls and (self._sending is None or not self._sending.locked()):
            sent = self._write_some(data)
            if sent == len(data):
                return
        if self._sending is None:
            self._sending = trio.Lock()
        with self._waiting(len(data) - sent), trio.CancelScope(shield=True):
            if self._sending.locked():
                await self._sending.acquire()
            else:
                self._sending.acquire_nowait()
            try:
                await self._stream.send_all(memoryview(data)[sent:])
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self.cut()
                raise trio.BrokenResourceError("the client is gone") from error
            finally:
                self._sending.release()

    def _write_some(self, data: bytes | bytearray | memoryview) -> int:
        """Send as much of `data` as the socket takes now; return how many bytes."""
        try:
            return os.write(self._socket.fileno(), data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self.cut()
            raise trio.BrokenResourceError("the client is gone") from error

    def _waiting(self, size: int) -> Hold:
        """Return a hold of `size` bytes that wait for the client; cut it if there is no room."""
        hold = self._budget.hold()
        try:
            hold.add(size)
        except Refusal as refusal:
            self.cut()
            raise trio.BrokenResourceError("too much waits for slow clients") from refusal
        return hold

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        self._closing = True
        try:
            if self._left is None:
                self._left = trio.Event()
                try:
                    await self._leave()
                finally:
                    self._left.set()
            else:
                # Hypercorn closes from several tasks. Whoever does it second must not cut short
                # what the client is reading.
                await self._left.wait()
        finally:
            await self._stream.aclose()

    def cut(self) -> None:
        """Close the socket, and cancel all that is done for this client."""
        self._socket.close()
        self.scope.cancel()
        self.inbound.release()

    async def _leave(self) -> None:
        """Tell the client that this is the end, and let it read up to there.

        Closing a socket with unread input resets the connection, and a reset discards what the
        client has not read yet. Over TLS the end is told without a close_notify, as in HTTPS.
        """
        with suppress(*_GONE):
            await self._transport.send_eof()
            if self._idle is None or self._idle.is_set():
                await self._read_out()
            else:
                # Whoever is receiving reads out.
                with trio.move_on_after(_CLOSING_SECONDS):
                    await self._idle.wait()

    async def _read_out(self) -> None:
        """Throw away what the client still sends, until it ends or its time is up."""
        if not self._is_read_out:
            self._is_read_out = True
            with trio.move_on_after(_CLOSING_SECONDS), suppress(*_GONE):
                while await self._transport.receive_some(_MAX_BYTES):
                    pass
