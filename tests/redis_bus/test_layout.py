"""What stands in Redis: messages are read as they were written, anything else is passed over."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_watchbus import InvalidKeyError, Message
from trio_watchbus._message import Position
from trio_watchbus._redis._layout import Names, number_of, read_log, read_stream

keys = st.text(st.characters(codec="utf-8"), min_size=1, max_size=5)
times = st.integers(0, 2**43)
garbage = st.tuples(
    st.sampled_from([b"1-0", b"2-5", b"x", b"", b"-", b"7", b"\xff-0", b"9-0-0"]),
    st.lists(
        st.one_of(st.binary(max_size=3), st.sampled_from([b"k", b"p", b"d", b"t"])), max_size=8
    ),
)


def entry(position: Position, message: Message, before: str) -> tuple[bytes, list[bytes]]:
    """An entry of the log as the script writes it."""
    kind = b"p" if message.is_prefix else b"k"
    time = b"%d" % round(message.time * 1000)
    fields = [kind, message.key.encode(), b"d", message.data, b"t", time]
    fields += [b"n", position.branch.encode(), b"a", before.encode()]
    return (b"%d-0" % position.sequence, fields)


@given(
    st.lists(
        st.tuples(
            st.integers(1, 30),
            keys,
            st.binary(max_size=5),
            times,
            st.booleans(),
            st.sampled_from(["a", "b"]),
            st.sampled_from(["", "a", "b"]),
        ),
        unique_by=lambda item: item[0],
    ),
    st.lists(garbage),
    st.lists(st.binary(max_size=3), max_size=2),
    st.randoms(use_true_random=False),
)
def test_messages_are_read_as_written(
    items: list[tuple[int, str, bytes, int, bool, str, str]],
    others: list[tuple[bytes, list[bytes]]],
    more_fields: list[bytes],
    random: Any,
) -> None:
    """Every message is read, in runs in which each names the one before; others are counted.

    Fields after those that are known are ignored.
    """
    messages, entries = [], []
    for number, key, data, time, is_prefix, nonce, before in sorted(items):
        position = Position("e", number, nonce)
        messages.append(Message(key, data, str(position), time / 1000, is_prefix))
        identifier, fields = entry(position, messages[-1], before)
        entries.append((identifier, fields + more_fields))
    for other in others:
        entries.insert(random.randrange(len(entries) + 1), other)
    page = read_log(entries, "e")
    read = [message for run in page.runs for message in run.messages]
    # Some garbage is a message by chance; what is one is read in its place.
    assert [message for message in read if message in messages] == messages
    assert len(read) + page.skipped == len(entries)
    predecessors = {f"e_{item[5]}-{item[0]}": item[6] for item in items}
    for run in page.runs:
        last = run.before
        for message in run.messages:
            position = Position.parse(message.id)
            assert position.sequence == last.sequence + 1
            assert predecessors.get(message.id, last.branch) == last.branch
            last = position
    assert page.cursor == (entries[-1][0] if entries else None)


@given(st.lists(garbage))
def test_streams_of_keys_pass_over_what_is_none_of_ours(
    entries: list[tuple[bytes, list[bytes]]],
) -> None:
    """Nothing that others write there breaks reading."""
    ours = (b"5-0", [b"data", b"x", b"t", b"1500", b"e", b"epoch"])
    assert Message("k", b"x", "epoch-5", 1.5) in read_stream("k", [*entries, ours])


def test_names() -> None:
    """All names start with the namespace, and keys stand in them as they are."""
    names = Names("{a}:b")
    assert names.log == b"{a}:b:log"
    assert names.stream("k*:é") == "{a}:b:key:k*:é".encode()
    assert names.script("state", 1) == ("SCRIPT", b"{a}:b:meta", "state", 1)
    assert number_of(b"17-0") == 17
    with pytest.raises(InvalidKeyError):
        Names("")


@pytest.mark.parametrize(
    "fields",
    [
        [b"data", b"x", b"t", b"no time", b"e", b"epoch"],
        [b"data", b"x", b"t", b"1", b"e", b"\xff"],
        [b"data", b"x", b"t", b"1", b"e", b"not an epoch"],
        [b"data", b"x", b"t", b"1"],
        [b"t"],
    ],
)
def test_what_almost_is_one_of_ours_is_passed_over(fields: list[bytes]) -> None:
    """Hypothesis does not come upon these by itself."""
    ours = (b"5-0", [b"data", b"x", b"t", b"1500", b"e", b"epoch"])
    assert read_stream("k", [(b"4-0", fields), ours]) == [Message("k", b"x", "epoch-5", 1.5)]
