"""What `nox -s fuzz` feeds for long, fed what Hypothesis makes up."""

from __future__ import annotations

import pytest
from fuzz.targets import SEEDS, TARGETS
from hypothesis import given
from hypothesis import strategies as st

GRAMMAR = [
    *("{", "}", "[", "]", ":", ",", '"', "\\", "\n", "\r", " ", "0", "1", "-", "=", "&", "%", "+"),
    *("null", "true", "\\ud800", "\\u0000", "1e400", "NaN", "\ud800", "\u2028", "\0", "%ff", "%00"),
    *('"op"', '"id"', '"key"', '"data"', "key", "prefix", "history", "after", "id: ", "data: "),
]
"""Pieces that what is parsed is made of."""


@st.composite
def broken(draw: st.DrawFn, name: str) -> bytes:
    """A valid input with a piece replaced, taken out or put in, once or more often."""
    text = draw(st.sampled_from(SEEDS[name])).decode(errors="surrogateescape")
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 6)))
        text = text[:start] + draw(st.sampled_from(GRAMMAR) | st.text(max_size=3)) + text[end:]
    return text.encode(errors="surrogatepass")


@pytest.mark.parametrize("name", TARGETS)
@given(st.data())
def test_target(name: str, data: st.DataObject) -> None:
    TARGETS[name](data.draw(st.binary(max_size=60) | broken(name)))


@pytest.mark.parametrize("name", TARGETS)
def test_target_takes_its_examples(name: str) -> None:
    for seed in SEEDS[name]:
        TARGETS[name](seed)
