"""A message as clients get it, made once for all that get it alike."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar, final

from .._message import Message

_CACHED_MESSAGES = 1024
"""Encoded messages kept: as many as wait in one watch's buffer, so that a thousand streams of one
key, each at its own pace, share them."""

_CACHED_SIZE = 8 * 1024 * 1024
"""Bytes of data in those messages."""

Encoded = TypeVar("Encoded")


def as_text(data: bytes) -> str | None:
    """Return `data` as text, or None where it is not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


@final
class Cached(Generic[Encoded]):
    """An encoder that remembers the messages that it encoded last.

    Args:
        encode: what to remember the results of.
    """

    def __init__(self, encode: Callable[[Message], Encoded]) -> None:
        self._encode = encode
        self._size = 0
        self._known: OrderedDict[str, tuple[int, Encoded]] = OrderedDict()

    def __call__(self, message: Message) -> Encoded:
        """Return `message` encoded."""
        known = self._known.get(message.id)
        if known is not None:
            return known[1]
        encoded = self._encode(message)
        size = len(message.data)
        self._known[message.id] = (size, encoded)
        self._size += size
        while len(self._known) > _CACHED_MESSAGES or self._size > _CACHED_SIZE:
            self._size -= self._known.popitem(last=False)[1][0]
        return encoded
