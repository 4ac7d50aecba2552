"""What is done in steps is whole, whoever publishes, watches, closes or cancels between them."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from naive import reaches, received_now, sequence

import trio_watchbus
from trio_watchbus import InMemoryWatchBus, Message, Retention
from trio_watchbus._core._dispatcher import Dispatcher
from trio_watchbus._core._watch import BufferedWatch
from trio_watchbus._message import Position
from trio_watchbus._request import WatchRequest
from trio_watchbus.abc import Watch
from trio_watchbus.testing import cancel_everywhere, interrupt_everywhere

FOLDER = Path(trio_watchbus.__file__).parent

NAMES = ["a", "ab", "abc", "b", "ba", "c"]
PREFIXES = ["", "a", "ab", "b"]


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step hands on two messages or so: all that is otherwise done for thousands."""
    monkeypatch.setattr(Dispatcher.step, "__defaults__", (3,))
    monkeypatch.setattr("trio_watchbus._core._routes.STEP", 2)
    monkeypatch.setattr("trio_watchbus._core._journal.STEP", 8)
    monkeypatch.setattr("trio_watchbus._core._history._PAGE", 2)
    monkeypatch.setattr("trio_watchbus._memory.STEP", 2)
    monkeypatch.setattr("trio_watchbus._memory._UNKNOWN", range(3))
    monkeypatch.setattr("trio_watchbus._memory._ITEMS_A_STEP", 3)


async def publish_many(bus: InMemoryWatchBus, batch: list[Any]) -> None:
    await bus.publish_many(batch)


async def amid(bus: InMemoryWatchBus) -> None:
    """Return while a batch is being handed on."""
    while bus._dispatcher.delivery is None:
        await trio.lowlevel.checkpoint()


def data_of(messages: list[Message]) -> list[bytes]:
    return [message.data for message in messages]


# Watches that come amid a batch


@pytest.mark.parametrize("names", [(), ("a",), ("a", "ab", "b")])
@pytest.mark.parametrize("prefixes", [(), ("",), ("a", "b")])
@pytest.mark.parametrize("start", ["now", "history", "before", "old"])
@pytest.mark.parametrize("overflow", ["replay", "latest"])
async def test_a_watch_opened_amid_a_batch_gets_what_it_asked_for_and_what_follows(
    names: tuple[str, ...], prefixes: tuple[str, ...], start: str, overflow: Any
) -> None:
    """And of the batch only what it asked for, however far that was handed on by then."""
    if not names and not prefixes:
        return
    for steps in range(0, 24, 3):
        bus = InMemoryWatchBus(retention=Retention(per_key=5))
        held = [await bus.subscribe_prefix("").__aenter__() for _ in range(3)]
        old = bus.position
        bus.publish_nowait("a", b"old")
        before = bus.position
        starts: dict[str, dict[str, Any]] = {
            "now": {},
            "history": {"history": 3},
            "before": {"after": before},
            "old": {"after": old},
        }
        batch: list[Any] = [("a", b"0"), ("ab", b"1"), ("", b"2", True), ("b", b"3"), ("a", b"4")]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish_many, bus, batch)
            await amid(bus)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            watch = await bus.watch_any(
                names, prefixes, overflow=overflow, **starts[start]
            ).__aenter__()
            bus.publish_nowait("a", b"late")
        log = bus._journal.since(0)
        matching = [m for m in log if reaches(names, prefixes, m.key, is_prefix=m.is_prefix)]
        if start == "history":
            # All that was published to a key: no key got more than three.
            expected = data_of([message for message in matching if not message.is_prefix])
        else:
            after = {"now": 6, "before": 1, "old": 0}[start]
            expected = data_of([m for m in matching if sequence(m.id) > after])
        got = received_now(watch)
        if overflow == "latest":
            assert got[-1:] == expected[-1:]
            assert len(set(got)) == len(got)
            assert set(got) <= set(expected)
        else:
            assert got == expected, (steps, names, prefixes, start)
        for each in held:
            assert received_now(each) == data_of(log)
        for each in (*held, watch):
            each.close()
        assert bus.statistics().trie_nodes == 0


