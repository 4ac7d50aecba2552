"""What a request is answered, whoever sends it."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import NamedTuple

import msgspec
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.routing import WebsocketMismatch

from ._refusal import RETRY_AFTER, Refusal, refusal_of

STATUS = "trio_watchbus.status"
"""Where the scope of a request holds the status that it was answered with."""

ROUTES = ("/sse", "/ws", "/publish", "/healthz", "/readyz")

logger = logging.getLogger("trio_watchbus.web")

# Nobody is to keep it, nor to take what a client published for something that runs.
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Answer(NamedTuple):
    """A whole response; its body is JSON.

    Attributes:
        body: the JSON, on one line.
        status: the HTTP status.
        headers: its headers, but for the type and length of the body.
    """

    body: bytes
    status: int
    headers: dict[str, str]


def json_answer(fields: object, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    """Return the answer that says `fields`."""
    # On a line of its own, for whoever reads it in a terminal.
    return Answer(msgspec.json.encode(fields) + b"\n", status, _HEADERS | (headers or {}))


def error_answer(error: Exception) -> Answer:
    """Return the answer to a request that raised `error`, without anything from inside.

    Logs what is a fault of ours.
    """
    headers: dict[str, str] = {}
    refusal = refusal_of(error)
    if refusal is None:
        if isinstance(error, HTTPException) and error.code is not None:
            refusal = _refusal_of_framework(error, error.code)
            if isinstance(error, MethodNotAllowed):
                headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
        else:
            logger.error("a request failed", exc_info=error)
            refusal = Refusal(500, "internal", "a fault of the server; it has been logged")
    if refusal.status == 426:
        headers |= {"Upgrade": "websocket", "Connection": "Upgrade"}
    if refusal.code == "ambiguous_body":
        # What a proxy before this server took for the next request may be in it.
        headers["Connection"] = "close"
    if refusal.status in (429, 503):
        headers["Retry-After"] = str(RETRY_AFTER)
    return json_answer(
        {"error": {"code": refusal.code, "detail": refusal.detail}}, refusal.status, headers
    )


def last_answer(refusal: Refusal) -> bytes:
    """Return the bytes that answer a client with `refusal` over HTTP/1.1, and say it is the end."""
    answer = error_answer(refusal)
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(answer.body)),
        **answer.headers,
        "Connection": "close",
    }
    lines = [
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + answer.body


def _refusal_of_framework(error: HTTPException, status: int) -> Refusal:
    """Return what the framework refused, and what to do where that is known."""
    if isinstance(error, WebsocketMismatch):
        return Refusal(404, "not_found", "no WebSocket is served at this path; /ws is one")
    detail = error.description or error.name
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        # What every route takes is not what it is for.
        methods = sorted({*error.valid_methods} - {"OPTIONS"})
        detail = f"this route does not take that method; use {' or '.join(methods)}"
    elif isinstance(error, NotFound) and error.description == NotFound.description:
        detail = f"nothing is served at this path; what is: {', '.join(ROUTES)}"
    return Refusal(status, error.name.lower().replace(" ", "_"), detail)
