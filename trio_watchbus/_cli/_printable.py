"""Text and data of others, made safe to show on a terminal."""

from __future__ import annotations

import re

# All of C0 but tab and newline, DEL, C1; line and paragraph separators; what overrides, embeds or
# isolates the direction of text; and surrogates, which stand for bytes that are not UTF-8.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]",
)


def printable(text: str) -> str:
    r"""Return `text` with everything that a terminal would act on escaped, as ``\x1b``.

    Tabs and newlines stay.
    """
    return _UNSAFE.sub(_escape, text)


def printable_data(data: bytes) -> bytes:
    """Return the data of a message as `printable` text; bytes that are not UTF-8 are escaped."""
    return printable(data.decode(errors="surrogateescape")).encode()


def printable_json(line: bytes) -> bytes:
    """Return a line of JSON with what `printable` escapes escaped in JSON's own way."""
    # Such characters stand in strings alone, so that the line still means the same.
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", line.decode()).encode()


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
