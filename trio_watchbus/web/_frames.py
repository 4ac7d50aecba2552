"""The WebSocket frames that a server sends. No input or output."""

from __future__ import annotations

_TEXT = 0x81
_BINARY = 0x82
"""Whole messages: the first frame is the last one."""


def frame_of(message: str | bytes) -> bytes:
    """Return `message` as one frame: text as text, bytes as binary; neither masked nor compressed.

    By RFC 6455, section 5.2.
    """
    kind, data = (_TEXT, message.encode()) if isinstance(message, str) else (_BINARY, message)
    size = len(data)
    if size < 126:
        return b"%c%c%b" % (kind, size, data)
    if size < 1 << 16:
        return b"%c\x7e%b%b" % (kind, size.to_bytes(2), data)
    return b"%c\x7f%b%b" % (kind, size.to_bytes(8), data)
