"""What a request costs follows what it returns, and what is held is bounded in bytes.

Counted in steps and in what is looked at: a clock would tell of the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from journal_steps import steps_of
from naive import keys, make_message, prefixes, reaches, received_now

from trio_watchbus import InMemoryWatchBus, Message, Retention, WatchLaggedError
from trio_watchbus._core._buffers import SMALL, LatestBuffer, size_of
from trio_watchbus._core._delivery import Delivery
from trio_watchbus._core._dispatcher import Dispatcher
from trio_watchbus._core._journal import Journal, Reading
from trio_watchbus._core._routes import STEP, Routes
from trio_watchbus._core._selection import Selection, end_of
from trio_watchbus._core._watch import BufferedWatch
from trio_watchbus._message import Position
from trio_watchbus._request import WatchRequest

MESSAGES = 10_000
BLOCKS = MESSAGES // 256 + 1


@pytest.fixture(scope="module")
def journal() -> Journal:
    """A full one: a thousand keys of ten messages each, on all of whose blocks is an index."""
    journal = Journal(Retention(messages=MESSAGES), Position("e", 0))
    for number in range(1, MESSAGES + 1):
        journal.append(make_message(number, f"k{number % 1000}"))
    journal.count(Selection(WatchRequest((), ["none"])), 0)
    return journal


@contextmanager
def looked_at(journal: Journal, most: int) -> Iterator[None]:
    """Assert that reading looks at no more messages and entries than `most`."""
    before = journal.scanned
    yield
    assert journal.scanned - before <= most


# Reading the journal


@given(
    st.lists(st.tuples(st.booleans(), keys), max_size=600),
    st.lists(keys, max_size=3),
    st.lists(prefixes, max_size=3),
    st.integers(1, 700),
    st.integers(1, 5),
)
def test_what_is_read_is_what_matches(
    sent: list[tuple[bool, str]],
    watched: list[str],
    watched_prefixes: list[str],
    most: int,
    limit: int,
) -> None:
    """From anywhere in it, however little at a time, and though messages are dropped."""
    if not watched and not watched_prefixes:
        watched = ["a"]
    journal = Journal(Retention(messages=most), Position("e", 0))
    sent = sent * 3
    for number, (is_prefix, name) in enumerate(sent, 1):
        journal.append(make_message(number, name, is_prefix=is_prefix))
    selection = Selection(WatchRequest(watched, watched_prefixes))
    for after in {journal.first - 1, (journal.first + journal.last) // 2, journal.last}:
        expected = [
            f"e-{number}"
            for number, (is_prefix, name) in enumerate(sent, 1)
            if number > after and reaches(watched, watched_prefixes, name, is_prefix=is_prefix)
        ]
        reading = Reading(selection, after)
        got: list[str] = []
        while page := reading.read(journal, limit, 10**9):
            assert len(page) <= limit
            got += [message.id for message in page]
        assert got == expected
        assert journal.count(selection, after) == len(expected)


@given(prefixes, keys)
def test_the_end_of_a_prefix_is_right_above_all_that_start_with_it(prefix: str, key: str) -> None:
    end = end_of(prefix)
    assert key.startswith(prefix) == (prefix <= key and (end is None or key < end))


def test_resuming_a_key_looks_at_what_it_returns_and_each_block_once(journal: Journal) -> None:
    selection = Selection(WatchRequest(["k7"], ()))
    with looked_at(journal, 10 + 2 * BLOCKS + 256):
        assert journal.count(selection, 0) == 10
    with looked_at(journal, 10 + 2 * BLOCKS + 256):
        assert len(Reading(selection, 0).read(journal, 100, 10**9)) == 10


def test_resuming_many_keys_or_prefixes_looks_at_each_once_a_block(journal: Journal) -> None:
    names = [f"k{number}" for number in range(100)]
    for request, found in ((WatchRequest(names, ()), 1000), (WatchRequest((), names[1:]), 9990)):
        selection = Selection(request)
        with looked_at(journal, 100 * BLOCKS + 256):
            assert journal.count(selection, 0) == found
        with looked_at(journal, 100 * BLOCKS + found + 256):
            assert len(Reading(selection, 0).read(journal, MESSAGES, 10**9)) == found


def test_nothing_is_looked_at_twice_by_a_watch_that_catches_up_one_by_one(
    journal: Journal,
) -> None:
    selection = Selection(WatchRequest((), [f"z{number}" for number in range(99)] + ["k"]))
    reading = Reading(selection, 0)
    with looked_at(journal, 100 * BLOCKS + MESSAGES):
        for number in range(1, MESSAGES + 1):
            (message,) = reading.read(journal, 1, 10**9)
            assert message.id == f"e-{number}"
            assert reading.cursor == number
    assert reading.read(journal, 1, 10**9) == []


def test_opening_a_watch_with_a_small_buffer_looks_at_each_block_twice() -> None:
    """Once to count what it has yet to receive, and once to find the first of it."""
    dispatcher = Dispatcher(Position("e", 0), Retention())
    for number in range(1, MESSAGES + 1):
        dispatcher.accept(make_message(number, f"k{number}"))
    names = [f"z{number}" for number in range(99)] + ["k"]
    while dispatcher.journal.make_indexes(0):
        pass
    with looked_at(dispatcher.journal, 2 * 100 * BLOCKS + 3 * 256):
        watch = dispatcher.register(WatchRequest((), names, buffer_size=1), Position.parse("e-0"))
    assert watch.statistics().unread == MESSAGES - 1


def test_publishing_makes_no_index() -> None:
    journal = Journal(Retention(), Position("e", 0))
    for number in range(1, 1000):
        journal.append(make_message(number))
    assert journal.scanned == 0
    assert all(not block.indexed for block in journal._blocks)


# The history of prefixes


async def test_history_looks_up_what_it_returns_and_lets_others_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trio_watchbus._core._history._PAGE", 10)
    bus = InMemoryWatchBus()
    for number in range(100):
        bus.publish_nowait(f"k{number}", b"%d" % number)
    pages: list[int] = []
    newest = bus._values._newest

    def noting(_: object, keys: list[str], count: int) -> list[Message]:
        pages.append(len(keys))
        return newest(keys, count)

    monkeypatch.setattr(type(bus._values), "_newest", noting)
    async with bus.watch_any((), [*(f"none{n}" for n in range(50)), "k1"], history=1) as watch:
        # k1 and k10 to k19, and none of the others.
        assert pages == [10, 1]
        assert received_now(watch) == [b"1", *(b"%d" % number for number in range(10, 20))]


async def test_what_comes_while_history_is_looked_up_follows_it_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trio_watchbus._core._history._PAGE", 2)
    bus = InMemoryWatchBus()
    for number in range(20):
        bus.publish_nowait(f"k{number}", b"old")
    got: list[bytes | WatchLaggedError] = []

    async def watch() -> None:
        async with bus.subscribe_prefix("", history=1) as watch:
            got.extend(received_now(watch))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        while not bus.statistics().watches:
            await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        bus.publish_nowait("k1", b"new")
        bus.publish_nowait("z", b"new")
    assert got[-2:] == [b"new", b"new"]
    assert got.count(b"new") == 2
    assert got.count(b"old") in (19, 20)
    assert bus.statistics().watches == 0


# Batches


async def test_a_batch_is_handed_on_in_steps_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    bus = InMemoryWatchBus()
    held = [await bus.watch(f"k{number}").__aenter__() for number in range(STEP + 10)]
    routes: list[str] = []
    find = Routes.in_parts

    def in_parts(self: Routes[Any], message: Message) -> Any:
        routes.append(message.key)
        return find(self, message)

    monkeypatch.setattr(Routes, "in_parts", in_parts)
    steps: list[int] = []
    step = Delivery.step

    def noting(delivery: Delivery, puts: int) -> bool:
        before = sum(watch.statistics().buffered for watch in held)
        more = step(delivery, puts)
        steps.append(sum(watch.statistics().buffered for watch in held) - before)
        return more

    monkeypatch.setattr(Delivery, "step", noting)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.publish_many, [("k", b"%d" % n, True) for n in range(3)])
        while not steps:
            await trio.lowlevel.checkpoint()
        # Accepted at once, and handed to some.
        assert bus.position.endswith("-3")
        latecomer = await bus.watch("k0").__aenter__()
        nursery.start_soon(bus.publish, "k0", b"later")
    assert max(steps) <= STEP
    assert sum(steps) == 3 * len(held) + 1
    assert len(steps) >= 4
    assert routes == ["k"]
    assert received_now(held[0]) == [b"0", b"1", b"2", b"later"]
    assert received_now(held[-1]) == [b"0", b"1", b"2"]
    # It was opened after the batch was accepted.
    assert received_now(latecomer) == [b"later"]
    for watch in (*held, latecomer):
        watch.close()


async def many_watches(bus: InMemoryWatchBus) -> list[Any]:
    """So many that a message to all is under way for some steps."""
    return [await bus.watch(f"k{number}").__aenter__() for number in range(3 * STEP)]


async def test_a_cancel_or_a_publish_that_does_not_wait_leaves_no_batch_half_handed_on() -> None:
    bus = InMemoryWatchBus()
    held = await many_watches(bus)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.publish_many, [("k", b"%d" % n, True) for n in range(3)])
        while bus._dispatcher.delivery is None:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
        position = held[-1].position
        # Where a watch is before it was handed anything: what it lacks is after that.
        assert position.endswith("-0")
        bus.publish_nowait("k0", b"at once")
        assert bus._dispatcher.step() is False
    assert received_now(held[0]) == [b"0", b"1", b"2", b"at once"]
    assert received_now(held[-1]) == [b"0", b"1", b"2"]
    for watch in held:
        watch.close()


async def test_a_bus_that_closes_amid_a_batch_ends_its_watches_after_it() -> None:
    bus = InMemoryWatchBus()
    held = await many_watches(bus)
    async with trio.open_nursery() as nursery:
        # So many that it takes more than two steps, of which the loop sees one at least.
        nursery.start_soon(bus.publish_many, [("k", b"%d" % n, True) for n in range(3)])
        while bus._dispatcher.delivery is None:
            await trio.lowlevel.checkpoint()
        bus.close()
        with pytest.raises(trio.ClosedResourceError):
            bus.publish_nowait("k0", b"")
    for watch in (held[0], held[-1]):
        assert received_now(watch) == [b"0", b"1", b"2"]
        with pytest.raises(trio.EndOfChannel):
            watch.receive_nowait()


def test_a_watch_overtaken_amid_a_batch_is_told_how_much_it_missed_once_that_is_known() -> None:
    dispatcher = Dispatcher(Position("e", 0), Retention(messages=2))
    watch = dispatcher.register(WatchRequest(["a"], (), buffer_size=1))
    for number in (1, 2):
        dispatcher.accept(make_message(number, "a", b"%d" % number))
    dispatcher.accept_in_steps([make_message(n, "a", b"%d" % n) for n in range(3, 8)])
    assert watch.receive_nowait().data == b"1"
    with pytest.raises(trio.WouldBlock):
        watch.receive_nowait()
    dispatcher.finish()
    with pytest.raises(WatchLaggedError) as raised:
        watch.receive_nowait()
    # 2 to 5, of which the last three were handed on after it was overtaken.
    assert (raised.value.missed, raised.value.position) == (4, "e-5")
    assert received_now(watch) == [b"6", b"7"]


# Bytes


def data_of(messages: list[Message]) -> list[bytes]:
    return [message.data for message in messages]


def large(number: int, key: str = "a", size: int = 4096) -> Message:
    return make_message(number, key, b"%d" % number + b" " * size)


def numbers(watch: BufferedWatch) -> list[int | str]:
    return [
        "lost" if isinstance(got, WatchLaggedError) else int(got) for got in received_now(watch)
    ]


@pytest.mark.parametrize(
    ("overflow", "expected", "dropped"),
    [
        ("replay", list(range(1, 21)), 0),
        ("drop_newest", [1, 2, 3], 17),
        ("drop_oldest", [18, 19, 20], 17),
        ("latest", [20], 0),
    ],
)
def test_a_buffer_is_bounded_in_bytes(overflow: Any, expected: list[int], dropped: int) -> None:
    dispatcher = Dispatcher(Position("e", 0), Retention(), buffers_bytes=16 * 13_000)
    watch = dispatcher.register(WatchRequest(["a"], (), overflow=overflow))
    for number in range(1, 21):
        dispatcher.accept(large(number))
        assert dispatcher.budget.held <= 13_000
    if dropped or overflow == "replay":
        assert dispatcher.budget.met
    assert numbers(watch) == expected
    assert watch.statistics().dropped == dropped
    assert dispatcher.budget.held == 0


def test_all_buffers_together_are_bounded_and_give_back_what_they_held() -> None:
    dispatcher = Dispatcher(Position("e", 0), Retention(), buffers_bytes=32 * 4200)
    watches = [
        dispatcher.register(WatchRequest(["a"], (), overflow="drop_newest")) for _ in range(40)
    ]
    for number in range(1, 4):
        dispatcher.accept(large(number))
    # The one that exceeds the bound is the last.
    assert 32 * 4200 < dispatcher.budget.held <= 33 * 4200
    # The others leave in the journal what came first, which takes no room.
    assert [watch.statistics().buffered for watch in watches] == [1] * 33 + [0] * 7
    assert [watch.statistics().unread for watch in watches] == [0] * 33 + [3] * 7
    assert dispatcher.budget.met > 0
    assert all(numbers(watch) == [1] for watch in watches[:33])
    assert all(numbers(watch) == [1, 2, 3] for watch in watches[33:])
    for watch in watches:
        watch.close()
    assert dispatcher.budget.held == 0


@pytest.mark.parametrize("overflow", ["replay", "latest"])
@pytest.mark.parametrize("size", [1, 4096])
def test_what_waits_in_a_watch_that_closes_is_given_back(overflow: Any, size: int) -> None:
    dispatcher = Dispatcher(Position("e", 0), Retention())
    watch = dispatcher.register(WatchRequest(["a"], (), overflow=overflow))
    dispatcher.accept(large(1, size=size))
    assert dispatcher.budget.held >= size
    watch.close()
    assert dispatcher.budget.held == dispatcher.budget.reserved == 0


def test_a_message_larger_than_the_bound_is_received_all_the_same() -> None:
    dispatcher = Dispatcher(Position("e", 0), Retention(), buffers_bytes=16)
    watch = dispatcher.register(WatchRequest(["a"], ()))
    for number in range(1, 4):
        dispatcher.accept(large(number))
    assert watch.statistics().buffered == 1
    assert numbers(watch) == [1, 2, 3]
    dispatcher.accept(make_message(4, "a", b"4"))
    assert numbers(watch) == [4]


async def test_kept_values_are_bounded_in_bytes() -> None:
    bus = InMemoryWatchBus(retention=Retention(kept_bytes=1000))
    for number in range(20):
        bus.publish_nowait(f"k{number}", b" " * 300)
        assert bus.statistics().kept_bytes <= 1000
    assert bus.statistics().kept_keys == 3
    assert bus.statistics().kept_evicted == 17
    assert await bus.latest("k16") is None
    assert await bus.latest("k17") is not None
    bus.publish_nowait("k17", b" " * 600)
    assert bus.statistics().kept_keys == 2
    bus.publish_nowait("k17", b" " * 1000)
    assert (bus.statistics().kept_keys, bus.statistics().kept_bytes) == (0, 0)


def test_idempotency_keys_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_watchbus._core._calls._BYTES", 1000)
    bus = InMemoryWatchBus()
    for number in range(10):
        bus.publish_nowait("k", b"", idempotency_key=f"{number}" + "x" * 399)
    assert [key[0] for key in bus._calls._numbers] == ["8", "9"]


def test_a_prefix_watch_that_comes_and_goes_drops_only_the_routes_under_it() -> None:
    bus = InMemoryWatchBus()
    for key in ("a", "ab", "b", "c"):
        bus.publish_nowait(key, b"")
    watch = bus._dispatcher.register(WatchRequest((), ["a"]))
    assert bus._dispatcher.routes.known.keys() == {"b", "c"}
    bus.publish_nowait("ab", b"1")
    assert received_now(watch) == [b"1"]
    watch.close()
    assert bus._dispatcher.routes.known.keys() == {"b", "c"}


# Bytes of small messages


def small(number: int, key: str, size: int = 1024) -> Message:
    return make_message(number, key, b"%04d" % number + b" " * (size - 4))


def in_buffer(watch: BufferedWatch) -> list[Message]:
    buffer = watch._buffer
    return list(buffer._newest.values() if isinstance(buffer, LatestBuffer) else buffer)


@pytest.mark.parametrize("overflow", ["replay", "drop_newest", "drop_oldest", "latest"])
@pytest.mark.parametrize("size", [100, 1024, 1500])
def test_ten_thousand_watches_that_take_nothing_stay_within_the_bound(
    overflow: Any, size: int
) -> None:
    """In what their buffers really hold, and lose nothing that the journal has."""
    limit = 512 * 1024
    retention = Retention(messages=40_000, bytes=2**30)
    dispatcher = Dispatcher(Position("e", 0), retention, buffers_bytes=limit)
    watches = [
        dispatcher.register(WatchRequest([f"k{n}"], (), overflow=overflow)) for n in range(10_000)
    ]
    number = 0
    for _ in range(4):
        for n in range(len(watches)):
            number += 1
            dispatcher.accept(small(number, f"k{n}", size))
        held = sum(size_of(message) for watch in watches for message in in_buffer(watch))
        assert held <= dispatcher.budget.held
        assert held <= limit + size
        assert dispatcher.budget.held <= limit + size
    assert dispatcher.budget.met > 0
    if overflow == "replay":
        for n, watch in enumerate(watches):
            got = numbers(watch)
            assert got == [n + 1 + turn * len(watches) for turn in range(4)]
    if overflow in ("drop_oldest", "latest"):
        # What came last is there in any case.
        for n, watch in enumerate(watches, 1 + 3 * len(watches)):
            assert numbers(watch)[-1] == n
    for watch in watches:
        watch.close()
    assert dispatcher.budget.held == dispatcher.budget.reserved == 0


async def test_a_history_longer_than_the_buffer_makes_no_room_for_what_follows() -> None:
    bus = InMemoryWatchBus(retention=Retention(per_key=3))
    for number in range(3):
        bus.publish_nowait("a", b"%d" % number)
    async with bus.watch("a", history=3, buffer_size=1, overflow="drop_newest") as watch:
        assert watch.receive_nowait().data == b"0"
        bus.publish_nowait("a", b"dropped")
        assert received_now(watch) == [b"1", b"2"]
        bus.publish_nowait("a", b"3")
        bus.publish_nowait("a", b"dropped")
        assert received_now(watch) == [b"3"]
        assert watch.statistics().dropped == 2


async def test_one_message_that_comes_drops_one_of_a_long_history() -> None:
    bus = InMemoryWatchBus(retention=Retention(per_key=3))
    for number in range(3):
        bus.publish_nowait("a", b"%d" % number)
    async with bus.watch("a", history=3, buffer_size=1, overflow="drop_oldest") as watch:
        bus.publish_nowait("a", b"3")
        assert received_now(watch) == [b"1", b"2", b"3"]
        assert watch.statistics().dropped == 1


def test_room_set_aside_is_given_back_when_others_need_it() -> None:
    """By watches that took what came, and so by no means at their cost."""
    dispatcher = Dispatcher(Position("e", 0), Retention(), buffers_bytes=160 * SMALL)
    watches = [dispatcher.register(WatchRequest([f"k{n}"], ())) for n in range(500)]
    for number in range(1, 1001):
        dispatcher.accept(small(number, f"k{number % 500}"))
        assert received_now(watches[number % 500]) != []
        assert dispatcher.budget.held == dispatcher.budget.reserved <= 160 * SMALL
    assert dispatcher.budget.reserved > 150 * SMALL
    assert dispatcher.budget.met == 0
    for watch in watches:
        watch.close()
    assert dispatcher.budget.held == 0


def test_what_waits_where_room_is_given_back_is_counted_instead() -> None:
    dispatcher = Dispatcher(Position("e", 0), Retention(), buffers_bytes=160 * SMALL)
    watches = [dispatcher.register(WatchRequest([f"k{n}"], ())) for n in range(500)]
    for number in range(500):
        dispatcher.accept(small(number + 1, f"k{number}", 100))
    # All fit in, though not with room for a message of 1 KiB each.
    assert all(watch.statistics().buffered == 1 for watch in watches)
    assert dispatcher.budget.met == 0
    assert dispatcher.budget.held >= sum(size_of(m) for watch in watches for m in in_buffer(watch))
    assert [numbers(watch) for watch in watches] == [[number + 1] for number in range(500)]


def test_a_large_message_is_counted_though_room_is_set_aside_for_small_ones() -> None:
    dispatcher = Dispatcher(Position("e", 0), Retention())
    watch = dispatcher.register(WatchRequest(["a"], ()))
    for number in range(1, 4):
        dispatcher.accept(small(number, "a"))
    assert watch._room > 3
    dispatcher.accept(large(4, "a", 1_000_000))
    assert dispatcher.budget.held > 1_000_000
    assert numbers(watch) == [1, 2, 3, 4]
    assert dispatcher.budget.held == 0


def test_no_more_is_read_from_the_journal_than_fits_in_by_its_bytes() -> None:
    dispatcher = Dispatcher(Position("e", 0), Retention(bytes=2**30))
    watch = dispatcher.register(WatchRequest(["a"], ()))
    for number in range(1, 601):
        dispatcher.accept(large(number, "a", 65_536))
    received = []
    while watch.statistics().buffered or watch.statistics().unread:
        received.append(int(watch.receive_nowait().data))
        assert sum(map(size_of, in_buffer(watch))) <= dispatcher.budget.each
    assert received == list(range(1, 601))


# Steps


@pytest.fixture
def long_journal(monkeypatch: pytest.MonkeyPatch) -> InMemoryWatchBus:
    """Of 20,000 messages, where a step looks at 1,000 or so."""
    monkeypatch.setattr("trio_watchbus._core._journal.STEP", 1000)
    bus = InMemoryWatchBus(retention=Retention(messages=20_000))
    for number in range(20_000):
        bus.publish_nowait(f"k{number % 4000}", b"%d" % number)
    return bus


# What counting takes with all indexes made, twice; one block more than a step; and the last block.
A_STEP = 2 * 80 * 2 + 1000 + 256 + 2 * 256


async def test_the_first_to_resume_in_a_long_journal_indexes_it_in_steps(
    long_journal: InMemoryWatchBus,
) -> None:
    bus = long_journal
    start = bus._journal.base
    with steps_of(bus._journal) as steps:
        async with bus.watch("k7", after=start) as watch:
            received = [await watch.receive() for _ in range(5)]
    assert data_of(received) == [b"7", b"4007", b"8007", b"12007", b"16007"]
    assert bus._journal.scanned >= 20_000 - 256
    assert 0 < steps.most <= A_STEP


async def test_a_loss_is_told_after_steps(long_journal: InMemoryWatchBus) -> None:
    bus = long_journal
    async with bus.watch("k7", buffer_size=1) as watch:
        for number in range(25_000):
            bus.publish_nowait(f"k{number % 4000}", b"%d" % number)
        with steps_of(bus._journal) as steps:
            assert (await watch.receive()).data == b"7"
            with pytest.raises(WatchLaggedError) as raised:
                await watch.receive()
            assert raised.value.missed == 1
            assert (await watch.receive()).data == b"8007"
    assert 0 < steps.most <= A_STEP


async def test_what_is_rare_is_looked_for_in_steps(long_journal: InMemoryWatchBus) -> None:
    bus = long_journal
    async with bus.watch("rare", buffer_size=1) as watch:
        bus.publish_nowait("rare", b"1")
        bus.publish_nowait("rare", b"2")
        for number in range(15_000):
            bus.publish_nowait(f"k{number % 4000}", b"%d" % number)
        bus.publish_nowait("rare", b"3")
        with steps_of(bus._journal) as steps:
            assert data_of([await watch.receive() for _ in range(3)]) == [b"1", b"2", b"3"]
    assert 1000 <= steps.most <= A_STEP


async def test_the_newest_of_each_key_are_read_in_steps(
    long_journal: InMemoryWatchBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first is received: what is older than another of its key never is."""
    monkeypatch.setattr("trio_watchbus._core._dispatcher._PAGE", 500)
    bus = long_journal
    start = bus._journal.base
    with steps_of(bus._journal) as steps:
        async with bus.subscribe_prefix("", after=start, overflow="latest") as watch:
            received = received_now(watch)
    assert received == [b"%d" % number for number in range(16_000, 20_000)]
    assert 0 < steps.most <= A_STEP + 1000


async def test_a_large_batch_is_checked_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_watchbus._memory._ITEMS_A_STEP", 10)
    bus = InMemoryWatchBus()
    taken = []

    def items() -> Iterator[tuple[str, bytes]]:
        for number in range(100):
            taken.append(number)
            yield ("k", b"%d" % number)

    most = before = 0

    class Noting(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            nonlocal before
            before = len(taken)

        def after_task_step(self, task: trio.lowlevel.Task) -> None:
            nonlocal most
            most = max(most, len(taken) - before)

    noting = Noting()
    trio.lowlevel.add_instrument(noting)
    ids = await bus.publish_many(items())
    trio.lowlevel.remove_instrument(noting)
    assert len(ids) == 100
    assert most == 10
