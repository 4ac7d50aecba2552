"""Each message goes to the watches that it reaches, and every loss is told in its place."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from naive import keys, make_message, prefixes, reaches, received_now

from trio_watchbus import HistoryLostError, Message, Retention, WatchLaggedError
from trio_watchbus._core._dispatcher import Dispatcher
from trio_watchbus._core._watch import BufferedWatch
from trio_watchbus._message import Position
from trio_watchbus._request import WatchRequest


class Feed:
    """A dispatcher, and what numbers its messages; a message's data is its number."""

    def __init__(self, **retention: Any) -> None:
        self.dispatcher = Dispatcher(Position("e", 0), Retention(**retention))

    def publish(self, *addressed: str, is_prefix: bool = False) -> None:
        for name in addressed:
            number = self.dispatcher.journal.last + 1
            identifier = f"{self.dispatcher.epoch}-{number}"
            message = Message(name, b"%d" % number, identifier, float(number), is_prefix)
            self.dispatcher.accept(message)

    def watch(self, *names: str, after: Position | None = None, **how: Any) -> BufferedWatch:
        return self.dispatcher.register(WatchRequest(names, (), **how), after)

    def watch_prefix(self, *names: str, **how: Any) -> BufferedWatch:
        return self.dispatcher.register(WatchRequest((), names, **how))


def lag(missed: int | None, position: str, reason: str = "trimmed") -> tuple[object, ...]:
    return (missed, position, reason)


def told(watch: BufferedWatch) -> list[bytes | tuple[object, ...]]:
    """What `watch` gives now, with losses as what they say."""
    return [
        lag(got.missed, got.position, got.reason) if isinstance(got, WatchLaggedError) else got
        for got in received_now(watch)
    ]


registrations = st.lists(
    st.tuples(st.sets(keys, max_size=3), st.sets(prefixes, max_size=2)).filter(any), max_size=6
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), keys),
        st.tuples(st.just("publish to prefix"), prefixes),
        st.tuples(
            st.just("register"), st.tuples(st.sets(keys, max_size=2), st.sets(prefixes, max_size=2))
        ),
        st.tuples(st.just("leave"), st.integers(0, 5)),
    ),
    max_size=30,
)


@pytest.mark.parametrize("cached", [True, False])
@given(registrations, steps)
def test_a_message_goes_once_to_each_watch_that_it_reaches(
    cached: bool, registered: list[tuple[set[str], set[str]]], taken: list[tuple[str, Any]]
) -> None:
    """With the routes of earlier messages at hand, and without them."""
    feed = Feed()
    watches: list[tuple[BufferedWatch, set[str], set[str], list[bytes]]] = []

    def register(names: set[str], starts: set[str]) -> None:
        watch = feed.dispatcher.register(WatchRequest(names, starts))
        watches.append((watch, names, starts, []))

    for names, starts in registered:
        register(names, starts)
    for what, argument in taken:
        if not cached:
            feed.dispatcher.routes._forget_all()
        if what == "register":
            if any(argument):
                register(*argument)
        elif what == "leave":
            if argument < len(watches):
                watches.pop(argument)[0].close()
        else:
            is_prefix = what == "publish to prefix"
            feed.publish(argument, is_prefix=is_prefix)
            for _, names, starts, expected in watches:
                if reaches(names, starts, argument, is_prefix=is_prefix):
                    expected.append(b"%d" % feed.dispatcher.journal.last)
    for watch, _, _, expected in watches:
        assert received_now(watch) == expected
        watch.close()
    assert feed.dispatcher.watches == set()
    assert feed.dispatcher.keys.nodes == feed.dispatcher.prefixes.nodes == 0


NAMES = ["f", "fo", "foo", "fob", "bar", "*", "f*", "f?", "[f]", "\\", "{f}", "f\u00e9", "fe\u0301"]


