"""The routes as a Quart-Trio blueprint; everything that reaches into Quart and Quart-Trio.

The blueprint only hands requests over to the same handlers that `serve` uses, after the hooks of
the application. Two things that Quart does otherwise are set on the application when the blueprint
is registered: a client that ends its side after a whole request still gets its answer, and a server
on asyncio is refused when it starts.
"""

from __future__ import annotations

import inspect
import re
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial
from types import SimpleNamespace, TracebackType
from typing import Any, cast, final
from urllib.parse import quote

import quart.wrappers.base
import trio
from quart import Blueprint, Response, request, websocket
from quart.wrappers.response import ResponseBody
from quart_trio import QuartTrio
from trio.lowlevel import enable_ki_protection
from werkzeug.exceptions import HTTPException, NotFound

from ..abc import WatchBus
from ._answer import Answer, Refusal, error_answer
from ._app import ROUTES, App, Streaming, not_found
from ._asgi import BODY_SECONDS, too_large, too_slow
from ._budget import Hold
from ._hypercorn import pinger
from ._options import WebOptions
from ._request import Request, joined_headers
from ._stream import EventStream
from ._websocket import Connection

_INBOX_MESSAGES = 10
"""Messages from a client that may wait to be looked at before it has to wait itself: as many as
with a Quart before 0.23. Each may be as long as a message can be."""

_STREAM = "trio_watchbus.stream"
"""Where the scope of a request holds the stream that answers it."""

_ENDED = "trio_watchbus.ended"
"""Where it says that the client has ended its side."""

_PING = "trio_watchbus.ping"
"""Where the scope of a WebSocket holds what pings its client."""

_UNQUOTED = "/!$&'()*+,;=:@~"
"""What stands unquoted in a path, beside letters, digits and ``_.-``."""

# Every method comes to the handlers, which refuse those that a route does not take.
_METHODS = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"]

_NEEDS_TRIO = (
    "this application needs Trio, and this server runs it on asyncio: use"
    " trio_watchbus.web.serve, or `hypercorn --worker-class trio module:app`"
)

# Raised by bodies of Quart since 0.23 when the client has gone; before, there was nothing to catch.
_DISCONNECTED: Any = getattr(quart.wrappers.base, "ClientDisconnectedError", ())


class WatchBusBlueprint(Blueprint):
    """The routes of one bus.

    Args:
        bus: the bus that is served; it stays the caller's to close.
        options: what the routes allow.
    """

    def __init__(self, bus: WatchBus, options: WebOptions) -> None:
        super().__init__("watchbus", __name__)
        self._app = App(bus, options)
        for path in ROUTES:
            self.add_url_rule(
                path,
                endpoint=path[1:],
                view_func=self._answer,
                methods=_METHODS,
                provide_automatic_options=False,
                merge_slashes=False,
                strict_slashes=True,
            )
        self.add_websocket("/ws", endpoint="websocket/ws", view_func=self._converse)
        self.register_error_handler(Exception, _answer_error)

    def drain(self) -> None:
        """As the function `drain`."""
        self._app.drain.begin()

    def register(self, app: Any, options: dict[str, Any]) -> None:
        """Add the routes to `app`, as Quart does, and serve half-closed requests on it."""
        super().register(app, options)
        if not issubclass(app.asgi_http_class, _HalfClosed):
            app.asgi_http_class = type("HalfClosed", (_HalfClosed, app.asgi_http_class), {})
        if not issubclass(app.asgi_websocket_class, _Pinging):
            app.asgi_websocket_class = type("Pinging", (_Pinging, app.asgi_websocket_class), {})
        if not issubclass(app.asgi_lifespan_class, _OnTrio):
            app.asgi_lifespan_class = type("OnTrio", (_OnTrio, app.asgi_lifespan_class), {})

    @enable_ki_protection
    async def _answer(self) -> Response:
        scope = cast("Any", request.scope)
        result = await self._app.answer(_request_of(scope, request))
        if isinstance(result, Streaming):
            # From here on it belongs to the connection, which closes it.
            scope[_STREAM] = result.stream
            if _ENDED in scope:
                result.stream.finish()
            response = Response(_Body(result.stream), headers=result.headers)
            # Quart would cut it after a minute.
            response.timeout = None
            return response
        return _response(result)

    @enable_ki_protection
    async def _converse(self) -> Response | None:
        socket = cast("Any", websocket)._get_current_object()
        app = self._app
        asked = _request_of(socket.scope, socket)
        result = await app.converse(asked, socket.requested_subprotocols)
        if isinstance(result, Answer):
            return _response(result)
        with closing(result):
            socket.buffer = Inbox()
            await socket.accept(subprotocol=result.subprotocol)
            connection = Connection(
                _QuartSocket(socket), app.drain.begun, result.max_size, app.budget, None
            )
            await connection.serve(result.handler, app.options.heartbeat)
        return None


