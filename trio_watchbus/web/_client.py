"""The connection of one client, between hypercorn and the socket."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any, final

import trio

_MAX_BYTES = 64 * 1024

CLIENT = "trio_watchbus.client"
"""Where the state of a request holds the `ClientStream` that it came by, if it came by one."""

_PING = b"\x89\x00"

_GONE = (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError)

_CLOSING_SECONDS = 1.0
"""Seconds for which a client that was told to go may go on sending. Closing at once would reset the
connection, and the client might never read why."""


@final
class ClientStream(trio.abc.HalfCloseableStream):
    """A stream that hypercorn reads and writes, with what it leaves out.

    - It pings over WebSocket, and knows when the client was last heard: hypercorn pings without
      looking for an answer, and for a while after the client has gone.
    - What comes after a WebSocket close frame was sent is thrown away. Hypercorn, having closed
      for a message that was too long, would go on gathering the rest of it.
    - Closing waits a moment for the client to have read everything.
    - It can be cut at once and synchronously, even while hypercorn shields a send, and is when
      sending fails: hypercorn would wait for ever to hand on what such a client sent before.

    Args:
        stream: a `trio.SocketStream`, or a `trio.SSLStream` over one.

    Attributes:
        scope: for all that is done for this client.
        address: the client's, without its port.
        is_tls: whether the stream speaks TLS.
        last_heard: when something came from the client, by Trio's clock.
    """

    def __init__(self, stream: Any) -> None:
        self.scope = trio.CancelScope()
        self._stream = stream
        self.is_tls = isinstance(stream, trio.SSLStream)
        transport = stream.transport_stream if self.is_tls else stream
        self._socket: trio.socket.SocketType = transport.socket
        self.address: str = self._socket.getpeername()[0]
        self.last_heard = trio.current_time()
        self._is_websocket = False
        self._closing = False
        self._is_read_out = False
        # Set while nobody is receiving.
        self._idle = trio.Event()
        self._idle.set()
        self._sending = trio.Lock()

    def __getattr__(self, name: str) -> Any:
        # What hypercorn asks for to find out whether this is TLS, and by which protocol.
        return getattr(self._stream, name)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        self._idle = trio.Event()
        try:
            if not self._closing:
                data: bytes = await self._stream.receive_some(max_bytes)
                self.last_heard = trio.current_time()
                if not self._closing:
                    return data
            await self._read_out()
        finally:
            self._idle.set()
        return b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_websocket:
            # Hypercorn sends each frame by itself. This one is a close frame.
            self._closing = self._closing or data[0] & 0x0F == 0x08
        elif data[:12] == b"HTTP/1.1 101":
            self._is_websocket = True
        await self._write(data)
        await trio.lowlevel.checkpoint()

    async def send_chunk(self, data: bytes) -> None:
        """Send a chunk of a chunked response that hypercorn began, past hypercorn.

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
        if self.is_tls or self._sending.locked():
            with trio.CancelScope(shield=True):
                await self._sending.acquire()
        else:
            sent = self._write_some(data)
            if sent == len(data):
                return
            self._sending.acquire_nowait()
        try:
            with trio.CancelScope(shield=True):
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

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        self._closing = True
        try:
            await self._leave()
        finally:
            await self._stream.aclose()

    def cut(self) -> None:
        """Close the socket, and cancel all that is done for this client."""
        self._socket.close()
        self.scope.cancel()

    async def _leave(self) -> None:
        """Tell the client that this is the end, and let it read up to there."""
        if not self.is_tls:
            with suppress(*_GONE):
                await self._stream.send_eof()
                if self._idle.is_set():
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
                while await self._stream.receive_some(_MAX_BYTES):
                    pass