@pytest.mark.parametrize("is_prefix", [False, True])
@pytest.mark.parametrize("addressed", NAMES)
def test_what_a_request_matches_is_what_is_handed_on(addressed: str, is_prefix: bool) -> None:
    """So that what is replayed from the journal is what would have come live."""
    feed = Feed()
    requests = [
        WatchRequest(names, starts)
        for name in NAMES
        for names, starts in (
            ([name], []),
            ([name, "other"], []),
            ([], [name]),
            (["other"], [name]),
            ([], ["other", name]),
        )
    ]
    watches = [feed.dispatcher.register(request) for request in requests]
    feed.publish(addressed, addressed, is_prefix=is_prefix)
    messages = feed.dispatcher.journal.since(0)
    for request, watch in zip(requests, watches, strict=True):
        expected = reaches(request.keys, request.prefixes, addressed, is_prefix=is_prefix)
        assert request.matches(messages[0]) == expected
        assert request.select(messages) == messages * expected
        assert request.covers(addressed) == reaches(
            request.keys, request.prefixes, addressed, is_prefix=False
        )
        assert received_now(watch) == [b"1", b"2"] * expected


def test_the_routes_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what they hold together: with many watches fewer of them are remembered."""
    monkeypatch.setattr("trio_watchbus._core._routes._BOUND", 200)
    for watches, most in ((1, 11), (84, 2)):
        feed = Feed()
        watching = [feed.watch_prefix("") for _ in range(watches)]
        longest = 0
        for number in range(100):
            feed.publish(f"k{number}")
            longest = max(longest, len(feed.dispatcher.routes.known))
            assert sum(len(route) + 16 for route in feed.dispatcher.routes.known.values()) <= 200
        assert longest == most
        assert feed.dispatcher.routes.met
        assert len(received_now(watching[0])) == 100


def test_a_watch_that_registers_after_keys_were_published_to_gets_what_follows() -> None:
    """What was remembered about those keys before does not hide it."""
    feed = Feed()
    feed.publish("a", "b", "ab")
    by_key, by_prefix = feed.watch("a"), feed.watch_prefix("a")
    feed.publish("a", "b", "ab")
    assert received_now(by_key) == [b"4"]
    assert received_now(by_prefix) == [b"4", b"6"]


def test_a_watch_opened_amid_a_batch_gets_none_of_it_and_all_that_follows() -> None:
    """Also of messages whose routes are looked up after it was opened."""
    dispatcher = Dispatcher(Position("e", 0), Retention())
    early = dispatcher.register(WatchRequest(["a", "b"], ()))
    dispatcher.accept_in_steps([make_message(n, "ab"[n % 2], b"%d" % n) for n in range(1, 9)])
    assert dispatcher.step(1)
    late = dispatcher.register(WatchRequest(["a"], ["b"]))
    dispatcher.finish()
    dispatcher.accept(make_message(9, "b", b"9"))
    assert received_now(early) == [b"%d" % n for n in range(1, 10)]
    assert received_now(late) == [b"9"]


def test_a_watch_that_left_gets_nothing_more_and_the_others_do() -> None:
    feed = Feed()
    leaving, staying, covering = feed.watch("a"), feed.watch("a"), feed.watch_prefix("")
    feed.publish("a")
    leaving.close()
    feed.publish("a")
    assert received_now(staying) == received_now(covering) == [b"1", b"2"]
    assert leaving.statistics().buffered == 0
    assert feed.dispatcher.keys.nodes == 1
    covering.close()
    feed.publish("a")
    assert covering.statistics().buffered == 0


# Resuming


def test_after_gives_what_followed_and_then_what_comes() -> None:
    feed = Feed()
    feed.publish("a", "b", "a")
    watch = feed.watch("a", after=Position("e", 1))
    feed.publish("a", "b")
    assert received_now(watch) == [b"3", b"4"]


@pytest.mark.parametrize("after", range(4, 8))
def test_after_reaches_back_to_the_oldest_held_exactly(after: int) -> None:
    feed = Feed(messages=3)
    feed.publish(*"aaaaaaa")
    assert feed.dispatcher.oldest == Position("e", 4)
    watch = feed.watch("a", after=Position("e", after))
    assert received_now(watch) == [b"%d" % number for number in range(after + 1, 8)]


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (Position("e", 3), "trimmed"),
        (Position("e", 0), "trimmed"),
        (Position("e", 8), "future"),
        (Position("f", 5), "epoch"),
    ],
)
def test_after_is_refused_where_not_all_that_followed_is_held(after: Position, reason: str) -> None:
    feed = Feed(messages=3)
    feed.publish(*"aaaaaaa")
    with pytest.raises(HistoryLostError) as raised:
        feed.watch("b", after=after)
    assert (raised.value.reason, raised.value.position) == (reason, "e-4")
    assert feed.dispatcher.watches == set()
    assert feed.dispatcher.keys.nodes == 0


def test_after_the_newest_of_an_empty_journal_is_resumable() -> None:
    feed = Feed()
    assert received_now(feed.watch("a", after=Position("e", 0))) == []
    other = Dispatcher(Position("e", 7), Retention())
    other.register(WatchRequest(["a"], ()), Position("e", 7))
    for sequence, reason in ((6, "trimmed"), (8, "future")):
        with pytest.raises(HistoryLostError) as raised:
            other.check(Position("e", sequence))
        assert raised.value.reason == reason


@pytest.mark.parametrize("count", [1, 1023, 1024, 1025, 3000])
def test_a_long_journal_is_replayed_whole_in_buffers_of_any_size(count: int) -> None:
    feed = Feed()
    feed.publish(*(["x"] * 1000), *(["a", "x"] * count))
    for buffer_size in (1, 7, 1024):
        watch = feed.watch("a", after=Position("e", 0), buffer_size=buffer_size)
        assert watch.statistics().buffered <= buffer_size
        assert received_now(watch) == [b"%d" % (1001 + 2 * n) for n in range(count)]
        assert watch.statistics().state == "synced"


def test_a_resumed_watch_that_keeps_the_latest_gives_the_newest_of_each_key_alone() -> None:
    """However small its buffer: that is no bound on what it may skip."""
    feed = Feed()
    feed.publish("a", "b", "a", "b", "a")
    watch = feed.watch("a", "b", after=Position("e", 0), overflow="latest", buffer_size=1)
    assert told(watch) == [b"4", b"5"]
    assert watch.statistics().state == "synced"


# Lagging


def test_a_watch_overtaken_by_the_journal_is_told_how_many_it_missed() -> None:
    feed = Feed(messages=3)
    watch = feed.watch("a", buffer_size=2)
    feed.publish("a", "a", "a", "b", "a", "b", "a", "a")
    # Held: 6 to 8; of what it should have received, 3 and 5 are gone.
    assert told(watch) == [b"1", b"2", lag(2, "e-5"), b"7", b"8"]
    feed.publish("a")
    assert told(watch) == [b"9"]


def test_a_watch_that_only_missed_what_it_does_not_match_is_told_nothing() -> None:
    feed = Feed(messages=3)
    watch = feed.watch("a", buffer_size=1)
    feed.publish("a", "a")
    assert watch.receive_nowait().data == b"1"
    feed.publish("b", "b")
    assert told(watch) == [b"2"]
    feed.publish("b", "b", "b", "b")
    assert told(watch) == []


def test_a_watch_far_behind_that_still_finds_all_it_matches_is_told_nothing() -> None:
    feed = Feed(messages=6)
    feed.publish("a", "a", "b", "b", "a")
    watch = feed.watch("a", after=Position("e", 0), buffer_size=2)
    feed.publish("b", "b", "b", "b", "b")
    # Read up to 2, it has 5 to come; held is what follows 4.
    assert feed.dispatcher.oldest == Position("e", 4)
    assert told(watch) == [b"1", b"2", b"5"]


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_what_overtakes_a_resumed_watch_that_may_drop_is_counted(overflow: str) -> None:
    feed = Feed(messages=3)
    feed.publish(*"aaa")
    watch = feed.watch("a", after=Position("e", 0), buffer_size=1, overflow=overflow)
    feed.publish(*"aaa")
    assert told(watch) == [b"1", b"4", b"5", b"6"]
    assert watch.statistics().dropped == 2


def test_a_watch_can_be_overtaken_again_and_again() -> None:
    feed = Feed(messages=2)
    watch = feed.watch("a", buffer_size=1)
    feed.publish(*"aaaa")
    assert watch.receive_nowait().data == b"1"
    with pytest.raises(WatchLaggedError) as raised:
        watch.receive_nowait()
    assert (raised.value.missed, raised.value.position) == (1, "e-2")
    feed.publish(*"aaa")
    # What was held when the first loss was told is safe from the second.
    assert told(watch) == [b"3", lag(2, "e-5"), b"6", b"7"]


def test_a_loss_leaves_nothing_to_receive_until_more_comes() -> None:
    feed = Feed(messages=1)
    watch = feed.watch("a", buffer_size=1)
    feed.publish("a", "a", "b")
    assert told(watch) == [b"1", lag(1, "e-2")]
    assert watch.statistics().state == "synced"
    feed.publish("a")
    assert told(watch) == [b"4"]


# What the log itself lost


def test_a_hole_in_the_log_is_told_after_what_came_before_it() -> None:
    feed = Feed()
    synced, idle = feed.watch("a"), feed.watch("b")
    behind = feed.watch("a", buffer_size=1)
    feed.publish("a", "a", "x")
    feed.dispatcher.lose(Position("e", 10), 7)
    feed.publish("a", "b")
    assert feed.dispatcher.position == Position("e", 12)
    assert told(synced) == [b"1", b"2", lag(7, "e-10"), b"11"]
    # Message 2 was in the journal, which restarted: it is lost to this one too.
    assert told(behind) == [b"1", lag(8, "e-10"), b"11"]
    # Nobody knows what the lost ones were: every watch is told, of at most so many.
    assert told(idle) == [lag(7, "e-10"), b"12"]


def test_holes_add_up_until_they_are_told() -> None:
    feed = Feed()
    watch = feed.watch("a")
    feed.dispatcher.lose(Position("e", 5), 5)
    feed.publish("a")
    feed.dispatcher.lose(Position("e", 8), 2)
    feed.publish("a")
    assert told(watch) == [lag(8, "e-8"), b"9"]
    feed.dispatcher.lose(Position("e", 11), 2)
    assert told(watch) == [lag(2, "e-11")]


@pytest.mark.parametrize("overflow", ["latest", "drop_oldest", "drop_newest"])
def test_what_the_log_lost_is_told_to_watches_that_may_drop_too(overflow: str) -> None:
    feed = Feed()
    watch = feed.watch("a", overflow=overflow)
    feed.publish("a")
    feed.dispatcher.lose(Position("e", 3), 2)
    feed.publish("a")
    assert told(watch) == [b"1", lag(2, "e-3"), b"4"]
    assert watch.statistics().dropped == 0


def test_what_follows_a_hole_may_be_dropped_again() -> None:
    feed = Feed(messages=2)
    watch = feed.watch("a", overflow="drop_oldest", buffer_size=1)
    feed.dispatcher.lose(Position("e", 3), 3)
    feed.publish("a", "a")
    with pytest.raises(WatchLaggedError):
        watch.receive_nowait()
    feed.publish("a", "a")
    assert told(watch) == [b"4", b"6", b"7"]
    assert watch.statistics().dropped == 1


def test_a_rewritten_history_is_told_in_its_place_and_another_epoch_follows() -> None:
    feed = Feed()
    watch, prefix_watch = feed.watch("a"), feed.watch_prefix("")
    feed.publish("a", "b")
    feed.dispatcher.lose(Position("f", 0), None, rewritten=True)
    feed.publish("a")
    assert told(watch) == [b"1", lag(None, "f-0", "epoch"), b"1"]
    assert told(prefix_watch) == [b"1", b"2", lag(None, "f-0", "epoch"), b"1"]
    assert watch.position == "f-1"
    with pytest.raises(HistoryLostError) as raised:
        feed.dispatcher.check(Position("e", 2))
    assert raised.value.reason == "epoch"


def test_where_a_watch_is_before_it_is_told_of_a_rewrite_counts_in_the_old_epoch() -> None:
    """Whoever resumes from there is refused, and not given another history's messages."""
    feed = Feed()
    watch = feed.watch("a")
    feed.publish("a", "a")
    assert told(watch) == [b"1", b"2"]
    feed.dispatcher.lose(Position("f", 0), None, rewritten=True)
    feed.publish("a", "a", "a")
    assert watch.position == "e-2"
    assert told(watch) == [lag(None, "f-0", "epoch"), b"1", b"2", b"3"]
    assert watch.position == "f-3"


