"""The text of a stream of Server-Sent Events. No input or output."""

from __future__ import annotations

import re
from base64 import b64encode

import msgspec

from .._message import Message
from .._protocol import encode_message
from ._formats import as_text

CONTENT_TYPE = "text/event-stream"

_END_OF_LINE = re.compile(rb"\r\n|\n|\r")


def raw_event(message: Message) -> bytes:
    """Return `message` as an event whose data is the message's.

    The three line ends all become a line feed with the client, as the format cannot tell them
    apart. Data that is not UTF-8 goes in base64, as an event of type ``base64``.
    """
    data = message.data
    if as_text(data) is None:
        return b"id: %b\nevent: base64\ndata: %b\n\n" % (message.id.encode(), b64encode(data))
    if b"\n" in data or b"\r" in data:
        data = b"\ndata: ".join(_END_OF_LINE.split(data))
    return b"id: %b\ndata: %b\n\n" % (message.id.encode(), data)


def json_event(message: Message) -> bytes:
    """Return `message` as an event whose data is a JSON object that says everything about it."""
    return b"id: %b\ndata: %b\n\n" % (message.id.encode(), encode_message(message))


def at_position(event: bytes, position: str | None) -> bytes:
    """Return `event`, a message's, with another id than the message's.

    Args:
        event: as `raw_event` and `json_event` return it.
        position: where a client resumes that has got so far; None where it was before.
    """
    return _id_line(position) + event.partition(b"\n")[2]


def opening(position: str | None, retry: int) -> bytes:
    """Return what a stream begins with.

    Args:
        position: where a client resumes that comes back before any message; None where it was.
        retry: milliseconds after which a client comes back that lost its connection.
    """
    return b"retry: %d\n%b\n" % (retry, _id_line(position))


def bookmark(position: str) -> bytes:
    """Return an event that a client does not see, but resumes from."""
    return _id_line(position) + b"\n"


def gap_event(reason: str, missed: int | None, position: str | None) -> bytes:
    """Return the event that says that messages are lost.

    Args:
        reason: why, as in `HistoryLostError`.
        missed: how many, or None where nobody knows.
        position: where a client resumes that has got so far; None where it was before.
    """
    data = msgspec.json.encode({"reason": reason, "missed": missed})
    return _id_line(position) + b"event: gap\ndata: %b\n\n" % data


def end_event(reason: str, retry: int) -> bytes:
    """Return the last event of a stream that the server ends.

    Args:
        reason: why.
        retry: milliseconds after which the client may come back.
    """
    data = msgspec.json.encode({"reason": reason})
    return b"retry: %d\nevent: end\ndata: %b\n\n" % (retry, data)


def _id_line(position: str | None) -> bytes:
    """Return what sets where a client resumes; nothing for None, which leaves it as it is."""
    return b"" if position is None else b"id: %b\n" % position.encode()
