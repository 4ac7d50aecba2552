"""Answers to requests: success, refusal, and how an error becomes one."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import NamedTuple, final

import msgspec
import trio

from .._errors import (
    BusUnavailableError,
    InvalidKeyError,
    InvalidPositionError,
    MessageTooLargeError,
    PublishUnknownError,
)

RETRY_AFTER = 1
"""Seconds after which it is worth asking again when the bus cannot be reached: it reconnects
within a few."""

_HEADERS = {
    "Content-Type": "application/json",
    "Cache-Control": "no-store",
    # Data that a client published must not run as a script or a style sheet.
    "X-Content-Type-Options": "nosniff",
}

logger = logging.getLogger("trio_watchbus.web")


class Answer(NamedTuple):
    """A whole response.

    Attributes:
        body: its body; None for the answer to HEAD without the length of a body.
        status: the HTTP status.
        headers: its headers, but for the length of the body.
    """

    body: bytes | None
    status: int
    headers: dict[str, str]


@final
class Refusal(Exception):  # noqa: N818
    """A request that is not served.

    Attributes:
        status: the HTTP status.
        code: what is wrong, for programs.
        detail: what is wrong and what to do, for people.
        headers: further headers of the answer.
    """

    def __init__(
        self, status: int, code: str, detail: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(status, code, detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers or {}


def json_answer(fields: object, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    """Return the answer that says `fields`."""
    # The newline is for people who read it in a terminal.
    body = msgspec.json.encode(fields) + b"\n"
    return Answer(body, status, {**_HEADERS, **headers} if headers else dict(_HEADERS))


def error_answer(error: Exception) -> Answer:
    """Return the answer to a request that raised `error`, without internal details.

    Logs the error if the server is to blame.
    """
    refusal = _refusal_of(error)
    if refusal is None:
        logger.error("a request failed", exc_info=error)
        refusal = Refusal(500, "internal", "a fault of the server; it has been logged")
    headers = dict(refusal.headers)
    if refusal.status in (429, 503):
        headers["Retry-After"] = str(RETRY_AFTER)
    fields = {"error": {"code": refusal.code, "detail": refusal.detail}}
    return json_answer(fields, refusal.status, headers)


def last_answer(refusal: Refusal) -> bytes:
    """Return the bytes of an HTTP/1.1 response that refuses and announces the end."""
    answer = error_answer(refusal)
    body = answer.body or b""
    headers = {
        **answer.headers,
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    lines = [
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def unavailable() -> Refusal:
    """Return the refusal for a request that the bus's backend cannot serve now."""
    return Refusal(503, "unavailable", "the bus cannot be reached now; try again later")


def _refusal_of(error: Exception) -> Refusal | None:
    """Return the refusal that `error`, raised by a bus, amounts to; None for internal errors.

    A client's own mistake is told in the error's words; trouble inside is not described.
    """
    match error:
        case Refusal():
            return error
        case InvalidKeyError(too_long=True):
            return Refusal(414, "key_too_long", str(error))
        case InvalidKeyError():
            return Refusal(400, "invalid_key", str(error))
        case InvalidPositionError():
            return Refusal(400, "invalid_position", str(error))
        case MessageTooLargeError():
            return Refusal(413, "message_too_large", str(error))
        case PublishUnknownError():
            return Refusal(
                503,
                "publish_unknown",
                "the message may or may not have been stored; sending it again is safe with the"
                " header Idempotency-Key that it was sent with",
            )
        case BusUnavailableError() | trio.ClosedResourceError() | trio.BrokenResourceError():
            return unavailable()
    return None
