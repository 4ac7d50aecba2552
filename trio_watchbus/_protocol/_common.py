"""Types and constants that requests and answers share."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

SUBPROTOCOL = "watchbus.v1"

REQUESTS_AT_ONCE = 64
"""Requests of one connection that the server handles at once. With more, it stops reading from that
client until one is done."""

MAX_FRAME_MESSAGES = 1024
"""The most messages in one frame of a watch: enough to share the cost of a frame, and few enough
that a client handles them within a few milliseconds."""

MAX_HISTORY = 1000
"""The most of each key that `history` may ask a served bus for, so that one request cannot fill
memory."""

_LARGEST_INTEGER = 2**53 - 1
"""The largest integer that every JSON parser keeps, those with floats alone included."""

Count = Annotated[int, Meta(ge=0, le=_LARGEST_INTEGER)]

Identifier = Annotated[int, Meta(ge=0, le=_LARGEST_INTEGER)]
"""The number by which a client names one of its open watches or requests."""


class CloseCode(IntEnum):
    """Why a connection was closed."""

    DRAIN = 1001
    POLICY = 1008
    TOO_BIG = 1009
    FAULT = 1011
    MALFORMED = 4400
    UNAUTHENTICATED = 4401
    FORBIDDEN = 4403


class MalformedFrameError(Exception):
    """Not a frame of ``watchbus.v1``: nothing that follows on this connection can be trusted."""


def encode(frame: Struct) -> str:
    """Return the text of a frame."""
    return msgspec.json.encode(frame).decode()


def data_fields(data: bytes) -> tuple[str | None, bytes | None]:
    """Return the fields ``data`` and ``data_base64``: the first if it is UTF-8, or the second."""
    try:
        return data.decode(), None
    except UnicodeDecodeError:
        return None, data


def printable(text: str) -> str:
    """Return `text` as what can be encoded: a lone surrogate in it becomes a question mark."""
    return text.encode(errors="replace").decode()
