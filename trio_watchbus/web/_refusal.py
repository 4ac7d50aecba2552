"""What is wrong with a request, and how that is answered."""

from __future__ import annotations

from typing import final

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


@final
class Refusal(Exception):  # noqa: N818
    """A request that is not served.

    Attributes:
        status: the HTTP status.
        code: what is wrong, for programs.
        detail: what is wrong and what to do, for people.
    """

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(status, code, detail)
        self.status = status
        self.code = code
        self.detail = detail


def refusal_of(error: Exception) -> Refusal | None:
    """Return how `error`, raised by a bus, is answered; None where it is nobody's but ours.

    What a client did wrong is told in the error's words; of what is wrong inside, only that.
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


def unavailable() -> Refusal:
    """Return how a request is answered that came while the bus has no backend."""
    return Refusal(503, "unavailable", "the bus cannot be reached now; try again later")
