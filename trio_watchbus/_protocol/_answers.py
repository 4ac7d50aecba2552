"""Frames that a server sends.

Parsed by msgspec alone, at a seventh of the cost of requests: there may be a thousand messages in
a frame, and the client chose the server.

A later server of the same version may send more: ops, fields, loss reasons, error codes and
encodings of data that are unknown here do not end the connection.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, get_args

import msgspec
from msgspec import Meta, Struct

from .._errors import LossReason, WatchLaggedError
from .._message import Message
from ._common import (
    MAX_FRAME_MESSAGES,
    SUBPROTOCOL,
    Count,
    Identifier,
    MalformedFrameError,
    data_fields,
    printable,
)


class _Answer(Struct, tag_field="op", omit_defaults=True):
    pass


class WireMessage(Struct, omit_defaults=True):
    """A message, its data as text, as base64, or in an encoding that is unknown here."""

    key: str
    id: str
    time: float
    data: str | None = None
    data_base64: bytes | None = None
    prefix: bool = False

    @classmethod
    def of(cls, message: Message) -> WireMessage:
        """Return `message` as it is sent."""
        text, binary = data_fields(message.data)
        return cls(message.key, message.id, message.time, text, binary, message.is_prefix)

    def __post_init__(self) -> None:
        if self.data is not None and self.data_base64 is not None:
            raise ValueError("a message has either data or data_base64")

    def message(self) -> Message | None:
        """Return the message, or None if its data is in no encoding that is known here."""
        data = self.data_base64 if self.data is None else self.data.encode()
        return data if data is None else Message(self.key, data, self.id, self.time, self.prefix)


class Hello(_Answer, tag="hello"):
    """The first frame of a connection: the position of the bus, and the limits of the server.

    `max_message_size` is in bytes of data; in characters, `max_frame_size` is that of a frame that
    publishes, and `max_request_size` that of any other. A batch has at most `max_batch_messages`.
    """

    position: str
    max_message_size: Count
    max_frame_size: Count
    max_request_size: Count
    max_batch_messages: Annotated[int, Meta(ge=1)]


class Watching(_Answer, tag="watching"):
    """A watch is open: every matching message after `position` follows, or its loss.

    All of its history has come; before this frame there is nothing to resume from.
    """

    id: Identifier
    position: str


class Messages(_Answer, tag="messages"):
    """Messages of a watch.

    `position` is where to resume after them. `dropped` is how many messages the overflow kind
    dropped since the watch was opened.
    """

    id: Identifier
    messages: Annotated[tuple[WireMessage, ...], Meta(max_length=MAX_FRAME_MESSAGES)]
    position: str
    dropped: Count = 0


class Lagged(_Answer, tag="lagged"):
    """Messages of a watch are lost at this place in the order; it goes on from `position`."""

    id: Identifier
    missed: Count | None
    position: str
    reason: str

    def loss(self) -> WatchLaggedError:
        """Return the error that it reports; with an unknown reason, of an unknown number."""
        reason = known_reason(self.reason)
        if reason is None:
            return WatchLaggedError(None, self.position)
        return WatchLaggedError(self.missed, self.position, reason)


class Bookmark(_Answer, tag="position", kw_only=True):
    """The position of a watch that had nothing to send; without an id, of the bus.

    Sent after a while of silence, so that a client knows that the server is alive.
    """

    id: Identifier | None = None
    position: str


class Unwatched(_Answer, tag="unwatched"):
    """A watch is closed; nothing more comes for this id."""

    id: Identifier


class Published(_Answer, tag="published"):
    """A publish was accepted: with `message_id`, or a batch with `message_ids`."""

    id: Identifier
    message_id: str | None = None
    message_ids: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if (self.message_id is None) == (self.message_ids is None):
            raise ValueError("what was published has either message_id or message_ids")

    def ids(self) -> tuple[str, ...]:
        """Return the ids, of however many messages."""
        return (self.message_id,) if self.message_id is not None else self.message_ids or ()


class LatestMessage(_Answer, tag="latest"):
    """The newest kept message of the key that was asked for, or null."""

    id: Identifier
    message: WireMessage | None


class WatchedKeySet(_Answer, tag="watched_keys"):
    """The watched keys under the prefix that was asked for."""

    id: Identifier
    keys: tuple[str, ...]


class Pong(_Answer, tag="pong"):
    """The answer to `Ping`."""


class Error(_Answer, tag="error", kw_only=True):
    """A request was not done, or a watch has ended: nothing more comes for this id.

    Only with the code ``"duplicate_id"`` does what had the id before go on. `reason` and `position`
    come with ``"history_lost"``, and are those of `HistoryLostError`.
    """

    id: Identifier | None = None
    code: str
    detail: str
    reason: str | None = None
    position: str | None = None


class End(_Answer, tag="end"):
    """The server is about to close this connection; a new one goes on where it ended."""

    reason: str


Answer = (
    Hello
    | Watching
    | Messages
    | Lagged
    | Bookmark
    | Unwatched
    | Published
    | LatestMessage
    | WatchedKeySet
    | Pong
    | Error
    | End
)


class _EncodedMessages(_Answer, tag="messages"):
    """As `Messages`, with its messages encoded already."""

    id: int
    messages: list[msgspec.Raw]
    position: str
    dropped: int = 0


class _AnyAnswer(Struct):
    op: str


_ANSWERS = msgspec.json.Decoder(Answer)
_ANY_ANSWER = msgspec.json.Decoder(_AnyAnswer)
_OP_AT_START = re.compile(r'\s*\{\s*"op"\s*:\s*"(\w+)"', re.ASCII)
_LONG = 65_536
"""Characters of a frame that is parsed only once, as that takes long: an unknown op has to be its
first field."""

_OPS = {kind.__struct_config__.tag for kind in get_args(Answer)}


def parse_answer(text: str) -> Answer | None:
    """Return the answer that a server's frame is, or None if its op is unknown here.

    Raises:
        MalformedFrameError: it is not an answer.
    """
    try:
        return _ANSWERS.decode(text)  # type: ignore[no-any-return]
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        if _has_unknown_op(text):
            return None
        raise MalformedFrameError(printable(f"not an answer of {SUBPROTOCOL}: {error}")) from None


def _has_unknown_op(text: str) -> bool:
    if len(text) > _LONG:
        at_start = _OP_AT_START.match(text)
        return at_start is not None and at_start[1] not in _OPS
    try:
        return _ANY_ANSWER.decode(text).op not in _OPS
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return False


def known_reason(reason: str | None) -> LossReason | None:
    """Return `reason` if it is a known loss reason, or None."""
    return next((known for known in get_args(LossReason) if known == reason), None)


@dataclass(frozen=True, slots=True)
class SkippedFrame:
    """A frame that was not parsed, and what its two ends tell.

    Attributes:
        reason: why it was not parsed.
        id: the watch or request that it was for, or None if that is not at its start.
        position: where to resume after it, or None if that is not at its end.
    """

    reason: str
    id: int | None
    position: str | None


_ID_AT_START = re.compile(r'\s*\{\s*"op"\s*:\s*"\w+"\s*,\s*"id"\s*:\s*([0-9]{1,16})\s*,', re.ASCII)
_POSITION_AT_END = re.compile(
    r'\]\s*,\s*"position"\s*:\s*"([\w-]+)"\s*(?:,\s*"dropped"\s*:\s*[0-9]+\s*)?\}\s*$', re.ASCII
)


def parse_skipped(reason: str, start: str, end: str) -> SkippedFrame | None:
    """Return what the start and the end of a frame tell; None if its op is unknown here.

    Args:
        reason: why the frame is not parsed.
        start: its first characters.
        end: its last characters.
    """
    op = _OP_AT_START.match(start)
    if op is not None and op[1] not in _OPS:
        return None
    identifier, position = _ID_AT_START.match(start), _POSITION_AT_END.search(end)
    return SkippedFrame(
        reason,
        None if identifier is None else int(identifier[1]),
        None if position is None else position[1],
    )


def encode_message(message: Message) -> bytes:
    """Return `message` as JSON on one line."""
    return msgspec.json.encode(WireMessage.of(message))


def encode_messages(identifier: int, messages: list[bytes], position: str, dropped: int = 0) -> str:
    """Return the text of a `Messages` frame of messages that are encoded already."""
    frame = _EncodedMessages(identifier, list(map(msgspec.Raw, messages)), position, dropped)
    return msgspec.json.encode(frame).decode()
