"""The routes of a served bus, as a blueprint. They know the interface of buses alone."""

from __future__ import annotations

import logging
from base64 import b64decode
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

import quart.wrappers.base
import trio
from quart import Blueprint, Request, Response, Websocket, request, websocket
from quart_trio import QuartTrio

from .._message import Message
from .._protocol import SUBPROTOCOL, CloseCode, encode_message
from ..abc import WatchBus
from ._access import AccessPolicy
from ._answer import Answer, error_answer, json_answer
from ._client import CLIENT
from ._connection import CloseConnection, Connection, Inbox
from ._drain import Drain
from ._formats import Cached, as_text
from ._options import WebOptions
from ._plain import PlainApp
from ._publish import Publishing
from ._query import check_no_query, parse_stream_query
from ._raw import serve_raw
from ._refusal import Refusal, unavailable
from ._session import max_frame_size, serve_session
from ._sse import CONTENT_TYPE, STREAM_HEADERS, json_event, raw_event
from ._stream import EventStream

logger = logging.getLogger("trio_watchbus.web")

_BODY_SECONDS = 30
"""Seconds in which a body has to arrive: the longest batch takes 4.5 Mbit/s for it."""

# Raised by bodies of Quart since 0.23 when the client has gone; before, there was nothing to catch.
_DISCONNECTED: Any = getattr(quart.wrappers.base, "ClientDisconnectedError", ())


class WatchBusBlueprint(Blueprint):
    """The routes ``/sse``, ``/ws``, ``/publish``, ``/healthz`` and ``/readyz`` of one bus.

    Args:
        bus: the bus that is served; it stays the caller's to close.
        options: what the routes allow.
    """

    def __init__(self, bus: WatchBus, options: WebOptions) -> None:
        super().__init__("watchbus", __name__)
        self._bus = bus
        self._options = options
        self._access = AccessPolicy(options)
        self._publishing = Publishing(bus, options)
        self._drain = Drain()
        self._raw_event = Cached(raw_event)
        self._json_event = Cached(json_event)
        self._raw_frame = Cached(_raw_frame)
        self._json_frame = Cached(_json_frame)
        self._json = Cached(encode_message)
        self.add_url_rule("/sse", view_func=self._sse, methods=["GET"])
        self.add_url_rule("/publish", view_func=self._publish, methods=["POST"])
        self.add_url_rule("/healthz", view_func=self._healthz, methods=["GET"])
        self.add_url_rule("/readyz", view_func=self._readyz, methods=["GET"])
        self.add_websocket("/ws", view_func=self._ws)
        # Else the framework answers, on an application that is not ours in its own way.
        self.add_url_rule("/ws", view_func=self._ws_without_upgrade, methods=["GET"])
        self.before_request(self._check_request)
        self.before_websocket(self._check_websocket)
        self.after_request(self._add_headers)
        self.register_error_handler(Exception, answer_error)

    def drain(self) -> None:
        """As the function `drain`."""
        self._drain.begin()

    def plain_beneath(self, app: QuartTrio) -> PlainApp:
        """Return `app`, which has these routes, with a shorter way for plain requests to them.

        What else runs before or after its requests, such as a check of who asks, is passed by.
        """
        # Its `__call__` would be one more frame for as long as a stream is open.
        return PlainApp(
            app.asgi_app, self._publishing, self._open_stream, self._access, self._options
        )

    # Before and after every route

    async def _check_request(self) -> None:
        self._check_access(request)
        if "Content-Length" in request.headers and "Transfer-Encoding" in request.headers:
            raise Refusal(400, "ambiguous_body", "a body has a length or is chunked, not both")

    async def _check_websocket(self) -> None:
        self._check_access(websocket)
        key = websocket.headers.get("Sec-WebSocket-Key", "")
        try:
            length = len(b64decode(key, validate=True))
        except ValueError:
            length = 0
        if length != 16:
            raise Refusal(400, "invalid_handshake", "Sec-WebSocket-Key must be 16 bytes in base64")

    def _check_access(self, asked: Request | Websocket) -> None:
        headers = asked.headers
        self._access.check(
            headers.get("Host", ""), headers.get("Origin"), asked.scope.get("server")
        )

    async def _add_headers(self, response: Response) -> Response:
        self._access.add_headers(request, response)
        return response

    # The routes

    async def _sse(self) -> Response:
        stream = self._open_stream(
            request.query_string, request.headers.get("Last-Event-ID"), _chunk_sender(request)
        )
        if "Accept" in request.headers and not request.accept_mimetypes.quality(CONTENT_TYPE):
            raise Refusal(406, "not_acceptable", f"this route gives {CONTENT_TYPE} alone")
        if request.content_length or "Transfer-Encoding" in request.headers:
            raise Refusal(413, "body_not_allowed", "a stream is asked for without a body")
        _check_http_version(request.http_version)
        if request.method == "HEAD":
            response = Response("", content_type=CONTENT_TYPE, headers=STREAM_HEADERS)
            del response.headers["Content-Length"]
            return response
        response = Response(stream, content_type=CONTENT_TYPE, headers=STREAM_HEADERS)
        # Not to be cut after a minute.
        response.timeout = None
        return response

    def _open_stream(
        self,
        query_string: bytes,
        last_event_id: str | None,
        send_chunk: Callable[[bytes], Awaitable[None]] | None,
    ) -> EventStream:
        query = parse_stream_query(query_string, last_event_id, self._options.max_keys)
        self._check_ready()
        encode = self._json_event if query.json else self._raw_event
        return EventStream(
            self._bus, query, encode, self._drain, self._options.heartbeat, send_chunk
        )

    async def _ws(self) -> None:
        _check_http_version(websocket.http_version)
        socket = cast("Any", websocket)._get_current_object()
        if SUBPROTOCOL in websocket.requested_subprotocols:
            check_no_query(
                websocket.query_string,
                f"over {SUBPROTOCOL} keys are named in messages: leave the query of the URL empty",
            )
            connection = Connection(socket, self._drain, max_frame_size(self._bus))
            serve = partial(serve_session, self._bus, connection, self._options, self._json)
            subprotocol = SUBPROTOCOL
        else:
            query = parse_stream_query(websocket.query_string, None, self._options.max_keys)
            self._check_ready()
            connection = Connection(socket, self._drain, self._options.max_inbound_size)
            encode = self._json_frame if query.json else self._raw_frame
            serve = partial(serve_raw, self._bus, connection, query, encode, self._drain)
            subprotocol = None
        socket.buffer = Inbox()
        await websocket.accept(subprotocol=subprotocol)
        ending = CloseConnection(1000, "")
        try:
            await serve()
        except* CloseConnection as group:
            ending = _first(group)
        except* Exception:
            # The framework would close as if all were well, and lose the error beside a cancel.
            logger.exception("a WebSocket connection failed")
            ending = CloseConnection(CloseCode.FAULT, "a fault of the server")
        await connection.close(ending.code, ending.reason)

    async def _ws_without_upgrade(self) -> Response:
        _check_http_version(request.http_version)
        raise Refusal(
            426,
            "upgrade_required",
            "this is a WebSocket route: connect with ws:// or wss://; a proxy in between has to"
            " pass on the headers Upgrade and Connection",
        )

    async def _publish(self) -> Response:
        return _response(
            await self._publishing.publish(
                request.mimetype,
                request.query_string,
                request.headers.get("Idempotency-Key"),
                partial(_read_body, self._publishing.max_size(request.mimetype)),
            )
        )

    async def _healthz(self) -> Response:
        return _response(json_answer({"status": "ok"}))

    async def _readyz(self) -> Response:
        self._check_ready()
        return _response(json_answer({"status": "ok"}))

    def _check_ready(self) -> None:
        if self._drain.begun.is_set():
            raise Refusal(503, "draining", "this server is about to stop")
        if not self._bus.statistics().connected:
            raise unavailable()


