"""A WebSocket, as whatever is spoken over it sees it."""

from __future__ import annotations

import logging
from base64 import b64decode
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol, cast, final

import trio
from trio.lowlevel import enable_ki_protection

from .._protocol import CloseCode
from ._answer import Refusal
from ._budget import Budget
from ._client import ClientStream
from ._request import Request

logger = logging.getLogger("trio_watchbus.web")

_TEXT = 0x81
_BINARY = 0x82
"""Whole messages: the first frame is the last one."""


class CloseConnection(Exception):  # noqa: N818
    """Raised in a handler: ends the connection with this code and reason.

    Attributes:
        code: the WebSocket close code.
        reason: what the client is told, at most 123 bytes.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Socket(Protocol):
    """An accepted WebSocket of whatever server runs the application.

    `ping` is None where the server has no way to send pings.
    """

    ping: Callable[[], Awaitable[None]] | None

    async def receive(self) -> str | bytes:
        """Return the next message; raises `CloseConnection` when the client has left."""
        ...

    async def send(self, message: str | bytes, /) -> None: ...
    async def close(self, code: int, reason: str, /) -> None: ...


@final
class Connection:
    """One accepted WebSocket.

    That the client has gone is noticed only while what it sends is received, so a task has to be
    receiving at all times.

    Args:
        socket: the WebSocket.
        draining: set when the server is about to stop: then say so, and close with 1001.
        max_size: bytes, or characters, of a message that the client may send.
        budget: counts the bytes of the message that was received last.
        client: the connection's `ClientStream`, where the server is ours: a shorter way to send.
    """

    def __init__(
        self,
        socket: Socket,
        draining: trio.Event,
        max_size: int,
        budget: Budget,
        client: ClientStream | None,
    ) -> None:
        self.draining = draining
        self._socket = socket
        self._max_size = max_size
        self._hold = budget.hold()
        self._client = client

    async def receive(self) -> str | bytes:
        """Return the next message from the client; a cancel loses none.

        Raises:
            CloseConnection: it is too long, or the client has left, or the server has no room.
        """
        self._hold.release()
        message = await self._socket.receive()
        if len(message) > self._max_size:
            raise CloseConnection(
                CloseCode.TOO_BIG, f"a message may have at most {self._max_size} bytes"
            )
        try:
            self._hold.add(len(message))
        except Refusal as refusal:
            raise CloseConnection(1013, "the server is busy; try again later") from refusal
        return message

    async def send(self, *messages: str | bytes) -> None:
        """Send messages; several tasks may send at once, and each message arrives whole.

        Waits while the client reads slowly, and not even a cancel ends that: the server's write
        deadline does.
        """
        if self._client is not None:
            # If it is gone, the task that serves it is cancelled.
            with suppress(trio.BrokenResourceError):
                await self._client.send_frames(b"".join(map(frame_of, messages)))
        else:
            for message in messages:
                await self._socket.send(message)
        # Without a client, or with one that takes it all, sending is over at once.
        await trio.lowlevel.checkpoint()

    async def serve(
        self, handler: Callable[[Connection], Awaitable[None]], heartbeat: float
    ) -> None:
        """Run `handler` until it raises `CloseConnection`, then close the connection.

        Args:
            handler: what is spoken over the connection.
            heartbeat: seconds between pings.
        """
        ending = CloseConnection(1000, "")
        try:
            async with trio.open_nursery() as nursery:
                if self._socket.ping is not None:
                    nursery.start_soon(_ping, self._socket.ping, heartbeat)
                await handler(self)
                nursery.cancel_scope.cancel()
        except* CloseConnection as group:
            ending = _first(group)
        except* Exception:
            # A framework would close as if all were well, and lose the error beside a cancel.
            logger.exception("a WebSocket connection failed")
            ending = CloseConnection(CloseCode.FAULT, "a fault of the server")
        finally:
            self._hold.release()
        await self._socket.close(ending.code, ending.reason)


@enable_ki_protection
async def _ping(ping: Callable[[], Awaitable[None]], heartbeat: float) -> None:
    while True:
        await trio.sleep(heartbeat)
        await ping()


def check_handshake(request: Request) -> None:
    """Return if the key of a handshake is one.

    Raises:
        Refusal: it is not.
    """
    key = request.headers.get("sec-websocket-key", "")
    try:
        length = len(b64decode(key, validate=True))
    except ValueError:
        length = 0
    if length != 16:
        raise Refusal(400, "invalid_handshake", "Sec-WebSocket-Key must be 16 bytes in base64")


def frame_of(message: str | bytes) -> bytes:
    """Return `message` as one frame: text as text, bytes as binary; neither masked nor compressed.

    By RFC 6455, section 5.2.
    """
    kind, data = (_TEXT, message.encode()) if isinstance(message, str) else (_BINARY, message)
    size = len(data)
    if size < 126:
        return b"%c%c%b" % (kind, size, data)
    if size < 1 << 16:
        return b"%c\x7e%b%b" % (kind, size.to_bytes(2), data)
    return b"%c\x7f%b%b" % (kind, size.to_bytes(8), data)


def _first(group: BaseExceptionGroup[Any]) -> CloseConnection:
    """Return one of the exceptions in a group, however deep."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return cast("CloseConnection", error)
