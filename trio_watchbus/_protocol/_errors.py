"""Errors of requests, as frames and as exceptions."""

from __future__ import annotations

from typing import Literal

from .._errors import (
    BusUnavailableError,
    HistoryLostError,
    InvalidKeyError,
    InvalidPositionError,
    MessageTooLargeError,
    PublishUnknownError,
)
from ._answers import Error, known_reason

Code = Literal[
    "malformed",
    "invalid_request",
    "invalid_key",
    "invalid_position",
    "message_too_large",
    "history_lost",
    "duplicate_id",
    "unknown_id",
    "limit",
    "unavailable",
    "publish_unknown",
    "failed",
]

# A subclass stands before its base.
_CODES: dict[type[Exception], Code] = {
    InvalidKeyError: "invalid_key",
    InvalidPositionError: "invalid_position",
    MessageTooLargeError: "message_too_large",
    HistoryLostError: "history_lost",
    ValueError: "invalid_request",
    PublishUnknownError: "publish_unknown",
    BusUnavailableError: "unavailable",
}

# In place of what a backend said, which may name hosts and users: that goes to the log alone.
_DETAILS: dict[Code, str] = {
    "publish_unknown": "it may or may not have been stored; publish it again with the same"
    " idempotency key",
    "unavailable": "the bus cannot be reached at the moment; nothing was done",
    "failed": "the server failed; its log says why",
}


class RequestError(Exception):
    """A request that cannot be done; the connection goes on.

    Attributes:
        identifier: the request's id, or None where it has none.
        code: what is wrong, for programs.
        detail: what is wrong, for people.
    """

    def __init__(self, identifier: int | None, code: Code, detail: str) -> None:
        super().__init__(identifier, code, detail)
        self.identifier = identifier
        self.code = code
        self.detail = detail


def error_answer(identifier: int | None, error: Exception) -> Error:
    """Return the frame that tells a client why its request was not done."""
    if isinstance(error, RequestError):
        return Error(id=error.identifier, code=error.code, detail=error.detail)
    codes = (code for kind, code in _CODES.items() if isinstance(error, kind))
    code: Code = next(codes, "failed")
    answer = Error(id=identifier, code=code, detail=_DETAILS.get(code) or str(error))
    if isinstance(error, HistoryLostError):
        answer.reason = error.reason
        answer.position = error.position
    return answer


def error_of(answer: Error, idempotency_key: str | None = None) -> Exception:
    """Return the error that `answer` reports, as a bus raises it.

    Args:
        answer: the frame.
        idempotency_key: that of the publish which it answers, if it is one.
    """
    if answer.reason is not None and answer.position is not None:
        return HistoryLostError(known_reason(answer.reason) or "trimmed", answer.position)
    if answer.code == "publish_unknown" and idempotency_key is not None:
        return PublishUnknownError(answer.detail, idempotency_key=idempotency_key)
    if answer.code == "limit":
        return ValueError(answer.detail)
    for kind, code in _CODES.items():
        if code == answer.code and kind not in (HistoryLostError, PublishUnknownError):
            return kind(answer.detail)
    return BusUnavailableError(f"the server refused: {answer.detail}")
