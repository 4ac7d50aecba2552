"""The query of a request, decoded strictly: what is not understood is refused, never guessed."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from .._keys import check_key, check_prefix
from .._message import Position
from .._protocol import MAX_HISTORY
from ._answer import Refusal

_BARE_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class StreamQuery(NamedTuple):
    """What a client wants to receive.

    Attributes:
        keys: the keys.
        prefixes: the prefixes.
        after: the position to resume from, or None.
        history: how many kept messages of each key come first to a client that does not resume.
        json: whether messages come as JSON objects rather than as their data alone.
    """

    keys: list[str]
    prefixes: list[str]
    after: str | None
    history: int
    json: bool


class PublishQuery(NamedTuple):
    """Where one message goes.

    Attributes:
        name: the key or prefix.
        is_prefix: whether it is a prefix.
    """

    name: str
    is_prefix: bool


def parse_stream_query(query: bytes, last_event_id: str | None, max_keys: int) -> StreamQuery:
    """Return what the query of a stream asks for.

    Args:
        query: as it stands in the URL.
        last_event_id: the header of that name, if any. It wins over the query, as a browser that
            reconnects asks for the same URL.
        max_keys: keys and prefixes that are allowed, together.

    Raises:
        Refusal: the query does not say what to stream, or says it wrongly.
        InvalidKeyError: a key or prefix is not valid.
        InvalidPositionError: `last_event_id` or ``after`` is no position.
    """
    values = _parse(query, ("key", "prefix", "after", "history", "format"))
    keys, prefixes = values["key"], values["prefix"]
    if not keys and not prefixes:
        raise Refusal(
            400, "missing_key", "name what to watch: ?key=… or ?prefix=…, each repeatable"
        )
    if len(keys) + len(prefixes) > max_keys:
        raise Refusal(
            400, "too_many_keys", f"a request may name at most {max_keys} keys and prefixes"
        )
    for key in keys:
        check_key(key)
    for prefix in prefixes:
        check_prefix(prefix)
    after = _one(values, "after")
    history = _count(_one(values, "history"), "history", MAX_HISTORY)
    form = _one(values, "format")
    if form not in (None, "raw", "json"):
        raise Refusal(400, "invalid_format", "format must be raw or json")
    if last_event_id:
        after = last_event_id
    elif after is not None and history:
        raise Refusal(
            400,
            "after_with_history",
            "give after or history, not both: after already says where to start",
        )
    if after is not None:
        Position.parse(after)
    return StreamQuery(keys, prefixes, after, history or 0, form == "json")


def parse_publish_query(query: bytes) -> PublishQuery:
    """Return the key or prefix that the query of one publish names.

    Raises:
        Refusal: it does not name exactly one.
        InvalidKeyError: it is not valid.
    """
    values = _parse(query, ("key", "prefix"))
    key, prefix = _one(values, "key"), _one(values, "prefix")
    if key is not None and prefix is None:
        return PublishQuery(check_key(key), is_prefix=False)
    if prefix is not None and key is None:
        return PublishQuery(check_prefix(prefix), is_prefix=True)
    raise Refusal(400, "missing_key", "name where to publish: either ?key=… or ?prefix=…")


def check_no_query(query: bytes, instead: str) -> None:
    """Return if the query is empty.

    Args:
        query: as it stands in the URL.
        instead: what the client is told otherwise: where to name what it named there.

    Raises:
        Refusal: it is not.
    """
    if query.strip(b"&"):
        raise Refusal(400, "unknown_parameter", instead)


def accepts(accept: str | None, media_type: str) -> bool:
    """Whether the header ``Accept`` accepts a type, by RFC 9110, section 12.5.1.

    Args:
        accept: the header; absent or empty, it accepts everything. Parameters other than ``q``
            are passed over.
        media_type: the type, in lower case.
    """
    if accept is None or not accept.strip(" \t,"):
        return True
    ranges = (media_type, f"{media_type.partition('/')[0]}/*", "*/*")
    weights: dict[str, float] = {}
    for part in accept.lower().split(","):
        name, *parameters = (field.strip() for field in part.split(";"))
        weights[name] = max(weights.get(name, 0), _weight(parameters))
    # The most specific range decides.
    return next((weights[name] > 0 for name in ranges if name in weights), False)


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            found = re.fullmatch(r"[01](?:\.[0-9]{0,3})?", value.strip())
            return float(found[0]) if found else 0
    return 1


def _parse(query: bytes, known: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the values of each known parameter.

    Not the framework's parser: that turns what is not UTF-8 into other text, and so into another
    key than the client meant.
    """
    values: dict[str, list[str]] = {name: [] for name in known}
    for part in query.split(b"&"):
        if part:
            name, _, value = part.partition(b"=")
            parameter = _decode(name)
            if parameter not in values:
                raise Refusal(
                    400,
                    "unknown_parameter",
                    f"unknown parameter {parameter[:80]!r}; this route takes {', '.join(known)}",
                )
            values[parameter].append(_decode(value))
    return values


def _decode(quoted: bytes) -> str:
    if _BARE_PERCENT.search(quoted):
        raise Refusal(
            400, "invalid_query", "a % in a query must be followed by two hexadecimal digits"
        )
    try:
        return unquote_to_bytes(quoted.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        raise Refusal(400, "invalid_query", "a query must be UTF-8, percent-encoded") from None


def _one(values: dict[str, list[str]], name: str) -> str | None:
    given = values[name]
    if len(given) > 1:
        raise Refusal(400, "repeated_parameter", f"{name} may be given once")
    return given[0] if given else None


def _count(text: str | None, name: str, most: int) -> int | None:
    if text is None:
        return None
    # Not int(): that takes signs, spaces, underscores and the digits of every script.
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) > most:
        raise Refusal(400, f"invalid_{name}", f"{name} must be a number from 0 to {most}")
    return int(text)