def test_a_watch_opened_after_a_rewrite_is_told_nothing() -> None:
    feed = Feed()
    feed.publish("a")
    feed.dispatcher.lose(Position("f", 0), None, rewritten=True)
    watch = feed.watch("a")
    feed.publish("a")
    assert told(watch) == [b"1"]


def test_a_rewrite_to_higher_numbers_is_told_too() -> None:
    """The epoch decides: that the number is ahead of the watch's proves nothing."""
    feed = Feed()
    watch = feed.watch("a")
    feed.publish("a")
    feed.dispatcher.lose(Position("f", 50), None, rewritten=True)
    feed.publish("a")
    assert told(watch) == [b"1", lag(None, "f-50", "epoch"), b"51"]


async def test_a_waiting_consumer_is_told_of_a_loss_at_once() -> None:
    feed = Feed()
    watch = feed.watch("a")
    lagged: list[WatchLaggedError] = []

    async def consume() -> None:
        try:
            await watch.receive()
        except WatchLaggedError as error:
            lagged.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(consume)
        await trio.testing.wait_all_tasks_blocked()
        feed.dispatcher.lose(Position("e", 4), 4)
    assert [error.missed for error in lagged] == [4]


# Ending


def test_when_the_bus_closes_its_watches_first_give_what_was_accepted() -> None:
    feed = Feed()
    synced, behind = feed.watch("a"), feed.watch("a", buffer_size=1)
    feed.publish("a", "a")
    feed.dispatcher.close()
    for watch in (synced, behind):
        assert watch.receive_nowait().data == b"1"
        assert watch.receive_nowait().data == b"2"
        with pytest.raises(trio.EndOfChannel):
            watch.receive_nowait()


