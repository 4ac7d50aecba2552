"""What hypercorn is told, and what it leaves to the application."""

from __future__ import annotations

import logging
import sys
from typing import Any, final

import trio
from hypercorn.config import Config
from hypercorn.logging import Logger
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.typing import (
    ASGIFramework,
    ASGIReceiveCallable,
    ASGISendCallable,
    ResponseSummary,
    Scope,
)

from ._answer import STATUS
from ._client import CLIENT, ClientStream
from ._options import ServerOptions

_LOGGED = "trio_watchbus.logged"

_PONG_SECONDS = 5.0
"""Seconds that a WebSocket client has to answer a ping, or a heartbeat where that is less."""

_HANDSHAKE_SECONDS = 10.0
"""Seconds that a TLS handshake may take: hypercorn's minute would hold as many connections as are
allowed for those who only begin one."""

logger = logging.getLogger("trio_watchbus.web")
access_logger = logging.getLogger("trio_watchbus.access")


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
    # Without h2: what a client does not read would pile up, as hypercorn waits for no window.
    config.alpn_protocols = ["http/1.1"]
    config.certfile = options.certfile
    config.keyfile = options.keyfile
    config.ssl_handshake_timeout = _HANDSHAKE_SECONDS
    # A program that publishes keeps its connection for as long as it likes.
    config.keep_alive_max_requests = sys.maxsize
    config.websocket_max_message_size = max_frame_size
    # Messages and pieces of bodies that wait for the application, of each connection.
    config.max_app_queue_size = 2
    return config


class _Log(Logger):
    """Logs requests without their query and headers, in which a secret may be."""

    async def access(
        self, request: Any, response: ResponseSummary | None, request_time: float
    ) -> None:
        # Hypercorn logs a response twice when the client closes as soon as it has it.
        if self.access_logger is None or request.get(_LOGGED):
            return
        request[_LOGGED] = True
        client = request["client"]
        self.access_logger.info(
            "%s %s %s %s %.3f",
            "-" if client is None else client[0],
            request.get("method", "WEBSOCKET"),
            # As it came: decoded, it could have line ends in it.
            request["raw_path"].decode("ascii", "backslashreplace"),
            request.get(STATUS, "-") if response is None else response["status"],
            request_time,
        )


@final
class WebSocketGuard:
    """An application whose WebSockets are neither compressed nor silent for long.

    Args:
        app: the application.
        heartbeat: seconds of silence after which a client is asked for a sign of life.
    """

    def __init__(self, app: ASGIFramework, heartbeat: float) -> None:
        self._app = app
        self._heartbeat = heartbeat
        self._pong_seconds = min(heartbeat, _PONG_SECONDS)

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
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
