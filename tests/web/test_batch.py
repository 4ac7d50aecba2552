"""Batches as NDJSON."""

from __future__ import annotations

import base64
import json

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trio_watchbus.abc import Publication
from trio_watchbus.web._answer import Refusal
from trio_watchbus.web._publish import parse_batch as parse_batch_in_steps


def parse_batch(body: bytes, max_messages: int, max_message_size: int) -> list[Publication]:
    return trio.run(parse_batch_in_steps, body, max_messages, max_message_size)


KEYS = st.text(
    alphabet=st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=50
)
PUBLICATIONS = st.tuples(KEYS, st.binary(), st.just(False)) | st.tuples(
    KEYS | st.just(""), st.binary(), st.just(True)
)


def line_of(publication: tuple[str, bytes, bool], ascii_only: bool) -> bytes:
    key, data, is_prefix = publication
    fields = {"prefix" if is_prefix else "key": key}
    try:
        fields["data"] = data.decode()
    except UnicodeDecodeError:
        fields["data_base64"] = base64.b64encode(data).decode()
    return json.dumps(fields, ensure_ascii=ascii_only).encode()


@given(
    st.lists(PUBLICATIONS, max_size=10),
    st.booleans(),
    st.sampled_from([b"\n", b"\r\n", b"\n\n", b" \n\t\n"]),
)
def test_messages_come_as_they_are(
    messages: list[tuple[str, bytes, bool]], ascii_only: bool, end: bytes
) -> None:
    """Whatever they carry, however JSON writes them, and whatever ends the lines."""
    body = end.join(line_of(message, ascii_only) for message in messages)
    assert parse_batch(body, 10, 1000) == messages


def parse_or_refuse(body: bytes) -> list[Publication] | Refusal:
    try:
        return parse_batch(body, 10, 1000)
    except Refusal as refusal:
        return refusal


@given(st.binary() | st.text().map(lambda text: text.encode(errors="replace")))
def test_anything_else_is_refused_and_nothing_else_is_raised(body: bytes) -> None:
    """A batch is understood, or what is wrong with it is said."""
    result = parse_or_refuse(body)
    if isinstance(result, Refusal):
        assert (result.status, result.code) == (400, "invalid_line")
        assert result.detail.startswith("line ")
    else:
        assert result == []


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
FIELDS = st.dictionaries(
    st.sampled_from(["key", "prefix", "data", "data_base64", "x"]), JSON, max_size=4
)


@given(FIELDS)
def test_any_object_is_understood_or_refused(fields: dict[str, object]) -> None:
    """What is understood has one key or prefix and one kind of data, and both are text."""
    result = parse_or_refuse(json.dumps(fields).encode())
    if isinstance(result, Refusal):
        assert (result.status, result.code) == (400, "invalid_line")
    else:
        assert len(result) == 1
        assert len(fields) == 2
        assert all(isinstance(value, str) for value in fields.values())


def test_the_line_is_named() -> None:
    """Counted as an editor counts: from 1, empty lines too."""
    with pytest.raises(Refusal) as caught:
        parse_batch(b'\n{"key": "a", "data": ""}\n\n{"key": "a"}\n', 10, 1000)
    assert caught.value.detail.startswith("line 4: ")


def test_bounds() -> None:
    """As many messages, and as large ones, as are allowed, and none more."""
    line = b'{"key": "a", "data": "1234"}\n'
    assert len(parse_batch(line * 2, 2, 4)) == 2
    with pytest.raises(Refusal) as caught:
        parse_batch(line * 3, 2, 4)
    assert caught.value.status == 413
    with pytest.raises(Refusal, match="at most 3"):
        parse_batch(line, 2, 3)