def watchbus_blueprint(bus: WatchBus, options: WebOptions | None = None) -> Blueprint:
    """Return the routes ``/sse``, ``/ws``, ``/publish``, ``/healthz`` and ``/readyz`` of `bus`.

    They are a blueprint, to register on any Quart-Trio application; of several on one, each needs a
    name of its own: ``app.register_blueprint(routes, url_prefix="/other", name="other")``.

    Args:
        bus: the bus that is served; it stays the caller's to close.
        options: what the routes allow; the defaults unless given.

    Returns:
        the blueprint. Hooks of your own (``before_request``) run after its checks of ``Host`` and
        ``Origin``, and before the routes; `drain` ends its streams.

    Nothing is raised: options are checked when they are made, and names when it is registered.
    """
    return WatchBusBlueprint(bus, WebOptions() if options is None else options)


def drain(routes: Blueprint) -> None:
    """End every stream of `routes`: a last event or close frame tells the client to come back.

    To be called before the server that runs the application stops. From then on new streams are
    refused. Again does nothing.

    Args:
        routes: what `watchbus_blueprint` returned.

    Raises:
        TypeError: it is another blueprint.
    """
    # A function, as type checkers cannot see all of Quart's class, and so none that is made of it.
    if not isinstance(routes, WatchBusBlueprint):
        raise TypeError("only the routes of a bus can be drained: what watchbus_blueprint returns")
    routes.drain()


async def answer_error(error: Exception) -> Response:
    """Return the response to a request that raised `error`, without anything from inside."""
    return _response(error_answer(error))


def _chunk_sender(asked: Request) -> Callable[[bytes], Awaitable[None]] | None:
    """Return what sends chunks of the response past Quart and hypercorn, if anything does."""
    client = asked.scope.get("state", {}).get(CLIENT)
    # Before 1.1 there are no chunks.
    return client.send_chunk if client is not None and asked.http_version == "1.1" else None


def _check_http_version(version: str) -> None:
    # Over HTTP/2, what a client does not read would pile up here: hypercorn waits for no window.
    if version not in ("1.0", "1.1"):
        raise Refusal(505, "http_version", "streams are served over HTTP/1.0 and 1.1 alone")


async def _read_body(limit: int) -> bytes:
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    body = bytearray()
    with trio.move_on_after(_BODY_SECONDS):
        try:
            async for chunk in request.body:
                body += chunk
                if len(body) > limit:
                    raise _too_large(limit)
        except _DISCONNECTED:
            # Whoever serves a client that has gone is cancelled.
            await trio.lowlevel.checkpoint()
            raise Refusal(400, "incomplete_body", "the body did not arrive whole") from None
        return bytes(body)
    raise Refusal(408, "body_timeout", f"the body did not arrive within {_BODY_SECONDS} seconds")


def _too_large(limit: int) -> Refusal:
    return Refusal(413, "body_too_large", f"the body may have at most {limit} bytes")


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, answer.headers, content_type="application/json")


def _raw_frame(message: Message) -> str | bytes:
    text = as_text(message.data)
    return message.data if text is None else text


def _json_frame(message: Message) -> str:
    return encode_message(message).decode()


def _first(group: BaseExceptionGroup[CloseConnection]) -> CloseConnection:
    """Return one of the exceptions in a group, however deep."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return cast("CloseConnection", error)