def watchbus_blueprint(bus: WatchBus, options: WebOptions | None = None) -> Blueprint:
    """Return the routes ``/sse``, ``/ws``, ``/publish``, ``/healthz`` and ``/readyz`` of `bus`.

    They are a blueprint, to register on any Quart-Trio application; of several on one, each needs a
    name of its own: ``app.register_blueprint(routes, url_prefix="/other", name="other")``.

    Args:
        bus: the bus that is served; it stays the caller's to close.
        options: what the routes allow; the defaults unless given.

    Returns:
        the blueprint. Hooks of your own (``before_request``, ``before_websocket``) run before its
        handlers and their checks of ``Host`` and ``Origin``; `drain` ends its streams.

    Raises:
        TypeError: `bus` is not an open bus.
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


def create_app(bus: WatchBus, options: WebOptions | None = None) -> QuartTrio:
    """Return an application that serves `bus`, and nothing else.

    Args:
        bus: the bus that is served; it stays the caller's to close.
        options: what the routes allow; the defaults unless given.

    Returns:
        the application, for hypercorn with the worker class ``trio``. A server on asyncio is told
        at its start that it cannot run it.

    Raises:
        TypeError: `bus` is not an open bus.
    """
    # No folder of static files and none of templates: nothing but the routes.
    app = QuartTrio("trio_watchbus.web", static_folder=None, template_folder=None)
    app.url_map.merge_slashes = False
    app.register_blueprint(watchbus_blueprint(bus, options))
    app.register_error_handler(HTTPException, _answer_error)
    return app


# What is set on an application. Each stands before the class that the application had.
#
# Their methods are protected from interrupts, and so is what they call: Quart-Trio and hypercorn
# swallow a KeyboardInterrupt in one of their tasks. The main task gets it instead, and ends them.


class _HalfClosed:
    """Answers requests to our routes though the client has ended its side, and closes streams.

    ASGI does not tell whether a client has ended its side or left. An answer is finished in either
    case; a stream ends, as nothing would tell otherwise that its client left.
    """

    app: Any
    scope: dict[str, Any]

    @enable_ki_protection
    async def __call__(self, receive: Any, send: Any) -> None:
        if not trio.lowlevel.in_trio_run():
            # A server that ran no lifespan, in which `_OnTrio` refuses to start.
            raise RuntimeError(_NEEDS_TRIO)
        await super().__call__(receive, send)  # type: ignore[misc]

    @enable_ki_protection
    async def handle_messages(self, nursery: trio.Nursery, request: Any, receive: Any) -> None:
        # Quart-Trio cancels this when the client has ended its side.
        harmless = SimpleNamespace(cancel_scope=trio.CancelScope())
        await super().handle_messages(harmless, request, receive)  # type: ignore[misc]
        view = self.app.view_functions.get(request.endpoint)
        if not isinstance(getattr(view, "__self__", None), WatchBusBlueprint):
            nursery.cancel_scope.cancel()
            return
        # Quart since 0.23 would no longer send the answer.
        self._disconnected = False
        self.scope[_ENDED] = True
        stream: EventStream | None = self.scope.get(_STREAM)
        if stream is not None:
            stream.finish()

    @enable_ki_protection
    async def handle_request(self, nursery: trio.Nursery, request: Any, send: Any) -> None:
        try:
            await super().handle_request(nursery, request, send)  # type: ignore[misc]
        finally:
            self._close_stream()

    @enable_ki_protection
    def _close_stream(self) -> None:
        stream: EventStream | None = self.scope.pop(_STREAM, None)
        if stream is not None:
            stream.close()


class _Pinging:
    """Lets the handler of a WebSocket ping its client, where hypercorn serves it."""

    scope: dict[str, Any]

    @enable_ki_protection
    async def handle_websocket(self, nursery: trio.Nursery, socket: Any, send: Any) -> None:
        # Quart since 0.23 wraps what hypercorn gives.
        self.scope[_PING] = pinger(inspect.unwrap(send))
        await super().handle_websocket(nursery, socket, send)  # type: ignore[misc]


class _OnTrio:
    """Refuses to start on asyncio, where every request would fail."""

    @enable_ki_protection
    async def __call__(self, receive: Any, send: Any) -> None:
        if trio.lowlevel.in_trio_run():
            await super().__call__(receive, send)  # type: ignore[misc]
        else:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": _NEEDS_TRIO})


@final
class _Body(ResponseBody):
    """A stream as the body of a response of Quart's, which does not close it."""

    def __init__(self, stream: EventStream) -> None:
        self._stream = stream

    async def __aenter__(self) -> EventStream:
        return self._stream

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass


