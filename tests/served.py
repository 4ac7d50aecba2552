"""A bus that is really served, on loopback, and clients for it that can misbehave."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import resource
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import hypercorn.trio
import trio
from hypercorn.config import Config
from quart_trio import QuartTrio

from trio_watchbus import InMemoryWatchBus
from trio_watchbus.abc import WatchBus
from trio_watchbus.testing import assert_nothing_left
from trio_watchbus.web import ServerOptions, WebOptions, drain, serve, watchbus_blueprint

SECONDS = 30
"""How long anything may take before a test gives up: far longer than it does."""

WAYS = ["plain", "hypercorn", "mounted"]
"""How a request comes to its handler: by the loop that a connection of `serve` begins in, by the
hypercorn that it is handed to, or by a blueprint on a Quart-Trio application that hypercorn serves
as it comes."""

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


async def until(condition: Callable[[], object]) -> None:
    """Return once `condition` holds."""
    with trio.fail_after(SECONDS):
        while not condition():  # noqa: ASYNC110, what is waited for tells nobody
            await trio.sleep(0.002)


async def until_at(bus: WatchBus, position: str) -> None:
    """Return once this process knows of a position of its bus, and whoever watches is there."""
    await until(lambda: bus.position == position and caught_up(bus))


def caught_up(bus: WatchBus) -> bool:
    """Whether all that this process knows of was handed on to who watches."""
    return getattr(bus.statistics(), "behind", 0) == 0


def resident_size() -> int:
    """Return how many bytes of memory this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Response(NamedTuple):
    """What a server answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The code of the error that it tells."""
        code = self.json["error"]["code"]
        assert isinstance(code, str)
        assert self.json["error"]["detail"]
        return code


class Event(NamedTuple):
    """One event of a stream of them, as the standard has it parsed."""

    id: str
    event: str
    data: str | None
    retry: int | None


