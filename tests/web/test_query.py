"""Queries, decoded strictly."""

from __future__ import annotations

from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_watchbus import InvalidKeyError, InvalidPositionError
from trio_watchbus._protocol import MAX_HISTORY
from trio_watchbus.web._answer import Refusal
from trio_watchbus.web._query import parse_publish_query, parse_stream_query

KEYS = st.text(
    alphabet=st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=100
)


@given(st.lists(KEYS, min_size=1, max_size=5), st.lists(KEYS, max_size=5), st.booleans())
def test_keys_and_prefixes_come_as_they_are(
    keys: list[str], prefixes: list[str], plus: bool
) -> None:
    """Whatever a key is, and however a client quotes it."""
    escape = quote_plus if plus else quote
    parts = [f"key={escape(key)}" for key in keys] + [f"prefix={escape(p)}" for p in prefixes]
    query = parse_stream_query("&".join(parts).encode(), None, 10)
    assert (query.keys, query.prefixes) == (keys, prefixes)
    assert (query.after, query.history, query.json) == (None, 0, False)


@given(st.binary(max_size=40))
def test_anything_else_is_refused_and_nothing_else_is_raised(text: bytes) -> None:
    """A query is understood, or what is wrong with it is said."""
    try:
        query = parse_stream_query(b"key=" + text, None, 10)
    except (Refusal, InvalidKeyError, InvalidPositionError):
        return
    assert query.keys


def test_all_parameters() -> None:
    """Each is taken, in any order, with empty parts between."""
    query = parse_stream_query(b"&format=json&&history=7&key=a&", None, 10)
    assert query == (["a"], [], None, 7, True)
    assert parse_stream_query(b"prefix=&after=e-5&format=raw", None, 1).after == "e-5"


def test_the_header_wins() -> None:
    """A position in the header stands before what the URL says; an empty one is none."""
    for text in (b"key=a", b"key=a&after=e-1", b"key=a&history=1", b"key=a&after=e-1&history=1"):
        assert parse_stream_query(text, "e-9", 10).after == "e-9"
    assert parse_stream_query(b"key=a&history=3", "e-9", 10).history == 3
    assert parse_stream_query(b"key=a&after=e-1", "", 10).after == "e-1"


def test_no_history_goes_with_a_position() -> None:
    """As in the library: a history of none asks for nothing that `after` does not say."""
    query = parse_stream_query(b"key=a&after=e-1&history=0", None, 10)
    assert (query.after, query.history) == ("e-1", 0)
    with pytest.raises(Refusal, match="after_with_history"):
        parse_stream_query(b"key=a&after=e-1&history=1", None, 10)


def test_history_is_bounded() -> None:
    """As many as a client may have, and none more."""
    assert parse_stream_query(b"key=a&history=%d" % MAX_HISTORY, None, 10).history == MAX_HISTORY
    with pytest.raises(Refusal, match="history"):
        parse_stream_query(b"key=a&history=%d" % (MAX_HISTORY + 1), None, 10)


def test_keys_are_counted_with_prefixes() -> None:
    """Together they are as many as are allowed."""
    assert parse_stream_query(b"key=a&prefix=b", None, 2)
    with pytest.raises(Refusal, match="at most 1"):
        parse_stream_query(b"key=a&prefix=b", None, 1)


def test_a_publish_names_one_place() -> None:
    """A key, or a prefix, which may be empty."""
    assert parse_publish_query(b"key=a%2Fb") == ("a/b", False)
    assert parse_publish_query(b"prefix=") == ("", True)
    with pytest.raises(InvalidKeyError):
        parse_publish_query(b"key=")
    with pytest.raises(Refusal, match="either"):
        parse_publish_query(b"key=a&prefix=")
