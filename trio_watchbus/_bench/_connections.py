"""Many connections in one thread, by epoll: a load client that is not the bottleneck.

Trio's own streams take some ten times as long for each read; what is measured is the server.
"""

from __future__ import annotations

import base64
import json
import os
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self, final
from urllib.parse import quote, urlsplit

from ._stamp import MarkReader

_READ_SIZE = 256 * 1024
_OPENED_AT_ONCE = 100
"""Connections that are opened before the first of them is waited for: less than what servers let
wait to be accepted."""
_TIMEOUT = 30.0
"""Seconds that the server may take to answer a request before that is an error."""

_PING = b"\x89"
_PONG = 0x8A
_MASKED = 0x80
_LONGEST_SHORT_FRAME = 125


class BenchError(Exception):
    """The bus or server did not do what the run needs; the message says what to do."""


@final
class Poller:
    """Calls back whoever has something to read."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}

    def __enter__(self) -> Self:
        """Return the poller itself."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop; the sockets stay open."""
        self._epoll.close()

    def add(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call `callback` whenever `descriptor` is readable."""
        self._callbacks[descriptor] = callback
        self._epoll.register(descriptor, select.EPOLLIN)

    def remove(self, descriptor: int) -> None:
        """Call nobody for `descriptor` any more."""
        del self._callbacks[descriptor]
        self._epoll.unregister(descriptor)

    def poll(self, seconds: float) -> None:
        """Wait at most so long, and call back."""
        for descriptor, _ in self._epoll.poll(max(0.0, seconds)):
            self._callbacks[descriptor]()


@final
class Deliveries:
    """What all streams together received.

    Attributes:
        count: messages.
        latencies: seconds from publish to read, of the oldest message in each read.
        first_sent: when the first one timed was published; monotonic clock.
        last_read: when the last one was read.
        ended: streams that the server ended.
    """

    def __init__(self) -> None:
        self.count = 0
        self.latencies: list[float] = []
        self.first_sent: float | None = None
        self.last_read = 0.0
        self.ended = 0

    @property
    def seconds(self) -> float:
        """From the first publish to the last delivery."""
        return 0.0 if self.first_sent is None else self.last_read - self.first_sent


@dataclass(frozen=True, slots=True)
class Opening:
    """What a client says to be served, and how it knows that it is.

    Attributes:
        steps: what to send, and what stands in the answer once the next step may follow.
    """

    steps: tuple[tuple[bytes, bytes], ...]


@final
class Server:
    """The address of a server, and the requests that are understood there.

    Args:
        url: ``http://host:port``.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise BenchError(f"the load clients speak plain http://HOST:PORT, not {parts.scheme}")
        self.address = (parts.hostname, parts.port or 80)
        self._head = f"HTTP/1.1\r\nHost: {parts.netloc.rpartition('@')[2]}\r\n"

    def sse(self, key: str, ready: bytes = b"\nid:") -> Opening:
        """Return how to open an SSE stream of `key`."""
        request = f"GET /sse?key={quote(key)} {self._head}Accept: text/event-stream\r\n\r\n"
        return Opening(((request.encode(), ready),))

    def websocket(self, key: str) -> Opening:
        """Return how to open a WebSocket that gets each message of `key` as one frame."""
        return Opening(((self._upgrade(f"/ws?key={quote(key)}"), b"\r\n\r\n"),))

    def watchbus_v1(self, key: str) -> Opening:
        """Return how to open a WebSocket that watches `key` by ``watchbus.v1``."""
        upgrade = self._upgrade("/ws", "Sec-WebSocket-Protocol: watchbus.v1\r\n")
        watch = masked_text(json.dumps({"op": "watch", "id": 1, "key": key}).encode())
        return Opening(((upgrade, b"\r\n\r\n"), (watch, b'"watching"')))

    def publish(self, key: str, data: bytes) -> bytes:
        """Return a request that publishes one message."""
        target = f"/publish?key={quote(key)}"
        return self._post(target, "application/octet-stream", data)

    def publish_batch(self, messages: Iterable[tuple[str, bytes]]) -> bytes:
        """Return a request that publishes some messages of plain ASCII."""
        lines = "".join(
            f'{{"key":{json.dumps(key)},"data":"{data.decode("ascii")}"}}\n'
            for key, data in messages
        )
        return self._post("/publish", "application/x-ndjson", lines.encode())

    def _post(self, target: str, kind: str, body: bytes) -> bytes:
        head = f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        return f"POST {target} {self._head}{head}".encode() + body

    def _upgrade(self, target: str, headers: str = "") -> bytes:
        nonce = base64.b64encode(os.urandom(16)).decode()
        return (
            f"GET {target} {self._head}{headers}Upgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {nonce}\r\n\r\n"
        ).encode()


def masked_text(text: bytes) -> bytes:
    """Return a client's WebSocket frame of at most 125 bytes of text."""
    if len(text) > _LONGEST_SHORT_FRAME:
        raise ValueError(f"{len(text)} bytes need a longer header")
    # A mask of zeros leaves the text as it is.
    return bytes([0x81, _MASKED | len(text), 0, 0, 0, 0]) + text


@final
class Stream:
    """One connection that receives messages."""

    __slots__ = ("_deliveries", "_poller", "_reader", "_socket", "_steps")

    def __init__(self, server: Server, opening: Opening) -> None:
        self._socket = socket.create_connection(server.address, _TIMEOUT)
        self._steps = list(opening.steps)
        self._reader = MarkReader()
        self._socket.sendall(self._steps[0][0])

    def finish_opening(self) -> None:
        """Go through the opening's steps; the first request has been sent."""
        received = b""
        while True:
            wanted = self._steps[0][1]
            while wanted not in received:
                more = self._socket.recv(_READ_SIZE)
                received += more
                status = received.partition(b"\r\n")[0]
                refused = status.startswith(b"HTTP/") and status[9:12] not in {b"101", b"200"}
                if not more or refused:
                    raise BenchError(f"the server refused a stream: {received[-200:]!r}")
            del self._steps[0]
            if not self._steps:
                return
            received = b""
            self._socket.sendall(self._steps[0][0])

    def listen(self, poller: Poller, deliveries: Deliveries) -> None:
        """Count from now on what is received."""
        self._poller = poller
        self._deliveries = deliveries
        poller.add(self._socket.fileno(), self._read)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _read(self) -> None:
        data = self._socket.recv(_READ_SIZE)
        deliveries = self._deliveries
        if not data:
            self._poller.remove(self._socket.fileno())
            deliveries.ended += 1
            return
        reader = self._reader
        before = reader.count
        sent = reader.feed(data)
        if reader.count != before:
            now = time.monotonic()
            deliveries.count += reader.count - before
            deliveries.last_read = now
            if sent is not None:
                if deliveries.first_sent is None:
                    deliveries.first_sent = sent
                deliveries.latencies.append(now - sent)
        if _PING in data:
            self._answer_ping(data, data.index(_PING))

    def _answer_ping(self, data: bytes, start: int) -> None:
        """Send a pong for what looks like a ping: there is nothing else like it but for lengths."""
        size = data[start + 1] if len(data) > start + 1 else 0
        if size <= _LONGEST_SHORT_FRAME:
            payload = data[start + 2 : start + 2 + size]
            self._socket.sendall(bytes([_PONG, _MASKED | len(payload), 0, 0, 0, 0]) + payload)


@contextmanager
def open_streams(
    server: Server, openings: Sequence[Opening], poller: Poller, deliveries: Deliveries
) -> Iterator[None]:
    """Hold a stream for each of `openings`, all of them served and listening.

    Args:
        server: where.
        openings: how to open each.
        poller: what reads from them; it is polled meanwhile, so that those opened first are not
            cut for their silence while others are opened.
        deliveries: where what they receive is counted.

    Raises:
        BenchError: the server refused one.
        OSError: it cannot be reached.
    """
    streams: list[Stream] = []
    try:
        for start in range(0, len(openings), _OPENED_AT_ONCE):
            streams += [
                Stream(server, opening) for opening in openings[start : start + _OPENED_AT_ONCE]
            ]
            for stream in streams[start:]:
                stream.finish_opening()
                stream.listen(poller, deliveries)
            poller.poll(0)
        yield
    finally:
        for stream in streams:
            stream.close()


@final
class Requester:
    """A kept-alive HTTP connection with at most one request under way.

    Where the answer says that the server closes it, as proxies do after so many requests, another
    one takes its place.

    Args:
        server: where to.
        poller: what it is called back by.
        answered: called with it whenever a request was answered.

    Attributes:
        busy: whether an answer is awaited.
        messages: how many messages the last request carried.
        sent: when it was sent; monotonic clock.
    """

    __slots__ = (
        *("_answered", "_poller", "_received", "_server", "_socket"),
        *("busy", "messages", "sent"),
    )

    def __init__(
        self,
        server: Server,
        poller: Poller,
        answered: Callable[[Requester], None] = lambda _: None,
    ) -> None:
        self._server = server
        self._poller = poller
        self._received = b""
        self._answered = answered
        self.busy = False
        self.messages = 0
        self.sent = 0.0
        self._connect()

    def send(self, request: bytes, messages: int) -> None:
        """Send a request that carries so many messages."""
        self.busy = True
        self.messages = messages
        self.sent = time.monotonic()
        self._socket.sendall(request)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _connect(self) -> None:
        self._socket = socket.create_connection(self._server.address, _TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._poller.add(self._socket.fileno(), self._read)

    def _read(self) -> None:
        data = self._socket.recv(_READ_SIZE)
        if not data:
            raise BenchError("the server closed the connection that publishes")
        received = self._received = self._received + data
        head, end, body = received.partition(b"\r\n\r\n")
        if not end:
            return
        if not head.startswith(b"HTTP/1.1 2"):
            raise BenchError(f"the server refused to publish: {received[:300]!r}")
        if len(body) < _content_length(head):
            return
        if b"\r\nconnection: close" in head.lower():
            self._poller.remove(self._socket.fileno())
            self._socket.close()
            self._connect()
        self._received = b""
        self.busy = False
        self._answered(self)


def _content_length(head: bytes) -> int:
    lowered = head.lower()
    at = lowered.find(b"\r\ncontent-length:")
    return 0 if at < 0 else int(lowered[at + 17 :].partition(b"\r\n")[0])
