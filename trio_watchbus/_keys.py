"""The one validator of keys and prefixes."""

from __future__ import annotations

import re

from ._errors import InvalidKeyError

MAX_KEY_BYTES = 512
"""Bytes of UTF-8 in a key: long enough for any path of identifiers, short enough for a URL."""

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def check_key(key: object, what: str = "key") -> str:
    """Return `key` if it is one: a ``str`` of 1 to 512 bytes without control characters.

    Args:
        key: what to check.
        what: what to call it in errors.

    Raises:
        TypeError: it is not a ``str``.
        InvalidKeyError: it is empty, too long, or has a character that no key may have.
    """
    checked = check_prefix(key, what)
    if not checked:
        raise InvalidKeyError(f"this {what} is empty; it needs at least one character")
    return checked


def check_prefix(prefix: object, what: str = "prefix") -> str:
    """Return `prefix` if it is one: as a key, but it may be empty.

    Args:
        prefix: what to check.
        what: what to call it in errors.

    Raises:
        TypeError: it is not a ``str``.
        InvalidKeyError: it is too long, or has a character that no key may have.
    """
    if not isinstance(prefix, str):
        raise TypeError(f"the {what} must be a str, not {type(prefix).__name__}")
    try:
        length = len(prefix.encode())
    except UnicodeEncodeError as error:
        raise InvalidKeyError(
            f"this {what} has a lone surrogate (at character {error.start}); none may have one"
        ) from None
    if length > MAX_KEY_BYTES:
        raise InvalidKeyError(
            f"this {what} has {length} bytes as UTF-8; at most {MAX_KEY_BYTES} are allowed",
            too_long=True,
        )
    control = _CONTROL.search(prefix)
    if control is not None:
        raise InvalidKeyError(
            f"this {what} has a control character"
            f" (U+{ord(control[0]):04X} at character {control.start()}); none may have one"
        )
    return prefix
