"""A batch of messages as NDJSON: a JSON object on each line, decoded strictly."""

from __future__ import annotations

import binascii
import json
from base64 import b64decode
from collections.abc import Mapping
from typing import Never

from .._keys import check_key, check_prefix
from .._message import check_data
from ..abc import Publication
from ._refusal import Refusal

MEDIA_TYPE = "application/x-ndjson"

_MAX_DIGITS = 20
"""Digits of an integer that are looked at: as many as 64 bits have."""


def parse_batch(body: bytes, max_messages: int, max_message_size: int) -> list[Publication]:
    """Return the messages that the lines of `body` say; empty lines say none.

    Args:
        body: the lines.
        max_messages: messages that are allowed.
        max_message_size: bytes of data that each may have.

    Raises:
        Refusal: a line is no message, and which; or there are too many.
    """
    messages: list[Publication] = []
    for number, line in enumerate(body.split(b"\n"), 1):
        if line and not line.isspace():
            if len(messages) == max_messages:
                raise Refusal(
                    413, "batch_too_large", f"a batch may have at most {max_messages} messages"
                )
            try:
                messages.append(parse_publication(parse_object(line), max_message_size))
            # Every error of keys, data and JSON is one.
            except ValueError as error:
                raise Refusal(400, "invalid_line", f"line {number}: {error}") from None
    return messages


def parse_object(text: bytes | str) -> dict[str, object]:
    """Return the JSON object that `text` is.

    Raises:
        ValueError: it is no JSON, or no object, or takes a liberty that parsers differ on: a
            field twice, NaN, a number or a nesting without measure, text that is not UTF-8.
    """
    try:
        value = json.loads(
            text.decode() if isinstance(text, bytes) else text,
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_int=_parse_int,
        )
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004
    return value


def parse_publication(fields: Mapping[str, object], max_message_size: int) -> Publication:
    """Return the message that the fields of a JSON object say.

    Args:
        fields: ``key`` or ``prefix``, and ``data`` or ``data_base64``.
        max_message_size: bytes of data that are allowed.

    Raises:
        ValueError: they say none.
    """
    unknown = set(fields) - {"key", "prefix", "data", "data_base64"}
    if unknown:
        raise ValueError(f"unknown field {min(unknown)[:80]!r}")
    name, text = _either(fields, "key", "prefix"), _either(fields, "data", "data_base64")
    if "data" in fields:
        try:
            data = text.encode()
        except UnicodeEncodeError:
            raise ValueError("data may not have a lone surrogate") from None
    else:
        data = _decode_base64(text)
    check_data(data, max_message_size)
    if "prefix" in fields:
        return check_prefix(name), data, True
    return check_key(name), data


def _either(fields: Mapping[str, object], one: str, other: str) -> str:
    if (one in fields) == (other in fields):
        raise ValueError(f"give either {one} or {other}")
    name = one if one in fields else other
    value = fields[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string")  # noqa: TRY004
    return value


def _decode_base64(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("data_base64 is not base64") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields: dict[str, object] = {}
    for name, value in pairs:
        if name in fields:
            raise ValueError(f"field {name[:80]!r} is given twice")
        fields[name] = value
    return fields


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"not JSON: {name}")


def _parse_int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)
