"""Serving a bus with hypercorn: in the caller's nursery, and to a good end."""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from ssl import SSLContext
from typing import Any, final

import h11
import trio
from hypercorn.trio.worker_context import WorkerContext

from ..abc import WatchBus
from ._answer import Refusal, last_answer
from ._app import App
from ._asgi import AsgiApp
from ._client import ClientStream
from ._connection import serve_plain
from ._ends import Ends
from ._hypercorn import (
    ConnectionServer,
    OtherHttpVersionError,
    WebSocketGuard,
    log_request,
    make_config,
)
from ._listen import Bind, open_socket, url_of
from ._options import ServerOptions
from ._session import max_frame_size

logger = logging.getLogger("trio_watchbus.web")

_FULL = last_answer(
    Refusal(503, "server_full", "this server has as many connections as it takes; try again later")
)
_TOO_MANY = last_answer(
    Refusal(
        429,
        "too_many_connections",
        "your address has as many connections to this server as it may; close one, or try again"
        " later",
    )
)


@trio.lowlevel.enable_ki_protection
async def serve(
    bus: WatchBus,
    *,
    bind: str = "127.0.0.1:8000",
    options: ServerOptions | None = None,
    shutdown_trigger: Callable[[], Awaitable[object]] | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `bus` over HTTP until told to stop: ``urls = await nursery.start(serve, bus)``.

    Args:
        bus: the bus that is served; it stays the caller's to close.
        bind: ``host:port`` or ``[address]:port`` to listen at; port 0 takes one that is free.
        options: what the server allows; the defaults unless given.
        shutdown_trigger: called once the server is up; when what it returns is done, the server
            drains: it stops accepting, ends each stream with a last event or close frame, lets
            requests finish, and returns when all have, at the latest after ``options.grace``.
        task_status: started with the URLs, once connections are accepted.

    Raises:
        ValueError: `bind` is not an address to listen at, or other machines would reach it and
            may not.
        OSError: the address or port cannot be had, or a TLS file cannot be read.
        ssl.SSLError: a TLS file is not what it should be.

    A cancel stops the server at once, without the drain, and leaves nothing behind.
    """
    options = ServerOptions() if options is None else options
    place = Bind.parse(bind)
    listening = await trio.to_thread.run_sync(
        partial(
            open_socket,
            place,
            write_timeout=options.write_timeout,
            allow_anonymous=options.allow_anonymous,
        )
    )
    options = replace(options, allowed_hosts={*options.allowed_hosts, place.host})
    await serve_socket(bus, listening, options, shutdown_trigger, task_status)


@trio.lowlevel.enable_ki_protection
async def serve_socket(
    bus: WatchBus,
    listening: socket.socket,
    options: ServerOptions,
    shutdown_trigger: Callable[[], Awaitable[object]] | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """As `serve`, on a socket that listens already; closes it."""
    config = make_config(options, max_frame_size(bus))
    with listening, closing(Ends()) as ends:
        tls = config.create_ssl_context()
        url = url_of(listening, tls=tls is not None)
        clients = _Clients(App(bus, options), ends, config, options)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ends.run)
            async with trio.open_nursery() as connections:
                try:
                    async with trio.open_nursery() as accepting:
                        accepting.start_soon(
                            partial(
                                trio.serve_listeners,
                                clients.serve,
                                [_listener(listening, tls)],
                                handler_nursery=connections,
                            )
                        )
                        task_status.started([url])
                        await (shutdown_trigger or trio.sleep_forever)()
                        accepting.cancel_scope.cancel()
                    with trio.move_on_after(options.grace):
                        await clients.drain()
                finally:
                    # Sends to clients that do not read are shielded from the cancel.
                    clients.cut_all()
                    connections.cancel_scope.cancel()
            nursery.cancel_scope.cancel()


def _listener(listening: socket.socket, tls: SSLContext | None) -> trio.abc.Listener[Any]:
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
    return listener if tls is None else trio.SSLListener(listener, tls, https_compatible=True)


@final
class _Clients:
    """The connections of a server."""

    def __init__(self, app: App, ends: Ends, config: Any, options: ServerOptions) -> None:
        self._app = app
        self._config = config
        self._options = options
        self._ends = ends
        self._asgi = WebSocketGuard(AsgiApp(app, ends), options.heartbeat)
        self._log = log_request if options.access_log else None
        self._context = WorkerContext(None)
        self._open: set[ClientStream] = set()
        # Connections of each address.
        self._admitted: Counter[str] = Counter()
        self._count = 0
        self._changed = trio.Event()

    # An interrupt reaches the main task, which cancels this one in good order.
    @trio.lowlevel.enable_ki_protection
    async def serve(self, stream: Any) -> None:
        """Serve one connection to its end."""
        try:
            client = ClientStream(stream, self._app.budget)
        except OSError:
            # Gone before it was looked at.
            return
        self._open.add(client)
        try:
            with client.scope:
                await self._admit(client)
        except* (OtherHttpVersionError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except* (h11.ProtocolError, UnicodeDecodeError) as group:
            # The client's fault, and for it hypercorn has no answer.
            logger.debug("a client broke the protocol: %s", group.exceptions[0])
        except* Exception:
            # One client's connection is not to end all others'.
            logger.exception("a connection failed")
        finally:
            client.cut()
            self._open.discard(client)
            self._changed.set()

    async def _admit(self, client: ClientStream) -> None:
        address = client.address
        if self._count >= self._options.max_connections:
            await _refuse(client, _FULL)
            return
        if self._admitted[address] >= self._options.max_connections_per_address:
            await _refuse(client, _TOO_MANY)
            return
        self._count += 1
        self._admitted[address] += 1
        try:
            if client.is_tls:
                with trio.fail_after(self._config.ssl_handshake_timeout):
                    await client.do_handshake()
            rest = await serve_plain(
                client, self._app, self._ends, self._options.keep_alive, self._log
            )
            if rest is None:
                await client.aclose()
                return
            client.unread(rest)
            await ConnectionServer(self._asgi, self._config, self._context, client)
        except trio.TooSlowError:
            # The handshake took too long.
            pass
        finally:
            self._count -= 1
            self._admitted[address] -= 1
            if not self._admitted[address]:
                del self._admitted[address]

    async def drain(self) -> None:
        """Close what idles, and wait until all have ended."""
        self._app.drain.begin()
        await self._context.terminated.set()
        while self._open:
            self._changed = trio.Event()
            await self._changed.wait()

    def cut_all(self) -> None:
        """Cut all that are left."""
        for client in self._open:
            client.cut()


async def _refuse(client: ClientStream, answer: bytes) -> None:
    """Send `answer`, whatever is asked, without a look at it."""
    if client.is_tls:
        # A handshake would cost more than what is refused.
        client.cut()
        return
    try:
        await client.send_all(answer)
    finally:
        await client.aclose()
