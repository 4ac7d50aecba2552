"""The routes as an ASGI application, on the hypercorn of `serve`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Any, final

import trio
from trio.lowlevel import enable_ki_protection

from .._protocol import CloseCode
from ._answer import Answer, Refusal
from ._app import App, Streaming
from ._budget import Hold
from ._client import CLIENT, ClientStream
from ._ends import Ends
from ._request import Request, joined_headers
from ._websocket import CloseConnection, Connection

BODY_SECONDS = 30
"""Seconds in which a body has to arrive: the longest batch takes 4.5 Mbit/s for it."""


@final
class AsgiApp:
    """Serves requests that hypercorn parsed.

    Args:
        app: the routes.
        ends: notices when the client of a stream leaves.
    """

    def __init__(self, app: App, ends: Ends) -> None:
        self._app = app
        self._ends = ends

    async def __call__(self, scope: Any, receive: Any, send: Any, *_: Any) -> None:
        # The further arguments are hypercorn's own, for WSGI.
        if scope["type"] == "http":
            await self._serve_http(scope, receive, send)
        else:
            await self._serve_websocket(scope, receive, send)

    async def _serve_http(self, scope: Any, receive: Any, send: Any) -> None:
        client: ClientStream = scope["state"][CLIENT]
        body = AsgiBody(receive)
        request = _request(scope, body)
        body.whole = not request.has_body
        # h11 has checked it.
        body.length = int(request.headers.get("content-length", "0"))
        result = await self._app.answer(request)
        if isinstance(result, Streaming):
            await self._send_stream(scope, send, client, result)
            return
        if body.whole:
            await send_answer(send, "http.response", result)
            return
        async with trio.open_nursery() as nursery:
            # Hypercorn would wait for ever for somebody to take the rest of the body.
            nursery.start_soon(_discard, receive)
            await send_answer(send, "http.response", result, last=True)
            nursery.cancel_scope.cancel()
        await client.aclose()
        client.cut()

    async def _send_stream(
        self, scope: Any, send: Any, client: ClientStream, streaming: Streaming
    ) -> None:
        headers, stream = streaming
        # Before 1.1 there are no chunks.
        chunked = scope["http_version"] == "1.1"
        with closing(stream), self._ends.watching(client, stream.ask_client):
            await send(_start("http.response", 200, _pairs(headers)))
            if chunked:
                # Past hypercorn, which takes longer than all the rest.
                await stream.send_all(client.send_chunk)
            else:
                async for chunk in stream:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _serve_websocket(self, scope: Any, receive: Any, send: Any) -> None:
        client: ClientStream = scope["state"][CLIENT]
        app = self._app
        await receive()
        result = await app.converse(_request(scope, AsgiBody(receive)), scope["subprotocols"])
        if isinstance(result, Answer):
            await send_answer(send, "websocket.http.response", result)
            return
        with closing(result):
            await send({"type": "websocket.accept", "subprotocol": result.subprotocol})
            socket = _AsgiSocket(receive, send, client)
            connection = Connection(socket, app.drain.begun, result.max_size, app.budget, client)
            await connection.serve(result.handler, app.options.heartbeat)


@final
class AsgiBody:
    """The body of a request, as an ASGI server hands it on.

    Attributes:
        length: bytes that were announced; 0 if none were.
        whole: whether all of it was read.
    """

    def __init__(self, receive: Any) -> None:
        self.length = 0
        self.whole = False
        self._receive = receive

    async def read(self, limit: int, hold: Hold) -> bytes | bytearray:
        """As `Request.read_body`."""
        if self.length > limit:
            raise too_large(limit)
        body = bytearray()
        with trio.move_on_after(BODY_SECONDS):
            while True:
                event = await self._receive()
                if event["type"] == "http.disconnect":
                    raise Refusal(400, "incomplete_body", "the body did not arrive whole")
                piece = event.get("body", b"")
                hold.add(len(piece))
                body += piece
                if len(body) > limit:
                    raise too_large(limit)
                if not event.get("more_body"):
                    self.whole = True
                    return body
        raise too_slow()


@final
class _AsgiSocket:
    """As `Socket`; hypercorn's own task pings."""

    def __init__(self, receive: Any, send: Any, client: ClientStream) -> None:
        self.ping: Callable[[], Awaitable[None]] | None = None
        self._receive = receive
        self._send = send
        self._client = client

    async def receive(self) -> str | bytes:
        event = await self._receive()
        if event["type"] == "websocket.disconnect":
            raise CloseConnection(CloseCode.DRAIN, "")
        text: str | None = event.get("text")
        message: str | bytes = event["bytes"] if text is None else text
        self._client.inbound.give_back(len(message))
        return message

    async def send(self, message: str | bytes, /) -> None:
        kind = "text" if isinstance(message, str) else "bytes"
        await self._send({"type": "websocket.send", kind: message})

    async def close(self, code: int, reason: str, /) -> None:
        await self._send({"type": "websocket.close", "code": code, "reason": reason})


async def send_answer(send: Any, kind: str, answer: Answer, *, last: bool = False) -> None:
    """Send a whole response.

    Args:
        send: of the ASGI server.
        kind: of the events.
        answer: the response.
        last: whether the connection is closed after it.
    """
    pairs = _pairs(answer.headers)
    if answer.body is not None:
        pairs.append((b"content-length", b"%d" % len(answer.body)))
    if last and "Connection" not in answer.headers:
        pairs.append((b"connection", b"close"))
    await send(_start(kind, answer.status, pairs))
    await send({"type": f"{kind}.body", "body": answer.body or b""})


@enable_ki_protection
async def _discard(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def too_large(limit: int) -> Refusal:
    """Return the refusal of a body of more than `limit` bytes."""
    return Refusal(413, "body_too_large", f"the body may have at most {limit} bytes")


def too_slow() -> Refusal:
    """Return the refusal of a body that did not arrive in time."""
    return Refusal(408, "body_timeout", f"the body did not arrive within {BODY_SECONDS} seconds")


def _request(scope: Any, body: AsgiBody) -> Request:
    return Request(
        scope.get("method", "GET"),
        scope["raw_path"].decode("ascii"),
        scope["query_string"],
        joined_headers(scope["headers"]),
        scope["server"],
        scope["http_version"],
        body.read,
    )


def _start(kind: str, status: int, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    return {"type": f"{kind}.start", "status": status, "headers": headers}


def _pairs(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
