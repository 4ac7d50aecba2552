"""Publishing with POST, by a route of Quart and beneath it."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, final

import trio

from ..abc import WatchBus
from ._access import AccessPolicy
from ._answer import STATUS, Answer, error_answer, json_answer
from ._batch import MEDIA_TYPE, parse_batch
from ._options import WebOptions
from ._query import parse_no_query, parse_publish_query

_PLAIN_SECONDS = 1.0
"""Seconds in which the body of a plain request arrives: mostly it is there with the headers."""


@final
class Publishing:
    """What ``POST /publish`` does.

    Args:
        bus: the bus that is published to.
        options: what is allowed.
    """

    def __init__(self, bus: WatchBus, options: WebOptions) -> None:
        self._bus = bus
        self._options = options

    def max_size(self, media_type: str) -> int:
        """Return the bytes that a body of this type may have."""
        if media_type == MEDIA_TYPE:
            return self._options.max_batch_size
        return self._bus.max_message_size

    async def publish(
        self,
        media_type: str,
        query: bytes,
        idempotency_key: str | None,
        read_body: Callable[[], Awaitable[bytes]],
    ) -> Answer:
        """Publish what a request asks for.

        Args:
            media_type: of the body, in lower case and without parameters.
            query: as it stands in the URL.
            idempotency_key: the header of that name, if any.
            read_body: reads the body.

        Raises:
            Exception: one that `error_answer` answers.
        """
        bus = self._bus
        if media_type == MEDIA_TYPE:
            parse_no_query(query)
            body = await read_body()
            batch = parse_batch(body, self._options.max_batch_messages, bus.max_message_size)
            ids = await bus.publish_many(batch, idempotency_key=idempotency_key)
            return json_answer({"count": len(ids), "last_id": ids[-1] if ids else None})
        name, is_prefix = parse_publish_query(query)
        body = await read_body()
        publish = bus.publish_prefix if is_prefix else bus.publish
        return json_answer({"id": await publish(name, body, idempotency_key=idempotency_key)})


@final
class PublishApp:
    """Answers plain requests to publish, and leaves all others to an application.

    Quart takes as long over such a request as hypercorn does, and publishing takes a hundredth of
    that. Plain is what programs send: no ``Origin``, and a body whose length is told, is allowed,
    and which arrives at once.

    Args:
        app: the application, which answers all of them by a route of its own.
        publishing: what is done.
        access: who may.
        options: what is allowed.
    """

    def __init__(
        self, app: Any, publishing: Publishing, access: AccessPolicy, options: WebOptions
    ) -> None:
        self._app = app
        self._publishing = publishing
        self._access = access
        self._headers = [
            (b"content-type", b"application/json"),
            (b"x-content-type-options", b"nosniff"),
            (b"cache-control", b"no-store"),
        ]
        if options.allowed_origins:
            self._headers.append((b"vary", b"Origin"))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = _plain_headers(scope)
        if headers is None:
            await self._app(scope, receive, send)
            return
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
            self._access.check(headers.get("host", ""), None, scope["server"])
            answer = await self._publishing.publish(
                media_type, scope["query_string"], headers.get("idempotency-key"), read_body
            )
        except Exception as error:  # noqa: BLE001
            answer = error_answer(error)
        scope[STATUS] = answer.status
        await self._send(answer, send)

    async def _send(self, answer: Answer, send: Any) -> None:
        own = [(name.lower().encode(), value.encode()) for name, value in answer.headers.items()]
        length = (b"content-length", b"%d" % len(answer.body))
        headers = [*self._headers, *own, length]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})


def _plain_headers(scope: Any) -> dict[str, str] | None:
    """Return the headers of what may be a plain request to publish; None for any other."""
    if scope["type"] != "http" or scope["path"] != "/publish" or scope["method"] != "POST":
        return None
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    is_plain = (
        "content-length" in headers
        and "origin" not in headers
        and "transfer-encoding" not in headers
        # One that came twice is none that everybody would read alike.
        and len(headers) == len(scope["headers"])
    )
    return headers if is_plain else None


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
