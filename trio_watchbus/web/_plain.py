"""Plain requests, served beneath Quart."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, final

import trio

from .._errors import WatchBusError
from ._access import AccessPolicy
from ._answer import STATUS, Answer, error_answer
from ._client import CLIENT
from ._options import WebOptions
from ._publish import Publishing
from ._refusal import Refusal
from ._sse import CONTENT_TYPE, STREAM_HEADERS
from ._stream import EventStream

_PLAIN_SECONDS = 1.0
"""Seconds in which the body of a plain request arrives: mostly it is there with the headers."""

_BODY_HEADERS = {"content-length", "transfer-encoding"}

OpenStream = Callable[[bytes, str | None, Callable[[bytes], Awaitable[None]]], EventStream]
"""From a query, the header ``Last-Event-ID``, and what sends chunks, to the stream."""


@final
class PlainApp:
    """Serves plain requests to ``/publish`` and ``/sse``, and leaves all others to an application.

    Quart takes as long over a request to publish as hypercorn does, where publishing takes a
    hundredth of that; and a quarter of the memory of an idle stream is Quart's. Plain is what
    programs send, and the streams that pages ask of their own server: there is no ``Origin``, and
    a body has a length, which is allowed, and arrives at once.

    Args:
        app: the application, which serves all of them by routes of its own.
        publishing: what is done to publish.
        open_stream: opens what is sent to one who watches.
        access: who may.
        options: what is allowed.
    """

    def __init__(
        self,
        app: Any,
        publishing: Publishing,
        open_stream: OpenStream,
        access: AccessPolicy,
        options: WebOptions,
    ) -> None:
        self._app = app
        self._publishing = publishing
        self._open_stream = open_stream
        self._access = access
        self._vary = [(b"vary", b"Origin")] if options.allowed_origins else []

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        headers = _plain_headers(scope)
        if headers is not None:
            match scope["method"], scope["path"]:
                case "POST", "/publish" if _BODY_HEADERS & headers.keys() == {"content-length"}:
                    return self._publish(scope, headers, receive, send)
                case "GET", "/sse" if not _BODY_HEADERS & headers.keys() and _takes_events(headers):
                    return self._stream(scope, headers, receive, send)
        # Returned rather than awaited: that would take memory for as long as a stream is open.
        awaitable: Awaitable[None] = self._app(scope, receive, send)
        return awaitable

    async def _publish(self, scope: Any, headers: dict[str, str], receive: Any, send: Any) -> None:
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        # Answering before the body is read would leave hypercorn waiting for who takes it.
        if int(headers["content-length"]) > self._publishing.max_size(media_type):
            await self._app(scope, receive, send)
            return
        events = await _receive_body(receive)
        if not events or events[-1].get("more_body", True):
            await self._app(scope, _replaying(events, receive), send)
            return

        async def read_body() -> bytes:
            return b"".join(event["body"] for event in events)

        try:
            self._check_access(scope, headers)
            answer = await self._publishing.publish(
                media_type, scope["query_string"], headers.get("idempotency-key"), read_body
            )
        except Exception as error:  # noqa: BLE001
            answer = error_answer(error)
        await self._start(scope, send, answer.status, _headers_of(answer))
        await send({"type": "http.response.body", "body": answer.body})

    async def _stream(self, scope: Any, headers: dict[str, str], receive: Any, send: Any) -> None:
        try:
            self._check_access(scope, headers)
            stream = self._open_stream(
                scope["query_string"],
                headers.get("last-event-id"),
                scope["state"][CLIENT].send_chunk,
            )
        except (Refusal, WatchBusError):
            # The application says what is wrong.
            await self._app(scope, receive, send)
            return
        own = [(b"content-type", CONTENT_TYPE.encode())]
        own += [(name.lower().encode(), value.encode()) for name, value in STREAM_HEADERS.items()]
        await self._start(scope, send, 200, own)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_gone, receive, nursery.cancel_scope)
            async with stream:
                async for chunk in stream:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            nursery.cancel_scope.cancel()
        # Here, as in there hypercorn would have it cancelled by saying that the request is over.
        await send({"type": "http.response.body", "body": b""})

    async def _start(
        self, scope: Any, send: Any, status: int, headers: list[tuple[bytes, bytes]]
    ) -> None:
        scope[STATUS] = status
        whole = [*headers, *self._vary]
        await send({"type": "http.response.start", "status": status, "headers": whole})

    def _check_access(self, scope: Any, headers: dict[str, str]) -> None:
        self._access.check(headers.get("host", ""), None, scope["server"])


def _plain_headers(scope: Any) -> dict[str, str] | None:
    """Return the headers of what may be a plain request; None for any other."""
    if scope["type"] != "http" or scope["http_version"] != "1.1":
        return None
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    # A header that comes twice is none that everybody would read alike.
    if "origin" in headers or len(headers) < len(scope["headers"]):
        return None
    return headers


def _takes_events(headers: dict[str, str]) -> bool:
    """Whether a stream is accepted, beyond doubt."""
    return headers.get("accept", CONTENT_TYPE) in (CONTENT_TYPE, "*/*")


def _headers_of(answer: Answer) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(answer.body)),
        *((name.lower().encode(), value.encode()) for name, value in answer.headers.items()),
    ]


async def _receive_body(receive: Any) -> list[Any]:
    """Return the events of a body: the last one says whether that was all of it."""
    events: list[Any] = []
    with trio.move_on_after(_PLAIN_SECONDS):
        while not events or events[-1].get("more_body"):
            events.append(await receive())
    return events


def _replaying(events: Iterable[Any], receive: Any) -> Callable[[], Awaitable[Any]]:
    """Return what gives `events` again, and then what `receive` gives."""
    waiting = deque(events)

    async def receive_again() -> Any:
        return waiting.popleft() if waiting else await receive()

    return receive_again


async def _cancel_when_gone(receive: Any, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