def test_when_the_bus_fails_its_watches_say_why() -> None:
    feed = Feed()
    first, second = feed.watch("a"), feed.watch("b")
    failure = OSError("the disk is on fire")
    feed.publish("a")
    feed.dispatcher.close(failure)
    assert first.receive_nowait().data == b"1"
    errors = []
    for watch in (first, second, second):
        with pytest.raises(trio.BrokenResourceError) as raised:
            watch.receive_nowait()
        assert raised.value.__cause__ is failure
        errors.append(raised.value)
    # One of their own each: an error that is raised twice gathers the tracebacks of both.
    assert len(set(errors)) == 3


def test_the_first_end_is_the_one_that_counts() -> None:
    feed = Feed()
    watch = feed.watch("a")
    feed.dispatcher.close()
    feed.dispatcher.close(OSError())
    with pytest.raises(trio.EndOfChannel):
        watch.receive_nowait()


# Branches of one epoch


def branched(branch: str, number: int, name: str = "a") -> Message:
    return Message(name, b"%d" % number, f"e_{branch}-{number}", float(number))


def test_positions_are_the_texts_of_messages_and_no_arithmetic() -> None:
    """Different messages of one journal may be of different branches."""
    dispatcher = Dispatcher(Position("e", 3, "start"), Retention(messages=3))
    watch = dispatcher.register(WatchRequest(["a"], (), buffer_size=1))
    assert watch.position == "e_start-3"
    for number, (branch, name) in enumerate([("x", "b"), ("y", "a"), ("z", "a"), ("y", "b")], 4):
        dispatcher.accept(branched(branch, number, name))
    assert str(dispatcher.position) == "e_y-7"
    # The newest that was dropped.
    assert str(dispatcher.oldest) == "e_x-4"
    assert watch.position == "e_x-4"
    assert watch.receive_nowait().data == b"5"
    assert watch.position == "e_y-5"
    assert watch.receive_nowait().data == b"6"
    assert watch.position == "e_y-7"
    for branch in "uv":
        dispatcher.accept(branched(branch, dispatcher.journal.last + 1, "b"))
    assert watch.position == "e_v-9"