@final
class _QuartSocket:
    """A `Socket` over Quart's."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self.ping: Callable[[], Awaitable[None]] | None = socket.scope.get(_PING)
        self.send = socket.send
        self.close = socket.close

    async def receive(self) -> str | bytes:
        # Quart takes an empty binary message for none at all.
        message: str | bytes | None = await self._socket.receive()
        return b"" if message is None else message


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


# What passes between Quart and the handlers.


def _request_of(scope: dict[str, Any], asked: Any) -> Request:
    """Return what Quart parsed, as a request to one of our routes."""
    raw_path = scope.get("raw_path", asked.path.encode()).decode("latin-1")
    # Only the path as it is written is served: a proxy in front has rules for no other spelling.
    route = f"/{re.split('[./]', asked.endpoint)[-1]}"
    written = quote(scope["path"], safe=_UNQUOTED) == raw_path
    # Werkzeug routes `//publish`, and a target in absolute form, like `/publish`.
    plain = raw_path.startswith("/") and "//" not in raw_path
    path = route if written and plain else raw_path
    return Request(
        asked.method,
        path,
        asked.query_string,
        joined_headers(scope["headers"]),
        scope.get("server"),
        asked.http_version,
        partial(_read_body, asked),
    )


async def _read_body(asked: Any, limit: int, hold: Hold) -> bytearray:
    if (asked.content_length or 0) > limit:
        raise too_large(limit)
    body = bytearray()
    with trio.move_on_after(BODY_SECONDS):
        try:
            async for chunk in asked.body:
                hold.add(len(chunk))
                body += chunk
                if len(body) > limit:
                    raise too_large(limit)
        except _DISCONNECTED:
            raise Refusal(400, "incomplete_body", "the body did not arrive whole") from None
        if len(body) < (asked.content_length or 0):
            raise Refusal(400, "incomplete_body", "the body did not arrive whole")
        return body
    raise too_slow()


def _response(answer: Answer) -> Response:
    response = Response(answer.body or b"", answer.status, answer.headers)
    if answer.body is None:
        del response.headers["Content-Length"]
    return response


async def _answer_error(error: Exception) -> Response:
    """Return the response to a request that a hook or Quart's routing refused, or that failed."""
    if not isinstance(error, HTTPException) or error.code is None:
        return _response(error_answer(error))
    detail = error.description or error.name
    if isinstance(error, NotFound) and error.description == NotFound.description:
        detail = not_found().detail
    refusal = Refusal(error.code, error.name.lower().replace(" ", "_"), detail)
    return _response(error_answer(refusal))
