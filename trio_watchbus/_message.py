"""What a bus carries, and where in its order a message stands."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import msgspec

from ._errors import InvalidPositionError, MessageTooLargeError
from ._keys import check_key, check_prefix

MAX_MESSAGE_SIZE = 1024 * 1024
"""Bytes of data in one message unless a bus is told otherwise: as in NATS, and small enough that
a thousand buffered messages do not exhaust a process."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """One message, immutable.

    Attributes:
        key: the key that it was published to; for a message sent to a prefix, that prefix.
        data: what was published.
        id: its position in the bus's order, ``epoch-sequence`` or ``epoch_branch-sequence``.
            Opaque: pass it as ``after`` to receive everything that follows this message.
        time: when the bus accepted it, in seconds since 1970, UTC.
        is_prefix: whether it was sent to every key under a prefix.
    """

    key: str
    data: bytes
    id: str
    time: float
    is_prefix: bool = False


_POSITION = re.compile(
    r"([0-9A-Za-z]{1,64})(?:_([0-9A-Za-z]{1,32}))?-(0|[1-9][0-9]{0,17})", re.ASCII
)


class Position(NamedTuple):
    """A place between two messages of a bus: all up to `sequence` are before it.

    A sequence alone would resume wrongly after the numbering restarted, hence the epoch; the pair
    is Centrifuge's. A backend whose data can be replaced by an older copy may number two different
    messages alike within one epoch; it sets `branch` to a nonce, so that their positions differ.

    Attributes:
        epoch: names the numbering.
        sequence: the number of the newest message before this place.
        branch: the nonce with which that message was stored; empty where the epoch suffices.
    """

    epoch: str
    sequence: int
    branch: str = ""

    def __str__(self) -> str:
        branch = f"_{self.branch}" if self.branch else ""
        return f"{self.epoch}{branch}-{self.sequence}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Return the position that `text` writes.

        Raises:
            TypeError: it is not a ``str``.
            InvalidPositionError: it is not a position.
        """
        if not isinstance(text, str):
            raise TypeError(f"a position is a str, not {type(text).__name__}")
        match = _POSITION.fullmatch(text)
        if match is None:
            raise InvalidPositionError(
                f"not a position: {text[:80]!r}; use a message's id or a watch's position"
            )
        return cls(match[1], int(match[3]), match[2] or "")


def check_data(data: object, max_message_size: int) -> bytes:
    """Return `data` as bytes of its own.

    Raises:
        TypeError: it is not bytes, a bytearray or a memoryview.
        MessageTooLargeError: it is longer than `max_message_size` bytes.
    """
    if isinstance(data, (bytearray, memoryview)):
        data = bytes(data)
    if not isinstance(data, bytes):
        hint = "; encode it first, as in data.encode()" if isinstance(data, str) else ""
        raise TypeError(f"data must be bytes, not {type(data).__name__}{hint}")
    if len(data) > max_message_size:
        raise MessageTooLargeError(
            f"the data has {len(data)} bytes, and this bus takes at most {max_message_size}"
        )
    return data


def check_publication(item: Any, max_message_size: int) -> tuple[str, bytes, bool]:
    """Return an item of a batch with its third part, whether it is to a prefix, and its own data.

    Raises:
        TypeError: it is not ``(key, data)`` or ``(prefix, data, True)``, or a part of it is wrong.
        InvalidKeyError: the key or prefix is not valid.
        MessageTooLargeError: the data is longer than `max_message_size` bytes.
    """
    try:
        key, data, is_prefix = item if len(item) == 3 else (*item, False)
    except (TypeError, ValueError):
        raise TypeError("an item of a batch is (key, data) or (prefix, data, True)") from None
    (check_prefix if is_prefix else check_key)(key)
    return key, check_data(data, max_message_size), bool(is_prefix)
