"""Frames that a client sends.

Parsed by Python's own JSON parser, as msgspec silently takes the last of two fields of the same
name; then converted by msgspec. Fields that a later client may send are ignored.
"""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import Annotated, Any, NoReturn, cast

import msgspec
from msgspec import Meta, Struct

from .._request import Overflow
from ._common import (
    MAX_HISTORY,
    Count,
    Identifier,
    MalformedFrameError,
    data_fields,
    printable,
)
from ._errors import RequestError

_INTEGER_LENGTH = 20
"""Characters of an integer; longer ones are refused, as no field allows them."""

_QUOTES_OF_TWO = 8

_SHORT = 1000
"""Characters of a text that the strict parser takes less than a millisecond for, whatever it is."""

_MOST_STRINGS = 8
"""Strings in a publication: the names of its four fields, and their values."""

_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"')

_TEXT_BYTES = 65_536
"""Bytes of data that are published as text, which people can read in their browser's tools."""


class _Request(Struct, tag_field="op", omit_defaults=True):
    pass


class Watch(_Request, tag="watch"):
    """Open a watch on the union of these keys and prefixes; answered by `Watching` or `Error`.

    Its history comes in `Messages` before `Watching`. With `lossy`, where `after` cannot be resumed
    from exactly, `Lagged` comes before that, and it goes on after the loss. `window` is how many
    messages may come after `Watching` before the client has asked for `More`; absent, as many as
    the connection carries.
    """

    id: Identifier
    key: str | None = None
    prefix: str | None = None
    keys: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    after: str | None = None
    lossy: bool = False
    history: Annotated[int, Meta(ge=0, le=MAX_HISTORY)] = 0
    overflow: Overflow = "replay"
    buffer_size: Count | None = None
    window: Count | None = None

    def all_keys(self) -> list[str]:
        """Return the keys in either field."""
        return [*self.keys] if self.key is None else [self.key, *self.keys]

    def all_prefixes(self) -> list[str]:
        """Return the prefixes in either field."""
        return [*self.prefixes] if self.prefix is None else [self.prefix, *self.prefixes]


class More(_Request, tag="more"):
    """Let the server send `count` more messages of a watch. Not answered."""

    id: Identifier
    count: Count


class Unwatch(_Request, tag="unwatch"):
    """Close a watch; answered by `Unwatched`, after which its id may be used again."""

    id: Identifier


class Publication(Struct, omit_defaults=True):
    """One message to publish: a key or a prefix, and data as text or as base64."""

    key: str | None = None
    prefix: str | None = None
    data: str | None = None
    data_base64: bytes | None = None

    def item(self) -> tuple[str, bytes, bool]:
        """Return it as an item of a batch: key or prefix, data, whether it is a prefix.

        Raises:
            ValueError: there is not exactly one of key and prefix, or not one kind of data.
        """
        if (self.key is None) == (self.prefix is None):
            raise ValueError("a message to publish needs either key or prefix")
        if (self.data is None) == (self.data_base64 is None):
            raise ValueError("a message to publish needs either data or data_base64")
        data = self.data_base64
        if self.data is not None:
            try:
                data = self.data.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"data may not have a lone surrogate (at character {error.start})"
                ) from None
        is_prefix = self.key is None
        return cast(str, self.prefix if is_prefix else self.key), cast(bytes, data), is_prefix


class _Line(Publication, forbid_unknown_fields=True):
    """A publication on a line of a batch, where a field's name may be mistyped by hand."""


_PLAIN_PUBLICATION = msgspec.json.Decoder(_Line)


class Publish(Publication, tag_field="op", tag="publish", kw_only=True):
    """Publish one message; answered by `Published` or `Error`."""

    id: Identifier
    idempotency_key: str | None = None


class PublishMany(_Request, tag="publish_many"):
    """Publish a batch, all or nothing; answered by `Published` or `Error`."""

    id: Identifier
    messages: tuple[Publication, ...]
    idempotency_key: str | None = None


class Latest(_Request, tag="latest"):
    """Ask for the newest kept message of a key; answered by `LatestMessage` or `Error`."""

    id: Identifier
    key: str


class WatchedKeys(_Request, tag="watched_keys"):
    """Ask which keys are watched; answered by `WatchedKeySet` or `Error`."""

    id: Identifier
    prefix: str = ""


