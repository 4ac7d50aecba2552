"""A WebSocket, as whatever is spoken over it sees it."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import Any, final

import trio
from quart import Websocket

from .._protocol import CloseCode
from ._client import CLIENT, ClientStream
from ._drain import Drain
from ._frames import frame_of

_INBOX_MESSAGES = 10
"""Messages from a client that may wait to be looked at before it has to wait itself: as many as
with a Quart before 0.23. Each may be as long as a message can be."""


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


@final
class Connection:
    """One accepted WebSocket.

    The task that serves it is cancelled when the client goes away. That is noticed only while
    what the client sends is received, so a task has to be receiving at all times.

    Attributes:
        draining: set when the server is about to stop: then say so, and close with 1001.
    """

    def __init__(self, websocket: Websocket, drain: Drain, max_size: int) -> None:
        self.draining = drain.begun
        self._websocket = websocket
        self._max_size = max_size
        self._closed = False
        # Where the server is ours there is a shorter way than by Quart and hypercorn.
        self._client: ClientStream | None = websocket.scope.get("state", {}).get(CLIENT)

    async def receive(self) -> str | bytes:
        """Return the next message from the client; a cancel loses none.

        Raises:
            CloseConnection: it is too long.
        """
        # Quart takes an empty binary message for none at all.
        message: str | bytes | None = await self._websocket.receive()
        if message is None:
            return b""
        if len(message) > self._max_size:
            raise CloseConnection(
                CloseCode.TOO_BIG, f"a message may have at most {self._max_size} bytes"
            )
        return message

    async def send(self, *messages: str | bytes) -> None:
        """Send messages; several tasks may send at once, and each message arrives whole.

        Waits while the client reads slowly, and not even a cancel ends that: the server's write
        deadline does.
        """
        if self._client is not None:
            # Where it is gone, whoever serves it is cancelled.
            with suppress(trio.BrokenResourceError):
                await self._client.send_frames(b"".join(map(frame_of, messages)))
        else:
            for message in messages:
                await self._websocket.send(message)
        # Without a client, or with one that takes it all, sending is over at once.
        await trio.lowlevel.checkpoint()

    async def close(self, code: int, reason: str = "") -> None:
        """Close the connection; closing again does nothing.

        Args:
            code: the WebSocket close code.
            reason: what the client is told, at most 123 bytes.
        """
        if not self._closed:
            self._closed = True
            await self._websocket.close(code, reason)
        await trio.lowlevel.checkpoint()


@final
class Inbox:
    """What a client sent and nobody looked at yet: a queue that lets the client wait.

    Stands in for the `Websocket.buffer` of Quart since 0.23, which grows without bound; before,
    there was no such attribute, and the queue had a bound of its own.
    """

    def __init__(self) -> None:
        self._messages: deque[Any] = deque()
        self._room = trio.Semaphore(_INBOX_MESSAGES)
        self._waiting = trio.Semaphore(0)

    async def put(self, message: object) -> None:
        await self._room.acquire()
        self._messages.append(message)
        self._waiting.release()

    async def get(self) -> Any:
        await self._waiting.acquire()
        self._room.release()
        return self._messages.popleft()

    def disconnect(self) -> None:
        """Do nothing: whoever receives is cancelled."""