@pytest.mark.parametrize("seed", range(40))
async def test_whatever_happens_meanwhile_each_watch_gets_exactly_what_follows_it(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Publishers of single messages and batches, and watches that come and go, all at once."""
    chance = random.Random(seed)
    bus = InMemoryWatchBus(retention=Retention(messages=10_000))
    begun: dict[BufferedWatch, int] = {}
    register = Dispatcher.register

    def noting(self: Dispatcher, request: WatchRequest, *args: Any, **more: Any) -> BufferedWatch:
        last = self.journal.last
        watch = register(self, request, *args, **more)
        begun[watch] = last if request.after is None else request.after.sequence
        return watch

    monkeypatch.setattr(Dispatcher, "register", noting)
    got: dict[Watch, list[Message]] = {}

    def item() -> Any:
        if chance.random() < 0.4:
            return (chance.choice(PREFIXES), b"", True)
        return (chance.choice(NAMES), b"")

    async def pause() -> None:
        for _ in range(chance.randrange(6)):
            await trio.lowlevel.checkpoint()

    async def publish() -> None:
        for _ in range(12):
            await pause()
            match chance.randrange(4):
                case 0:
                    bus.publish_nowait(chance.choice(NAMES), b"")
                case 1:
                    await bus.publish(chance.choice(NAMES), b"")
                case 2:
                    bus.publish_many_nowait([item() for _ in range(3)])
                case _:
                    with trio.CancelScope() as scope:
                        if chance.random() < 0.3:
                            scope.cancel()
                        await bus.publish_many([item() for _ in range(chance.randrange(1, 7))])

    async def watch() -> None:
        for _ in range(6):
            await pause()
            how: dict[str, Any] = {"buffer_size": chance.choice([1, 2, 1000])}
            if chance.random() < 0.4:
                epoch = Position.parse(bus.position).epoch
                how["after"] = f"{epoch}-{chance.randrange(sequence(bus.position) + 1)}"
            names = chance.sample(NAMES, chance.randrange(3))
            prefixes = chance.sample(PREFIXES, chance.randrange(0 if names else 1, 3))
            async with bus.watch_any(names, prefixes, **how) as opened:
                got[opened] = []
                for _ in range(chance.randrange(8)):
                    await pause()
                    with suppress(trio.WouldBlock):
                        got[opened].append(opened.receive_nowait())

    lasting = [await bus.watch_any(["a"], ["b"]).__aenter__() for _ in range(3)]
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(publish)
            nursery.start_soon(watch)
            nursery.start_soon(watch)
    log = bus._journal.since(0)
    for opened, after in begun.items():
        request = opened.request
        expected = [
            m
            for m in log[after:]
            if reaches(request.keys, request.prefixes, m.key, is_prefix=m.is_prefix)
        ]
        if opened in lasting:
            messages = [opened.receive_nowait() for _ in expected]
            with pytest.raises(trio.WouldBlock):
                opened.receive_nowait()
        else:
            messages = got[opened]
            expected = expected[: len(messages)]
        assert messages == expected
    for each in lasting:
        each.close()
    assert bus.statistics().trie_nodes == 0
    assert bus._dispatcher.budget.held == 0


# Two things at once


async def test_two_batches_at_once_are_each_one_run_and_seen_in_order_by_all() -> None:
    bus = InMemoryWatchBus()
    held = [await bus.subscribe_prefix("").__aenter__() for _ in range(7)]
    ids: dict[str, list[str]] = {}

    async def publish(name: str) -> None:
        ids[name] = await bus.publish_many([("k", name.encode()), ("", name.encode(), True)] * 3)

    async with trio.open_nursery() as nursery:
        for name in "xyz":
            nursery.start_soon(publish, name)
    for run in ids.values():
        numbers = [sequence(identifier) for identifier in run]
        assert numbers == list(range(numbers[0], numbers[0] + 6))
    for watch in held:
        data = received_now(watch)
        assert data == data_of(bus._journal.since(0))
        watch.close()


async def test_publishing_at_once_amid_a_batch_hands_on_the_batch_first() -> None:
    bus = InMemoryWatchBus()
    held = [await bus.subscribe_prefix("").__aenter__() for _ in range(7)]
    calls: list[Callable[[], object]] = [
        lambda: bus.publish_nowait("k", b"late"),
        lambda: bus.publish_prefix_nowait("k", b"late"),
        lambda: bus.publish_many_nowait([("k", b"late")]),
        lambda: bus.publish_nowait("k", b"late", idempotency_key="once"),
    ]
    for call in calls:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish_many, bus, [("k", b"1"), ("", b"2", True), ("k", b"3")])
            await amid(bus)
            call()
            for watch in held:
                assert received_now(watch) == [b"1", b"2", b"3", b"late"]
    for watch in held:
        watch.close()


@pytest.mark.parametrize("how", ["close", "aclose", "cancelled"])
async def test_a_bus_closed_amid_a_batch_hands_it_on_and_ends_every_watch(how: str) -> None:
    bus = InMemoryWatchBus()
    held = [await bus.subscribe_prefix("").__aenter__() for _ in range(7)]
    woken = []

    async def consume(watch: Watch) -> None:
        woken.append([message.data async for message in watch])

    async with trio.open_nursery() as nursery:
        for watch in held[3:]:
            nursery.start_soon(consume, watch)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(publish_many, bus, [("k", b"1"), ("", b"2", True)])
        await amid(bus)
        with trio.CancelScope() as scope:
            if how == "cancelled":
                scope.cancel()
            bus.close() if how == "close" else await bus.aclose()
        with pytest.raises(trio.ClosedResourceError):
            bus.publish_nowait("k", b"")
        with pytest.raises(trio.ClosedResourceError):
            await bus.publish_many([("k", b"")])
        with pytest.raises(trio.ClosedResourceError):
            await bus.watch("k").__aenter__()
    assert woken == [[b"1", b"2"]] * 4
    for watch in held[:3]:
        assert received_now(watch) == [b"1", b"2"]
        with pytest.raises(trio.EndOfChannel):
            watch.receive_nowait()


@pytest.mark.parametrize("cancelled", [False, True])
async def test_closing_tells_many_watches_in_steps(cancelled: bool) -> None:
    bus = InMemoryWatchBus()
    held = [await bus.subscribe_prefix("").__aenter__() for _ in range(20)]
    turns = 0

    async def count() -> None:
        nonlocal turns
        while any(watch.statistics().state != "ended" for watch in held):
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        with trio.CancelScope() as scope:
            if cancelled:
                scope.cancel()
            await bus.aclose()
        assert scope.cancelled_caught == cancelled
        assert all(watch.statistics().state == "ended" for watch in held)
    assert turns >= 5


# Cancels and interrupts at each step


class Batch:
    """Publishes a batch in steps, while others publish and watches come and go."""

    def __init__(self) -> None:
        self.bus = InMemoryWatchBus()
        self.held: list[Watch] = []

    async def run(self) -> None:
        self.held = []
        # What was interrupted before is closed.
        for left in list(self.bus._dispatcher.watches):
            left.close()
        self.bus = InMemoryWatchBus()
        for _ in range(5):
            self.held.append(await self.bus.open_watch(WatchRequest((), [""])))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.come_and_go)
            nursery.start_soon(self.bus.publish, "k", b"single")
            await self.bus.publish_many([("k", b"%d" % n, n % 2 == 1) for n in range(5)])

    async def come_and_go(self) -> None:
        for number in range(4):
            prefixes = ["k"] if number % 2 else []
            async with self.bus.watch_any(["k"], prefixes, history=number % 2):
                await trio.lowlevel.checkpoint()

    async def then(self) -> None:
        """The batch is whole or nothing, was handed to all, and everything goes on."""
        bus = self.bus
        log = data_of(bus._journal.since(0))
        batch = [data for data in log if data not in (b"single", b"last")]
        assert batch in ([], [b"0", b"1", b"2", b"3", b"4"])
        # One that was opened when an interrupt came was not held yet.
        for opened in set(bus._dispatcher.watches).difference(self.held):
            opened.close()
        await bus.publish("k", b"last")
        log = data_of(bus._journal.since(0))
        for watch in self.held:
            assert received_now(watch) == log
            watch.close()
        assert bus.statistics().watches == 0
        assert bus.statistics().trie_nodes == 0
        assert bus.statistics().buffers_bytes == 0


async def test_a_batch_cancelled_at_any_step_is_whole_or_nothing() -> None:
    batch = Batch()
    assert await cancel_everywhere(batch.run, batch.then) > 20


def test_a_batch_interrupted_anywhere_is_whole_or_nothing() -> None:
    """Watches are opened and closed meanwhile."""
    batch = Batch()
    code = [FOLDER / "_core", FOLDER / "_memory.py"]
    assert interrupt_everywhere(batch.run, batch.then, code=code) > 50


def opening(open_it: Callable[[InMemoryWatchBus], Any]) -> Awaitable[int]:
    """Cancel opening a watch at each step; nothing of it is left."""
    bus = InMemoryWatchBus(retention=Retention(messages=200, per_key=3))
    for number in range(200):
        bus.publish_nowait(f"k{number % 40}", b"%d" % number)

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish_many, bus, [("k", b"", True), ("k7", b"")] * 2)
            async with open_it(bus) as watch:
                await watch.receive()

    async def then() -> None:
        assert bus.statistics().watches == 0
        assert bus.statistics().trie_nodes == 0
        assert bus.statistics().buffers_bytes == 0
        assert bus._dispatcher.delivery is None
        assert not bus._dispatcher._overtaken

    return cancel_everywhere(run, then)


@pytest.mark.parametrize("overflow", ["replay", "latest"])
async def test_opening_with_a_long_history_can_be_cancelled_at_each_step(overflow: Any) -> None:
    assert await opening(lambda bus: bus.subscribe_prefix("", history=3, overflow=overflow)) > 40


@pytest.mark.parametrize("overflow", ["replay", "latest"])
async def test_resuming_in_a_long_journal_can_be_cancelled_at_each_step(overflow: Any) -> None:
    def resume(bus: InMemoryWatchBus) -> Any:
        epoch = Position.parse(bus.position).epoch
        after = f"{epoch}-{bus._journal.first + 20}"
        return bus.subscribe_prefix("", after=after, overflow=overflow)

    assert await opening(resume) > 5