class Client:
    """A connection to the server, of which the test writes each byte."""

    def __init__(
        self, connection: trio.socket.SocketType, stream: trio.abc.Stream, way: str = "plain"
    ) -> None:
        self._prefix = "/bus" if way == "mounted" else ""
        # A tab is not plain.
        self._headers = {"X-Way": "a\tb"} if way == "hypercorn" else {}
        self._socket = connection
        self.stream = stream
        self._buffer = b""
        self._chunked = False
        # Of a stream of events: what was not parsed yet, and where the client would resume.
        self._text = ""
        self._last_id = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.vanish()

    def vanish(self) -> None:
        """Close the socket."""
        self._socket.close()

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def _more(self) -> None:
        with trio.fail_after(SECONDS):
            data = await self.stream.receive_some(65536)
        if not data:
            raise EOFError
        self._buffer += data

    async def read(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        while len(self._buffer) < count:
            await self._more()
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    async def read_until(self, end: bytes) -> bytes:
        """Return what comes up to `end`, and `end`."""
        while end not in self._buffer:
            await self._more()
        return await self.read(self._buffer.index(end) + len(end))

    async def is_closed(self) -> None:
        """Return once the server has closed the connection, whatever it says before."""
        try:
            while True:
                await self._more()
                self._buffer = b""
        except (EOFError, trio.BrokenResourceError):
            pass

    # HTTP

    async def head(self) -> Response:
        """Return the status and headers of a response; its body is to be read yet."""
        status, *lines = (await self.read_until(b"\r\n\r\n")).decode("latin1").split("\r\n")
        headers = {}
        for line in lines:
            if line:
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
        self._chunked = headers.get("transfer-encoding") == "chunked"
        return Response(int(status.split()[1]), headers, b"")

    async def response(self) -> Response:
        """Return a response with its body, however that ends."""
        head = await self.head()
        if "content-length" in head.headers:
            return head._replace(body=await self.read(int(head.headers["content-length"])))
        body = b""
        while chunk := await self.chunk():
            body += chunk
        return head._replace(body=body)

    async def chunk(self) -> bytes:
        """Return the next chunk of a body; an empty one ends it."""
        assert self._chunked
        size = int(await self.read_until(b"\r\n"), 16)
        data = await self.read(size + 2)
        assert data.endswith(b"\r\n")
        return data[:-2]

    async def request(
        self,
        target: str,
        method: str = "GET",
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send a whole request."""
        fields = {"Host": "127.0.0.1", **self._headers, **(headers or {})}
        if body or method == "POST":
            fields.setdefault("Content-Length", str(len(body)))
        lines = [
            f"{method} {self._prefix}{target} HTTP/1.1",
            *(f"{k}: {v}" for k, v in fields.items()),
        ]
        await self.send("\r\n".join([*lines, "", ""]).encode("latin1") + body)

    async def stream_events(self, target: str, **headers: str) -> Event:
        """Ask for a stream; return its first event, after which the watch is open."""
        await self.request(target, headers=headers)
        head = await self.head()
        assert head.status == 200, head
        assert head.headers["content-type"] == "text/event-stream"
        return await self.event()

    async def event(self) -> Event:
        """Return the next event of a stream, also one without data; or raise that it has ended."""
        event = Event(self._last_id, "", None, None)
        while True:
            while "\n" not in self._text:
                chunk = await self.chunk()
                if not chunk:
                    raise EOFError
                self._text += chunk.decode()
            line, _, self._text = self._text.partition("\n")
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            match name:
                case "":
                    return event
                case "id":
                    self._last_id = value
                    event = event._replace(id=value)
                case "event":
                    event = event._replace(event=value)
                case "retry":
                    event = event._replace(retry=int(value))
                case "data":
                    before = "" if event.data is None else f"{event.data}\n"
                    event = event._replace(data=before + value)
                case _:
                    raise AssertionError(f"no field of an event: {line!r}")

    async def message_event(self) -> Event:
        """Return the next event that is no bookmark."""
        with trio.fail_after(SECONDS):
            while True:
                event = await self.event()
                if event.data is not None:
                    return event

    # WebSocket

    async def upgrade(self, target: str, **headers: str) -> Response:
        """Ask for a WebSocket, and return the head of the answer."""
        await self.upgrade_request(target, **headers)
        return await self.head()

    async def upgrade_request(self, target: str, **headers: str) -> None:
        """Ask for a WebSocket."""
        await self.request(
            target,
            headers={
                "Upgrade": "websocket",
                "Connection": "Upgrade",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
                **headers,
            },
        )

    async def send_frame(self, opcode: int, payload: bytes = b"", **how: Any) -> None:
        await self.send(frame(opcode, payload, **how))

    async def frame(self) -> tuple[int, bytes]:
        """Return the opcode and payload of the next frame."""
        first, second = await self.read(2)
        assert first & 0x80, "fragmented"
        assert not second & 0x80, "masked"
        length = second
        if length == 126:
            (length,) = struct.unpack("!H", await self.read(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", await self.read(8))
        return first & 0x0F, await self.read(length)

    async def message(self) -> str | bytes:
        """Return the next message, answering pings."""
        while True:
            opcode, payload = await self.frame()
            if opcode == PING:
                await self.send_frame(PONG, payload)
            elif opcode == TEXT:
                return payload.decode()
            else:
                assert opcode == BINARY, (opcode, payload)
                return payload

    async def close_code(self) -> int:
        """Return the code that the server closes with, whatever it says before."""
        while True:
            opcode, payload = await self.frame()
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big")


def frame(
    opcode: int, payload: bytes = b"", *, final: bool = True, mask: bool = True, reserved: int = 0
) -> bytes:
    """Return a WebSocket frame as a client sends it."""
    first = opcode | reserved << 4 | (0x80 if final else 0)
    flag = 0x80 if mask else 0
    if len(payload) < 126:
        head = struct.pack("!BB", first, flag | len(payload))
    elif len(payload) < 65536:
        head = struct.pack("!BBH", first, flag | 126, len(payload))
    else:
        head = struct.pack("!BBQ", first, flag | 127, len(payload))
    if not mask:
        return head + payload
    # A mask of zeros leaves the payload as it is.
    return head + bytes(4) + payload


class Server:
    """A bus that is served.

    Attributes:
        bus: the bus.
        bind: where to listen.
        url: where it is.
        stop: set to have the server drain.
        stopped: set once it has stopped.
    """

    def __init__(
        self,
        bus: InMemoryWatchBus,
        bind: str = "127.0.0.1:0",
        context: ssl.SSLContext | None = None,
        way: str = "plain",
    ) -> None:
        self.bus = bus
        self.way = way
        self._context = context
        self.bind = bind
        self.url = ""
        self.stop = trio.Event()
        self.stopped = trio.Event()
        self._scope = trio.CancelScope()

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def watches(self) -> int:
        return self.bus.statistics().watches

    async def connect(
        self, receive_buffer: int | None = None, address: str = "127.0.0.1", *, clear: bool = False
    ) -> Client:
        """Open a connection.

        Args:
            receive_buffer: bytes that it may hold unread, for the system to make much of.
            address: where to.
            clear: whether to speak no TLS, though the server does.
        """
        connection = trio.socket.socket()
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            with trio.fail_after(SECONDS):
                await connection.connect((address, self.port))
        except BaseException:
            connection.close()
            raise
        stream = trio.SocketStream(connection)
        if self._context is None or clear:
            return Client(connection, stream, self.way)
        return Client(
            connection,
            trio.SSLStream(stream, self._context, server_hostname=address, https_compatible=True),
        )

    async def refuses(self) -> None:
        """Return once the server accepts no connection."""
        with (
            trio.fail_after(SECONDS),
            contextlib.suppress(ConnectionRefusedError, ConnectionResetError),
        ):
            while True:
                (await self.connect()).vanish()
                # As a client learns it: a server tells nobody when it begins to refuse.
                await trio.sleep(0.002)

    async def admits(self) -> None:
        """Return once the server has room for another connection."""
        with trio.fail_after(SECONDS):
            while True:
                with contextlib.suppress(EOFError, trio.BrokenResourceError):
                    if (await self.ask("/healthz")).status == 200:
                        return
                # Nor when it has room.
                await trio.sleep(0.002)

    async def ask(
        self,
        target: str,
        method: str = "GET",
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Return the whole response to one request."""
        async with await self.connect() as client:
            await client.request(target, method, body, headers)
            if method == "HEAD":
                return await client.head()
            return await client.response()

    def cancel(self) -> None:
        """Cancel the server, instead of having it drain."""
        self.stop.set()
        self._scope.cancel()

    async def run(
        self,
        options: ServerOptions | None = None,
        *,
        task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve."""
        with self._scope:
            if self.way == "mounted":
                await self._run_mounted(options, task_status)
            else:
                await self._run_serve(options, task_status)
        self.stopped.set()

    async def _run_mounted(
        self, options: WebOptions | None, task_status: trio.TaskStatus[list[str]]
    ) -> None:
        app = QuartTrio(__name__)
        routes = watchbus_blueprint(self.bus, options)
        app.register_blueprint(routes, url_prefix="/bus")
        config = Config.from_mapping(
            bind=self.bind,
            errorlog=None,
            graceful_timeout=SECONDS,
            include_server_header=False,
        )

        async def stopping() -> None:
            await self.stop.wait()
            drain(routes)

        await hypercorn.trio.serve(app, config, shutdown_trigger=stopping, task_status=task_status)

    async def _run_serve(
        self, options: ServerOptions | None, task_status: trio.TaskStatus[list[str]]
    ) -> None:
        await serve(
            self.bus,
            bind=self.bind,
            options=options,
            shutdown_trigger=self.stop.wait,
            task_status=task_status,
        )


@asynccontextmanager
async def served(
    bus: InMemoryWatchBus | None = None,
    bind: str = "127.0.0.1:0",
    context: ssl.SSLContext | None = None,
    way: str = "plain",
    **options: Any,
) -> AsyncIterator[Server]:
    """Serve a bus; at the end assert that it still is, and that nothing is left of its clients.

    Args:
        bus: the bus, a new one unless given.
        bind: where to listen.
        context: what clients trust, where the server speaks TLS.
        way: one of `WAYS`.
        **options: see `ServerOptions`.
    """
    # So that a connection which does not end by itself fails the test.
    options = {"grace": 2 * SECONDS, **options}
    bus = InMemoryWatchBus() if bus is None else bus
    async with assert_nothing_left(), trio.open_nursery() as nursery:
        server = Server(bus, bind, context, way)
        urls = await nursery.start(partial(server.run, ServerOptions(**options)))
        server.url = urls[0]
        yield server
        if not server.stop.is_set():
            await until(lambda: not server.watches)
            await assert_serves(server)
            server.stop.set()
        with trio.fail_after(SECONDS):
            await server.stopped.wait()
    assert bus.statistics().watches == 0
    assert bus.statistics().trie_nodes == 0


async def assert_serves(server: Server) -> None:
    """Assert that a client of `server` receives what another one publishes."""
    async with await server.connect() as client:
        await client.stream_events("/sse?key=still/serves")
        response = await server.ask("/publish?key=still/serves", "POST", b"yes")
        assert response.status == 200
        assert (await client.message_event()).data == "yes"
    await until(lambda: not server.watches)
