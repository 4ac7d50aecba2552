"""The journal is the tail of a list; the history of keys is the tails of lists by key."""

from __future__ import annotations

from itertools import chain
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive import keys, make_message, prefixes, reaches, sequence

from trio_watchbus import Message, Retention
from trio_watchbus._core._journal import Journal, Reading
from trio_watchbus._core._selection import Selection
from trio_watchbus._core._values import Values, number_of
from trio_watchbus._message import Position
from trio_watchbus._request import WatchRequest

EVERYTHING = Selection(WatchRequest((), [""]))

contents = st.lists(st.tuples(keys, st.binary(max_size=6)), max_size=40)


def make_messages(content: list[tuple[str, bytes]], start: int = 0) -> list[Message]:
    return [make_message(start + n, key, data) for n, (key, data) in enumerate(content, 1)]


def size(messages: list[Message]) -> int:
    return sum(len(message.key) + len(message.data) for message in messages)


def selected(values: Values, request: WatchRequest) -> list[Message]:
    return sorted(chain.from_iterable(values.pages(request, 2)), key=number_of)


def check_equal(journal: Journal, held: list[Message], last: int) -> None:
    """`journal` holds `held`, the newest being number `last`, and can be read from anywhere."""
    assert journal.last == last
    assert journal.first == last - len(held) + 1
    assert len(journal) == len(held)
    assert journal.bytes == size(held)
    for start in range(len(held) + 1):
        assert journal.since(journal.first - 1 + start) == held[start:]
        at = start
        reading = Reading(EVERYTHING, journal.first - 1 + at)
        for limit in (1, 2, 1000):
            assert reading.read(journal, limit, inf) == held[at : at + limit]
            at = min(at + limit, len(held))
            assert reading.cursor == journal.first - 1 + at


@given(contents, st.integers(1, 12), st.integers(1, 80), st.integers(0, 10**6))
def test_it_is_the_longest_tail_within_the_bounds(
    content: list[tuple[str, bytes]], most: int, most_bytes: int, start: int
) -> None:
    journal = Journal(Retention(messages=most, bytes=most_bytes), Position("e", start))
    held: list[Message] = []
    check_equal(journal, held, start)
    for message in make_messages(content, start):
        journal.append(message)
        held.append(message)
        while len(held) > most or size(held) > most_bytes:
            del held[0]
        check_equal(journal, held, sequence(message.id))


@given(st.lists(st.integers(0, 10), max_size=40), st.integers(1, 12))
def test_what_is_older_than_the_bound_when_a_message_comes_is_dropped(
    pauses: list[int], seconds: int
) -> None:
    now = 0.0
    journal = Journal(Retention(seconds=seconds), Position("e", 0), lambda: now)
    held: list[Message] = []
    for number, pause in enumerate(pauses, 1):
        now += pause
        message = make_message(number, time=now)
        journal.append(message)
        held.append(message)
        held = [kept for kept in held if kept.time >= now - seconds]
        check_equal(journal, held, number)


def test_history_is_in_the_order_of_numbers() -> None:
    """Not of their text, in which 10 comes before 9."""
    history = Values(Retention(per_key=20))
    messages = make_messages([("a", b""), ("b", b"")] * 6)
    for message in messages:
        history.append(message)
    assert selected(history, WatchRequest((), [""], history=20)) == messages


def test_a_message_that_alone_exceeds_the_bytes_is_counted_and_not_held() -> None:
    journal = Journal(Retention(bytes=10), Position("e", 0))
    journal.append(make_message(1, "k", b"1234"))
    journal.append(make_message(2, "k", b"1234567890"))
    check_equal(journal, [], 2)
    journal.append(make_message(3, "k", b"123456789"))
    check_equal(journal, [make_message(3, "k", b"123456789")], 3)


@given(contents, st.integers(0, 1000))
def test_after_a_restart_it_holds_nothing_and_counts_from_there(
    content: list[tuple[str, bytes]], start: int
) -> None:
    journal = Journal(Retention(messages=7), Position("e", 0))
    for message in make_messages(content):
        journal.append(message)
    journal.restart(Position("e", start))
    check_equal(journal, [], start)
    journal.append(make_message(start + 1))
    check_equal(journal, [make_message(start + 1)], start + 1)


@given(contents, st.integers(0, 4), st.integers(0, 5))
def test_history_keeps_the_newest_of_the_most_recently_published_keys(
    content: list[tuple[str, bytes]], per_key: int, most_keys: int
) -> None:
    history = Values(Retention(per_key=per_key, keys=most_keys))
    kept: dict[str, list[Message]] = {}
    for message in make_messages(content):
        history.append(message)
        # Taken out and put in again: a dict is in the order of the latest publish.
        kept[message.key] = [*kept.pop(message.key, []), message][-per_key or 2**31 :]
        if per_key == 0 or len(kept) > most_keys:
            kept.pop(next(iter(kept)))
        assert len(history) == len(kept)
    for key in {key for key, _ in content} | {"none"}:
        assert history.latest(key) == (kept[key][-1] if key in kept else None)


@given(
    contents,
    st.lists(keys, max_size=3),
    st.lists(prefixes, max_size=2),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_history_selects_of_each_covered_key_the_newest_oldest_first(
    content: list[tuple[str, bytes]],
    watched: list[str],
    watched_prefixes: list[str],
    wanted: int,
    per_key: int,
) -> None:
    if not watched and not watched_prefixes:
        watched = ["a"]
    history = Values(Retention(per_key=per_key))
    messages = make_messages(content)
    for message in messages:
        history.append(message)
    expected = []
    for key in {key for key, _ in content}:
        if reaches(watched, watched_prefixes, key, is_prefix=False):
            expected += [m for m in messages if m.key == key][-min(wanted, per_key) :]
    expected.sort(key=lambda message: sequence(message.id))
    request = WatchRequest(watched, watched_prefixes, history=wanted)
    assert selected(history, request) == expected


@pytest.mark.parametrize("bound", [1, 2, 1023, 1024, 1025, 3000])
def test_it_never_holds_more_than_its_bound_of_messages(bound: int) -> None:
    journal = Journal(Retention(messages=bound), Position("e", 0))
    for number in range(1, 3 * bound + 10):
        journal.append(make_message(number))
        assert len(journal) == min(number, bound)
    newest = 3 * bound + 9
    assert [sequence(m.id) for m in journal.since(newest - bound)] == list(
        range(newest - bound + 1, newest + 1)
    )