def test_after_a_message_of_a_branch_that_was_replaced_is_refused() -> None:
    """The number alone would resume in another history, and say nothing."""
    dispatcher = Dispatcher(Position("e", 0), Retention(messages=3))
    for number in range(1, 6):
        dispatcher.accept(branched("new", number))
    for text in ("e_new-2", "e_new-4", "e_new-5"):
        dispatcher.check(Position.parse(text))
    for text in ("e_old-2", "e_old-4", "e_old-5", "e-4"):
        with pytest.raises(HistoryLostError) as raised:
            dispatcher.check(Position.parse(text))
        assert (raised.value.reason, raised.value.position) == ("epoch", "e_new-2")
    with pytest.raises(HistoryLostError) as raised:
        dispatcher.check(Position.parse("e_old-6"))
    assert raised.value.reason == "future"


def test_a_branch_that_replaced_another_is_told_as_a_rewrite() -> None:
    dispatcher = Dispatcher(Position("e", 0), Retention())
    watch = dispatcher.register(WatchRequest(["a"], ()))
    dispatcher.accept(branched("old", 1))
    dispatcher.lose(Position("e", 1, "new"), None, rewritten=True)
    assert watch.position == "e-0"
    dispatcher.accept(branched("new", 2))
    assert told(watch) == [b"1", lag(None, "e_new-1", "epoch"), b"2"]
    assert watch.position == "e_new-2"


def test_a_quiet_watch_can_be_resumed_where_its_next_message_waits() -> None:
    """Not only from where it received its last, which the journal may have dropped long ago."""
    feed = Feed(messages=3)
    watch = feed.watch("a")
    feed.publish(*"bbbbbba")
    assert watch.position == "e-6"
    watch.close()
    assert received_now(feed.watch("a", after=Position.parse(watch.position))) == [b"7"]


def test_a_position_is_past_what_was_never_for_the_watch_though_nothing_is_held() -> None:
    """Resuming there is refused as trimmed; from the last message received, too much was lost."""
    dispatcher = Dispatcher(Position("e", 0), Retention(messages=1, bytes=1))
    old = make_message(1, "a")
    dispatcher.accept(old)
    dispatcher.accept(make_message(2, "a"))
    waiting, behind = (dispatcher.register(WatchRequest(["a"], (), buffer_size=1)) for _ in "wb")
    for watch in (waiting, behind):
        watch.load_history([old], "e-0")
    waiting.receive_nowait()
    dispatcher.accept(make_message(3, "a", b"longer than all that is held"))
    behind.receive_nowait()
    assert (waiting.statistics().buffered, behind.statistics().unread) == (1, 1)
    assert waiting.position == behind.position == "e-2"
