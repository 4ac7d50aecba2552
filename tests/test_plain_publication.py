"""A publication in plain JSON, parsed in one step, means what it means to the strict parser."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import example, given
from hypothesis import strategies as st

from trio_watchbus._protocol import MalformedFrameError, RequestError, parse_publication
from trio_watchbus._protocol._requests import Publication, _convert, _Line, _load_object

NAMES = ["key", "prefix", "data", "data_base64", "other", ""]
VALUES = ['"a"', '""', '"YQ=="', '"YQ"', '"\u00e9\U0001f600"', '"\x1f"', '"\ud800"', '"\\u0061"']
OTHERS = ["1", "null", "NaN", "{}", "[]", "true", "1e999"]

fields = st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES * 3 + OTHERS)).map(
    lambda field: f'"{field[0]}":{field[1]}'
)
objects = st.lists(fields, max_size=4).map(lambda found: "{" + ",".join(found) + "}")
spoiled = st.tuples(
    st.sampled_from(["", " ", "\ufeff", "\xa0"]), objects, st.sampled_from(["", "\n", " x", "{}"])
).map("".join)


def outcome(parse: Callable[[str], Publication], text: str) -> object:
    """What comes of parsing: a publication, or the kind and words of the refusal."""
    try:
        return parse(text)
    except (MalformedFrameError, RequestError) as error:
        return type(error), str(error)


@given(spoiled)
@example('{"key":"a","data":"b"}')
@example('{"key":"a","key":"b"}')
@example('{"key":"a","data":"\ud800"}')
def test_both_ways_come_to_the_same(text: str) -> None:
    strict = outcome(lambda whole: _convert(_load_object(whole), _Line), text)
    assert outcome(parse_publication, text) == strict
