"""The routes of a served bus, independent of how a request came.

Every request goes through one gate: `App.answer`, or `App.converse` for a WebSocket. There its
path is looked up and its access checked; then the handler of the route runs, and what that raises
becomes an answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import NamedTuple, final

import trio

from .._errors import HistoryLostError
from .._message import Message
from .._protocol import SUBPROTOCOL, encode_message
from .._request import WatchRequest
from ..abc import Watch, WatchBus
from ._access import AccessPolicy
from ._answer import Answer, Refusal, error_answer, json_answer, unavailable
from ._budget import Budget
from ._drain import Drain
from ._formats import Cached
from ._options import WebOptions
from ._publish import Publishing
from ._query import StreamQuery, accepts, check_no_query, parse_stream_query
from ._raw import LOST, raw_frame, serve_raw
from ._request import Request
from ._session import max_frame_size, serve_session
from ._sse import CONTENT_TYPE, json_event, raw_event
from ._stream import BUFFER_SIZE, HEADERS, EventStream, open_stream
from ._watches import Openings
from ._websocket import CloseConnection, Connection, check_handshake


class Streaming(NamedTuple):
    """A response that goes on: its headers, and the stream that is its body, to be closed."""

    headers: dict[str, str]
    stream: EventStream


@final
class Conversation:
    """An accepted WebSocket; whoever has it must `close` it.

    Attributes:
        subprotocol: the subprotocol that was agreed on, or None.
        max_size: bytes, or characters, of a message that the client may send.
        handler: what is spoken over it.
    """

    def __init__(
        self,
        subprotocol: str | None,
        max_size: int,
        handler: Callable[[Connection], Awaitable[None]],
        watch: Watch | None = None,
    ) -> None:
        self.subprotocol = subprotocol
        self.max_size = max_size
        self.handler = handler
        self._watch = watch

    def close(self) -> None:
        """Close its watch, if it has one."""
        if self._watch is not None:
            self._watch.close()


@final
class App:
    """The routes ``/sse``, ``/ws``, ``/publish``, ``/healthz`` and ``/readyz`` of one bus.

    Args:
        bus: the bus that is served; it stays the caller's to close.
        options: what the routes allow.

    Attributes:
        options: the same.
        budget: counts bytes in flight.
        drain: ends everything that is served for long.
    """

    def __init__(self, bus: WatchBus, options: WebOptions) -> None:
        if not isinstance(bus, WatchBus):
            raise TypeError(
                f"the bus must be an open WatchBus, not {type(bus).__name__}: open it first, as in"
                " `async with open_watchbus(url) as bus`"
            )
        self.options = options
        self.budget = Budget(options.max_in_flight_size)
        self.drain = Drain()
        self._bus = bus
        self._access = AccessPolicy(options)
        self._publishing = Publishing(bus, options, self.budget)
        self._openings = Openings()
        # Held by the stream that is sending much.
        self._turn = trio.StrictFIFOLock()
        self._raw_event = Cached(raw_event)
        self._json_event = Cached(json_event)
        self._raw_frame = Cached(raw_frame)
        self._json_frame = Cached(_json_frame)
        self._json = Cached(encode_message)
        self._handlers: dict[str, dict[str, Callable[[Request], Awaitable[Answer | Streaming]]]]
        self._handlers = {
            "/sse": {"GET": self._sse, "HEAD": self._sse},
            "/ws": {"GET": self._ws_without_upgrade, "HEAD": self._ws_without_upgrade},
            "/publish": {"POST": self._publishing.publish},
            "/healthz": {"GET": self._healthz, "HEAD": self._healthz},
            "/readyz": {"GET": self._readyz, "HEAD": self._readyz},
        }

    # The gate

    async def answer(self, request: Request) -> Answer | Streaming:
        """Return the answer to `request`; raises nothing but a cancel."""
        result: Answer | Streaming
        try:
            handler = self._handler(request)
            self._access.check(request)
            _check_framing(request)
            result = await handler(request)
        except Exception as error:  # noqa: BLE001
            result = error_answer(error)
        result.headers.update(self._access.headers(request))
        return result

    async def converse(self, request: Request, subprotocols: list[str]) -> Answer | Conversation:
        """Return what is spoken over a WebSocket, or a refusal; raises nothing but a cancel."""
        try:
            _check_websocket_path(request)
            self._access.check(request, is_websocket=True)
            check_handshake(request)
            _check_http_version(request)
            if SUBPROTOCOL in subprotocols:
                return self._session(request)
            return await self._raw(request)
        except Exception as error:  # noqa: BLE001
            answer = error_answer(error)
            answer.headers.update(self._access.headers(request))
            return answer

    def _handler(self, request: Request) -> Callable[[Request], Awaitable[Answer | Streaming]]:
        methods = self._handlers.get(request.path)
        if methods is None:
            raise not_found()
        if request.method == "OPTIONS":
            return partial(_options, sorted(methods))
        if request.method not in methods:
            raise Refusal(
                405,
                "method_not_allowed",
                f"this route does not take that method; use {' or '.join(sorted(methods))}",
                {"Allow": _allow(methods)},
            )
        return methods[request.method]

    # The routes

    async def _sse(self, request: Request) -> Answer | Streaming:
        query = self._stream_query(request, request.headers.get("last-event-id"))
        if not accepts(request.headers.get("accept"), CONTENT_TYPE):
            raise Refusal(406, "not_acceptable", f"this route gives {CONTENT_TYPE} alone")
        if request.has_body:
            raise Refusal(413, "body_not_allowed", "a stream is asked for without a body")
        _check_http_version(request)
        if request.method == "HEAD":
            return Answer(None, 200, dict(HEADERS))
        encode = self._json_event if query.json else self._raw_event
        stream = await open_stream(
            self._bus,
            query,
            encode,
            self.drain,
            self.options.heartbeat,
            self._openings,
            self._turn,
        )
        return Streaming(dict(HEADERS), stream)

    def _session(self, request: Request) -> Conversation:
        check_no_query(
            request.query,
            f"over {SUBPROTOCOL} keys are named in messages: leave the query of the URL empty",
        )
        serve = partial(
            serve_session,
            self._bus,
            options=self.options,
            encode=self._json,
            openings=self._openings,
        )
        return Conversation(SUBPROTOCOL, max_frame_size(self._bus), serve)

    async def _raw(self, request: Request) -> Conversation:
        query = self._stream_query(request, None)
        encode = self._json_frame if query.json else self._raw_frame
        wanted = WatchRequest(
            query.keys,
            query.prefixes,
            after=query.after,
            history=query.history if query.after is None else 0,
            buffer_size=BUFFER_SIZE,
        )
        max_size = self.options.max_inbound_size
        try:
            watch = await self._openings.open(self._bus, wanted)
        except HistoryLostError as lost:
            # Pages cannot read the status of a handshake, but the code of a close.
            return Conversation(None, max_size, partial(_tell_loss, lost))
        return Conversation(None, max_size, partial(serve_raw, watch, encode, self.drain), watch)

    async def _ws_without_upgrade(self, request: Request) -> Answer:
        _check_http_version(request)
        raise Refusal(
            426,
            "upgrade_required",
            "this is a WebSocket route: connect with ws:// or wss://; a proxy in between has to"
            " pass on the headers Upgrade and Connection",
            {"Upgrade": "websocket", "Connection": "Upgrade"},
        )

    async def _healthz(self, _: Request) -> Answer:
        return json_answer({"status": "ok"})

    async def _readyz(self, _: Request) -> Answer:
        self._check_ready()
        return json_answer({"status": "ok"})

    def _stream_query(self, request: Request, last_event_id: str | None) -> StreamQuery:
        query = parse_stream_query(request.query, last_event_id, self.options.max_keys)
        self._check_ready()
        return query

    def _check_ready(self) -> None:
        if self.drain.begun.is_set():
            raise Refusal(503, "draining", "this server is about to stop")
        if not self._bus.statistics().connected:
            raise unavailable()


ROUTES = ("/sse", "/ws", "/publish", "/healthz", "/readyz")


def not_found() -> Refusal:
    """Return the refusal of a path that is no route's."""
    return Refusal(
        404, "not_found", f"nothing is served at this path; what is: {', '.join(ROUTES)}"
    )


def _check_framing(request: Request) -> None:
    if {"content-length", "transfer-encoding"} <= request.headers.keys():
        # A proxy in front may have taken what follows for a request of its own.
        raise Refusal(
            400,
            "ambiguous_body",
            "a body has a length or is chunked, not both",
            {"Connection": "close"},
        )


def _check_websocket_path(request: Request) -> None:
    if request.path != "/ws":
        raise Refusal(404, "not_found", "no WebSocket is served at this path; /ws is one")


async def _options(methods: list[str], _: Request) -> Answer:
    return Answer(b"", 200, {"Allow": _allow(methods)})


def _allow(methods: Iterable[str]) -> str:
    return ", ".join(sorted({*methods, "OPTIONS"}))


async def _tell_loss(lost: HistoryLostError, _: Connection) -> None:
    raise CloseConnection(LOST, f"messages are lost: {lost.reason}")


def _check_http_version(request: Request) -> None:
    # hypercorn ignores HTTP/2 flow control, so a slow reader's data would buffer without bound.
    if request.http_version not in ("1.0", "1.1"):
        raise Refusal(505, "http_version", "streams are served over HTTP/1.0 and 1.1 alone")


def _json_frame(message: Message) -> str:
    return encode_message(message).decode()
