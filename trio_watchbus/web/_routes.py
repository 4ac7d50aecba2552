"""The routes of a served bus, as a blueprint. They know the interface of buses alone."""

from __future__ import annotations

import logging
from base64 import b64decode
from functools import partial
from typing import Any, cast

import msgspec
import quart.wrappers.base
import trio
from quart import Blueprint, Response, request, websocket
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from .._message import Message
from .._protocol import SUBPROTOCOL, CloseCode, encode_message
from ..abc import WatchBus
from ._access import AccessPolicy
from ._batch import MEDIA_TYPE, parse_batch
from ._connection import CloseConnection, Connection, Inbox
from ._drain import Drain
from ._formats import Cached, as_text
from ._options import WebOptions
from ._query import parse_no_query, parse_publish_query, parse_stream_query
from ._raw import serve_raw
from ._refusal import RETRY_AFTER, Refusal, refusal_of, unavailable
from ._session import max_frame_size, serve_session
from ._sse import CONTENT_TYPE, json_event, raw_event
from ._stream import EventStream

logger = logging.getLogger("trio_watchbus.web")

_BODY_SECONDS = 30
"""Seconds in which a body has to arrive: the longest batch takes 4.5 Mbit/s for it."""

# Raised by bodies of Quart since 0.23 when the client has gone; before, there was nothing to catch.
_DISCONNECTED: Any = getattr(quart.wrappers.base, "ClientDisconnectedError", ())

_STREAM_HEADERS = {
    # Compressing proxies hold events back until they have a block's worth.
    "Cache-Control": "no-cache, no-transform",
    # nginx buffers responses unless told.
    "X-Accel-Buffering": "no",
}


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
        self.before_request(self._check_request)
        self.before_websocket(self._check_websocket)
        self.after_request(self._add_headers)
        self.register_error_handler(Exception, answer_error)

    def drain(self) -> None:
        """End every stream: a last event or close frame tells the client; again does nothing.

        To be called before the server that runs the application stops. From then on new streams
        are refused.
        """
        self._drain.begin()

    # Before and after every route

    async def _check_request(self) -> None:
        self._access.check(request)
        if "Content-Length" in request.headers and "Transfer-Encoding" in request.headers:
            raise Refusal(400, "ambiguous_body", "a body has a length or is chunked, not both")

    async def _check_websocket(self) -> None:
        self._access.check(websocket)
        key = websocket.headers.get("Sec-WebSocket-Key", "")
        try:
            length = len(b64decode(key, validate=True))
        except ValueError:
            length = 0
        if length != 16:
            raise Refusal(400, "invalid_handshake", "Sec-WebSocket-Key must be 16 bytes in base64")

    async def _add_headers(self, response: Response) -> Response:
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers.setdefault("Cache-Control", "no-store")
        self._access.add_headers(request, response)
        return response

    # The routes

    async def _sse(self) -> Response:
        query = parse_stream_query(
            request.query_string, request.headers.get("Last-Event-ID"), self._options.max_keys
        )
        if "Accept" in request.headers and not request.accept_mimetypes.quality(CONTENT_TYPE):
            raise Refusal(406, "not_acceptable", f"this route gives {CONTENT_TYPE} alone")
        if request.content_length or "Transfer-Encoding" in request.headers:
            raise Refusal(413, "body_not_allowed", "a stream is asked for without a body")
        _check_http_version(request.http_version)
        self._check_ready()
        if request.method == "HEAD":
            response = Response("", content_type=CONTENT_TYPE, headers=_STREAM_HEADERS)
            del response.headers["Content-Length"]
            return response
        encode = self._json_event if query.json else self._raw_event
        body = EventStream(self._bus, query, encode, self._drain, self._options.heartbeat)
        response = Response(body, content_type=CONTENT_TYPE, headers=_STREAM_HEADERS)
        # Not to be cut after a minute.
        response.timeout = None
        return response

    async def _ws(self) -> None:
        _check_http_version(websocket.http_version)
        socket = cast("Any", websocket)._get_current_object()
        if SUBPROTOCOL in websocket.requested_subprotocols:
            parse_no_query(websocket.query_string)
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

    async def _publish(self) -> Response:
        key = request.headers.get("Idempotency-Key")
        if request.mimetype == MEDIA_TYPE:
            parse_no_query(request.query_string)
            body = await _read_body(self._options.max_batch_size)
            batch = parse_batch(body, self._options.max_batch_messages, self._bus.max_message_size)
            ids = await self._bus.publish_many(batch, idempotency_key=key)
            return _json_response({"count": len(ids), "last_id": ids[-1] if ids else None})
        query = parse_publish_query(request.query_string)
        body = await _read_body(self._bus.max_message_size)
        publish = self._bus.publish_prefix if query.is_prefix else self._bus.publish
        return _json_response({"id": await publish(query.name, body, idempotency_key=key)})

    async def _healthz(self) -> Response:
        return _json_response({"status": "ok"})

    async def _readyz(self) -> Response:
        self._check_ready()
        return _json_response({"status": "ok"})

    def _check_ready(self) -> None:
        if self._drain.begun.is_set():
            raise Refusal(503, "draining", "this server is about to stop")
        if not self._bus.statistics().connected:
            raise unavailable()


def watchbus_blueprint(bus: WatchBus, options: WebOptions | None = None) -> WatchBusBlueprint:
    """Return a blueprint that serves `bus`, to register on any Quart-Trio application.

    Args:
        bus: the bus that is served; it stays the caller's to close.
        options: what the routes allow; the defaults unless given.
    """
    return WatchBusBlueprint(bus, WebOptions() if options is None else options)


async def answer_error(error: Exception) -> Response:
    """Return the response to a request that raised `error`, without anything from inside."""
    headers: dict[str, str] = {}
    refusal = refusal_of(error)
    if refusal is None:
        if isinstance(error, HTTPException) and error.code is not None:
            refusal = Refusal(
                error.code, error.name.lower().replace(" ", "_"), error.description or error.name
            )
            if isinstance(error, MethodNotAllowed):
                headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
        else:
            logger.error("a request failed", exc_info=error)
            refusal = Refusal(500, "internal", "a fault of the server; it has been logged")
    if refusal.code == "ambiguous_body":
        # What a proxy before this server took for the next request may be in it.
        headers["Connection"] = "close"
    if refusal.status == 503:
        headers["Retry-After"] = str(RETRY_AFTER)
    fields = {"error": {"code": refusal.code, "detail": refusal.detail}}
    return _json_response(fields, refusal.status, headers)


def _check_http_version(version: str) -> None:
    # Over HTTP/2, what a client does not read would pile up here: hypercorn waits for no window.
    if version not in ("1.0", "1.1"):
        raise Refusal(505, "http_version", "streams are served over HTTP/1.1 alone")


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
            raise Refusal(400, "incomplete_body", "the body did not arrive whole") from None
        return bytes(body)
    raise Refusal(408, "body_timeout", f"the body did not arrive within {_BODY_SECONDS} seconds")


def _too_large(limit: int) -> Refusal:
    return Refusal(413, "body_too_large", f"the body may have at most {limit} bytes")


def _json_response(
    fields: object, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return Response(msgspec.json.encode(fields), status, headers, content_type="application/json")


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