class Ping(_Request, tag="ping"):
    """Ask for a `Pong`."""


Request = Watch | More | Unwatch | Publish | PublishMany | Latest | WatchedKeys | Ping


def parse_request(text: str) -> Request:
    """Return the request that a client's frame makes.

    Raises:
        MalformedFrameError: it is not a JSON object with an ``op``.
        RequestError: its op is unknown, or a field is missing or of a wrong type.
    """
    value = _load_object(text)
    if not isinstance(value.get("op"), str):
        raise MalformedFrameError("a frame needs the field op, a string")
    return _convert(value, Request)  # type: ignore[no-any-return]


def parse_publication(text: str) -> Publication:
    """Return the publication that a JSON object alone writes, as on a line of a batch.

    Raises:
        MalformedFrameError: it is not a JSON object.
        RequestError: a field is unknown or of a wrong type.
    """
    # The common case in one step: where all quotes are those of two fields, and one is a name and
    # the other data, neither is there twice.
    if text.count('"') == _QUOTES_OF_TWO and "\\" not in text:
        try:
            found = _PLAIN_PUBLICATION.decode(text)
            found.item()
        except (msgspec.MsgspecError, ValueError):
            # What is wrong is said below.
            pass
        else:
            return found
    _check_few_fields(text)
    return _convert(_load_object(text), _Line)  # type: ignore[no-any-return]


def _check_few_fields(text: str) -> None:
    """Return if `text` has no more in it than the fields of a publication.

    The strict parser takes a microsecond for each value, of which a line of megabytes may have a
    million. msgspec, a hundred times as fast, stops at the first one that does not belong; what is
    left are fields given again and again, and those have quotes.

    Raises:
        MalformedFrameError: it is not JSON, or has the same field twice.
        RequestError: it is not an object, or a field is unknown or of a wrong type.
    """
    if len(text) < _SHORT:
        return
    try:
        _PLAIN_PUBLICATION.decode(text)
    except msgspec.ValidationError as error:
        raise RequestError(None, "invalid_request", printable(str(error))[:_SHORT]) from None
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as error:
        raise MalformedFrameError(f"not JSON: {printable(str(error))[:_SHORT]}") from None
    strings = sum(1 for _ in islice(_STRING.finditer(text), _MOST_STRINGS + 1))
    if strings > _MOST_STRINGS:
        raise MalformedFrameError("a JSON object with the same field twice")


def publication_fields(key: str, data: bytes, is_prefix: bool) -> dict[str, Any]:
    """Return the fields of a `Publication` of `data` to a key or prefix."""
    # As text, data could grow sixfold, and a frame beyond what the server takes.
    text, binary = data_fields(data) if len(data) <= _TEXT_BYTES else (None, data)
    return {"prefix" if is_prefix else "key": key, "data": text, "data_base64": binary}


def _convert(value: dict[str, Any], kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise RequestError(_identifier(value), "invalid_request", printable(str(error))) from None


def _identifier(value: dict[str, Any]) -> int | None:
    """Return the id of a request that is wrong otherwise, if it has one."""
    try:
        return msgspec.convert(value.get("id"), Identifier)
    except msgspec.ValidationError:
        return None


def _load_object(text: str) -> dict[str, Any]:
    """Return the JSON object that `text` is, with nothing in it that parsers disagree about."""
    try:
        value = _STRICT_JSON.decode(text)
    except json.JSONDecodeError as error:
        raise MalformedFrameError(f"not JSON: {error}") from None
    except RecursionError:
        raise MalformedFrameError("JSON that is nested too deeply") from None
    if not isinstance(value, dict):
        raise MalformedFrameError("not a JSON object")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedFrameError("a JSON object with the same field twice")
    return found


def _integer(digits: str) -> int:
    if len(digits) > _INTEGER_LENGTH:
        raise MalformedFrameError(f"an integer of {len(digits)} digits")
    return int(digits)


def _refuse(constant: str) -> NoReturn:
    raise MalformedFrameError(f"not JSON: {constant}")


_STRICT_JSON = json.JSONDecoder(
    object_pairs_hook=_without_duplicates, parse_int=_integer, parse_constant=_refuse
)
