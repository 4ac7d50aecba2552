"""A watch gives what it was fed, in order, and what each of its ends does is seen at the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from naive import received_now

from trio_watchbus import InMemoryWatchBus, Message, Retention, WatchLaggedError
from trio_watchbus._core._state import TRANSITIONS, Event, State
from trio_watchbus._core._trie import PrefixTrie
from trio_watchbus._request import Overflow
from trio_watchbus.abc import Watch


@pytest.fixture
def bus() -> InMemoryWatchBus:
    return InMemoryWatchBus()


def publish(bus: InMemoryWatchBus, *items: str) -> None:
    """Publish items like ``a1``: key ``a``, data ``1``."""
    for item in items:
        bus.publish_nowait(item[0], item[1:].encode())


# Every function that receives, each giving one message.

Receive = Callable[[Watch], Awaitable[Message]]


async def by_receive(watch: Watch) -> Message:
    return await watch.receive()


async def by_batch(watch: Watch) -> Message:
    (message,) = await watch.receive_batch(1)
    return message


async def by_iteration(watch: Watch) -> Message:
    async for message in watch:
        return message
    raise trio.EndOfChannel


receivers = pytest.mark.parametrize("receive", [by_receive, by_batch, by_iteration])


@receivers
async def test_a_message_that_waits_is_received(bus: InMemoryWatchBus, receive: Receive) -> None:
    async with bus.watch("a") as watch:
        publish(bus, "a1", "a2")
        assert (await receive(watch)).data == b"1"
        assert (await receive(watch)).data == b"2"


@receivers
async def test_a_message_is_waited_for(bus: InMemoryWatchBus, receive: Receive) -> None:
    async with bus.watch("a") as watch, trio.open_nursery() as nursery:
        received: list[Message] = []

        async def consume() -> None:
            received.append(await receive(watch))

        nursery.start_soon(consume)
        await trio.testing.wait_all_tasks_blocked()
        publish(bus, "b0")
        await trio.testing.wait_all_tasks_blocked()
        assert received == []
        publish(bus, "a1")
        await trio.testing.wait_all_tasks_blocked()
        assert [message.data for message in received] == [b"1"]


@receivers
async def test_a_cancelled_wait_loses_nothing(bus: InMemoryWatchBus, receive: Receive) -> None:
    async with bus.watch("a") as watch:
        with trio.move_on_after(0) as scope:
            await receive(watch)
        assert scope.cancelled_caught
        publish(bus, "a1")
        assert received_now(watch) == [b"1"]


@receivers
async def test_a_cancel_just_after_the_message_came_does_not_lose_it(
    bus: InMemoryWatchBus, receive: Receive
) -> None:
    received: list[bytes | WatchLaggedError] = []
    async with bus.watch("a") as watch:

        async def consume() -> None:
            received.append((await receive(watch)).data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(consume)
            await trio.testing.wait_all_tasks_blocked()
            publish(bus, "a1", "a2")
            nursery.cancel_scope.cancel()
        assert received + received_now(watch) == [b"1", b"2"]


@receivers
async def test_a_cancel_that_was_asked_for_before_takes_no_message(
    bus: InMemoryWatchBus, receive: Receive
) -> None:
    async with bus.watch("a") as watch:
        publish(bus, "a1")
        with trio.CancelScope() as scope:
            scope.cancel()
            await receive(watch)
        assert scope.cancelled_caught
        assert received_now(watch) == [b"1"]


@receivers
async def test_a_second_receiver_is_refused_and_the_first_goes_on(
    bus: InMemoryWatchBus, receive: Receive
) -> None:
    async with bus.watch("a") as watch, trio.open_nursery() as nursery:
        received: list[Message] = []

        async def consume() -> None:
            received.append(await by_receive(watch))

        nursery.start_soon(consume)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await receive(watch)
        with pytest.raises(trio.BusyResourceError):
            watch.receive_nowait()
        publish(bus, "a1")
        await trio.testing.wait_all_tasks_blocked()
        assert [message.data for message in received] == [b"1"]


@receivers
async def test_closing_wakes_whoever_waits(bus: InMemoryWatchBus, receive: Receive) -> None:
    async with bus.watch("a") as watch, trio.open_nursery() as nursery:

        async def consume() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await receive(watch)

        nursery.start_soon(consume)
        await trio.testing.wait_all_tasks_blocked()
        watch.close()


@receivers
async def test_a_closed_watch_gives_nothing_more(bus: InMemoryWatchBus, receive: Receive) -> None:
    async with bus.watch("a") as watch:
        publish(bus, "a1")
    with pytest.raises(trio.ClosedResourceError):
        await receive(watch)
    with pytest.raises(trio.ClosedResourceError):
        watch.receive_nowait()


@receivers
async def test_closing_the_bus_wakes_whoever_waits(bus: InMemoryWatchBus, receive: Receive) -> None:
    async with bus.watch("a") as watch, trio.open_nursery() as nursery:

        async def consume() -> None:
            with pytest.raises(trio.EndOfChannel):
                await receive(watch)

        nursery.start_soon(consume)
        await trio.testing.wait_all_tasks_blocked()
        bus.close()


@receivers
async def test_why_a_bus_failed_is_told_though_a_cancel_follows_at_once(
    bus: InMemoryWatchBus, receive: Receive
) -> None:
    told: list[BaseException | None] = []

    async def consume(watch: Watch) -> None:
        try:
            await receive(watch)
        except trio.BrokenResourceError as error:
            told.append(error.__cause__)

    failure = ValueError("the bus failed")
    async with bus.watch("a") as watch, trio.open_nursery() as nursery:
        nursery.start_soon(consume, watch)
        await trio.testing.wait_all_tasks_blocked()
        bus._dispatcher.close(failure)
        nursery.cancel_scope.cancel()
    assert told == [failure]


async def test_iterating_catches_up(bus: InMemoryWatchBus) -> None:
    """Over a watch that fell behind, as receiving does."""
    async with bus.watch("k", buffer_size=1) as watch:
        for number in range(5):
            await bus.publish("k", b"%d" % number)
        got = []
        with trio.fail_after(5):
            async for message in watch:
                got.append(message.data)
                if len(got) == 5:
                    break
        assert got == [b"0", b"1", b"2", b"3", b"4"]


async def test_iterating_ends_where_the_bus_closes(bus: InMemoryWatchBus) -> None:
    async with bus.watch("a") as watch:
        publish(bus, "a1", "a2")
        bus.close()
        assert [message.data async for message in watch] == [b"1", b"2"]


async def test_closing_twice_and_with_aclose_is_as_closing_once(bus: InMemoryWatchBus) -> None:
    async with bus.watch("a") as watch:
        watch.close()
        watch.close()
        await watch.aclose()
    assert bus.statistics().watches == 0


async def test_a_cancelled_aclose_has_closed_it(bus: InMemoryWatchBus) -> None:
    async with bus.watch("a") as watch:
        with trio.CancelScope() as scope:
            scope.cancel()
            await watch.aclose()
        assert scope.cancelled_caught
        assert bus.statistics().watches == 0


# Batches


async def test_a_batch_is_everything_that_waits(bus: InMemoryWatchBus) -> None:
    async with bus.watch("a") as watch:
        publish(bus, "a1", "b0", "a2", "a3")
        assert [message.data for message in await watch.receive_batch()] == [b"1", b"2", b"3"]
        publish(bus, "a4")
        assert [message.data for message in await watch.receive_batch()] == [b"4"]


async def test_a_batch_has_at_most_as_many_as_asked_for(bus: InMemoryWatchBus) -> None:
    async with bus.watch("a") as watch:
        publish(bus, "a1", "a2", "a3")
        assert [message.data for message in await watch.receive_batch(2)] == [b"1", b"2"]
        assert [message.data for message in await watch.receive_batch(2)] == [b"3"]


async def test_a_batch_of_a_watch_behind_is_what_its_buffer_holds() -> None:
    bus = InMemoryWatchBus()
    async with bus.watch("a", buffer_size=2) as watch:
        publish(bus, "a1", "a2", "a3", "a4", "a5")
        batches = [[m.data for m in await watch.receive_batch()] for _ in range(3)]
        assert batches == [[b"1", b"2"], [b"3", b"4"], [b"5"]]


@pytest.mark.parametrize("count", [0, -1])
async def test_a_batch_of_none_is_refused(bus: InMemoryWatchBus, count: int) -> None:
    async with bus.watch("a") as watch:
        with pytest.raises(ValueError, match="max_messages must be at least 1"):
            await watch.receive_batch(count)


@pytest.mark.parametrize("count", [2.5, 3.0, "3", True])
async def test_a_batch_of_no_whole_number_is_refused_and_takes_nothing(
    bus: InMemoryWatchBus, count: Any
) -> None:
    async with bus.watch("a") as watch:
        publish(bus, "a1", "a2")
        with pytest.raises(TypeError, match="max_messages must be an int"):
            await watch.receive_batch(count)
        assert [message.data for message in await watch.receive_batch()] == [b"1", b"2"]


# Turns


@receivers
async def test_others_run_at_least_once_in_64_messages(
    bus: InMemoryWatchBus, receive: Receive
) -> None:
    received = 0
    received_by_turn: list[int] = []

    class Turns(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            if task is consumer:
                received_by_turn.append(received)

    consumer = trio.lowlevel.current_task()
    turns = Turns()
    async with bus.watch("a") as watch:
        publish(bus, *["a"] * 640)
        trio.lowlevel.add_instrument(turns)
        for _ in range(640):
            await receive(watch)
            received += 1
        trio.lowlevel.remove_instrument(turns)
    for earlier, later in pairwise([0, *received_by_turn, received]):
        assert later - earlier <= 64


@receivers
async def test_a_consumer_that_never_has_to_wait_can_be_cancelled(
    bus: InMemoryWatchBus, receive: Receive
) -> None:
    received = 0
    async with bus.watch("a") as watch:
        with trio.CancelScope() as scope:
            while True:
                publish(bus, "a1")
                await receive(watch)
                received += 1
                if received == 10:
                    scope.cancel()
                assert received <= 10


# When the buffer is full


async def fill(bus: InMemoryWatchBus, overflow: Any, *items: str) -> tuple[list[Any], int]:
    """What a watch on all keys with a buffer of 2 gives after `items`, and how many it dropped."""
    async with bus.subscribe_prefix("", buffer_size=2, overflow=overflow) as watch:
        publish(bus, *items)
        return received_now(watch), watch.statistics().dropped


async def test_replay_drops_nothing(bus: InMemoryWatchBus) -> None:
    items = [f"a{n}" for n in range(9)]
    assert await fill(bus, "replay", *items) == ([b"%d" % n for n in range(9)], 0)


async def test_drop_oldest_keeps_the_newest(bus: InMemoryWatchBus) -> None:
    assert await fill(bus, "drop_oldest", "a1", "a2", "b3", "a4") == ([b"3", b"4"], 2)


async def test_drop_newest_keeps_the_oldest(bus: InMemoryWatchBus) -> None:
    assert await fill(bus, "drop_newest", "a1", "a2", "b3", "a4") == ([b"1", b"2"], 2)


async def test_latest_keeps_the_newest_of_each_key(bus: InMemoryWatchBus) -> None:
    assert await fill(bus, "latest", "a1", "b2", "c3", "a4", "c5", "a6") == ([b"2", b"5", b"6"], 0)


async def test_latest_keeps_a_message_to_a_prefix_beside_one_to_the_key_of_that_name(
    bus: InMemoryWatchBus,
) -> None:
    async with bus.subscribe_prefix("a", overflow="latest") as watch:
        bus.publish_nowait("a", b"key 1")
        bus.publish_prefix_nowait("a", b"prefix 1")
        bus.publish_nowait("a", b"key 2")
        bus.publish_prefix_nowait("a", b"prefix 2")
        assert received_now(watch) == [b"key 2", b"prefix 2"]


async def test_latest_keeps_as_many_keys_as_the_bus_does() -> None:
    bus = InMemoryWatchBus(retention=Retention(keys=3))
    assert await fill(bus, "latest", "a1", "b2", "c3", "d4", "b5") == ([b"3", b"4", b"5"], 1)


async def test_a_slow_watch_holds_no_more_than_its_buffer(bus: InMemoryWatchBus) -> None:
    overflows: list[Overflow] = ["replay", "drop_oldest", "drop_newest"]
    for overflow in overflows:
        async with bus.watch("a", buffer_size=5, overflow=overflow) as watch:
            for n in range(100):
                publish(bus, f"a{n}")
                assert watch.statistics().buffered <= 5
            while watch.statistics().buffered or watch.statistics().unread:
                assert watch.statistics().buffered <= 5
                watch.receive_nowait()


async def test_a_watch_is_behind_from_the_full_buffer_until_it_has_read_all(
    bus: InMemoryWatchBus,
) -> None:
    async with bus.watch("a", buffer_size=2) as watch:
        publish(bus, "a1", "a2")
        states = [watch.statistics()]
        publish(bus, "a3", "b0", "a4")
        states.append(watch.statistics())
        for _ in range(3):
            watch.receive_nowait()
            states.append(watch.statistics())
        publish(bus, "a5")
        states.append(watch.statistics())
        assert [(s.state, s.buffered, s.unread) for s in states] == [
            ("synced", 2, 0),
            ("behind", 2, 2),
            ("behind", 1, 2),
            ("behind", 0, 2),
            ("synced", 1, 0),
            ("synced", 2, 0),
        ]


# Positions


async def test_the_position_advances_with_what_was_received(bus: InMemoryWatchBus) -> None:
    publish(bus, "a0")
    async with bus.watch("a") as watch:
        assert watch.position == bus.position
        ids = bus.publish_many_nowait([("a", b"1"), ("b", b"2"), ("a", b"3"), ("b", b"4")])
        assert watch.position < ids[0]
        watch.receive_nowait()
        # Past the one that does not match.
        assert watch.position == ids[1]
        watch.receive_nowait()
        assert watch.position == ids[3]
        publish(bus, "b5")
        assert watch.position == bus.position


async def test_the_position_stays_where_it_was_when_closed(bus: InMemoryWatchBus) -> None:
    async with bus.watch("a") as watch:
        publish(bus, "a1", "a2")
        watch.receive_nowait()
        position = watch.position
    publish(bus, "a3")
    assert watch.position == position
    async with bus.watch("a", after=position) as resumed:
        assert received_now(resumed) == [b"2", b"3"]


@given(
    st.lists(st.sampled_from(["a", "b", "receive"]), max_size=30),
    st.integers(1, 4),
)
def test_resuming_at_any_position_gives_exactly_what_was_not_received(
    steps: list[str], buffer_size: int
) -> None:
    async def check() -> None:
        bus = InMemoryWatchBus()
        async with bus.watch("a", buffer_size=buffer_size) as watch:
            pending: list[bytes] = []
            for number, step in enumerate(steps):
                if step != "receive":
                    publish(bus, f"{step}{number}")
                    if step == "a":
                        pending.append(b"%d" % number)
                elif pending:
                    assert watch.receive_nowait().data == pending.pop(0)
                async with bus.watch("a", after=watch.position) as resumed:
                    assert received_now(resumed) == pending

    trio.run(check)


async def test_an_interrupt_cannot_strike_while_a_watch_is_opened_or_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C is raised before or after the registrations change, never amid them."""
    protected: list[bool] = []
    add, remove = PrefixTrie.add, PrefixTrie.remove

    def noting(change: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            protected.append(trio.lowlevel.currently_ki_protected())
            return change(*arguments)

        return noted

    monkeypatch.setattr(PrefixTrie, "add", noting(add))
    monkeypatch.setattr(PrefixTrie, "remove", noting(remove))
    # Nor between opening a watch and noting that it is to be closed.
    monkeypatch.setattr(InMemoryWatchBus, "open_watch", noting(InMemoryWatchBus.open_watch))
    bus = InMemoryWatchBus()
    async with bus.watch("k"):
        pass
    async with bus.subscribe_prefix("k") as watch:
        watch.close()
    assert protected == [True] * 6
    assert bus.statistics().trie_nodes == 0


@receivers
async def test_an_interrupt_cannot_strike_between_noting_the_task_and_parking(
    monkeypatch: pytest.MonkeyPatch, bus: InMemoryWatchBus, receive: Receive
) -> None:
    """A task noted but not parked would be rescheduled while it runs, which breaks Trio."""
    protected: list[bool] = []

    def noting() -> trio.lowlevel.Task:
        protected.append(trio.lowlevel.currently_ki_protected())
        return trio.lowlevel.current_task()

    monkeypatch.setattr("trio_watchbus._core._watch.current_task", noting)
    async with bus.watch("k") as watch:
        with trio.move_on_after(0):
            await receive(watch)
        assert not trio.lowlevel.currently_ki_protected()
    assert protected == [True]


# States


def test_from_each_state_each_event_leads_to_one() -> None:
    """And nothing leads back to life: what has ended gives its rest, what is closed nothing."""
    assert TRANSITIONS.keys() == set(State)
    for state, moves in TRANSITIONS.items():
        assert moves.keys() == set(Event)
        assert moves[Event.CLOSE] is State.CLOSED
        if state in (State.ENDING, State.ENDED):
            assert set(moves.values()) <= {State.ENDING, State.ENDED, State.CLOSED}
    assert set(TRANSITIONS[State.CLOSED].values()) == {State.CLOSED}


async def test_the_state_says_what_the_watch_does_with_the_next_message() -> None:
    bus = InMemoryWatchBus()
    async with bus.watch("a", buffer_size=1) as watch:
        states = [watch.statistics().state]
        publish(bus, "a1", "a2")
        states.append(watch.statistics().state)
        bus.close()
        states.append(watch.statistics().state)
        assert received_now(watch) == [b"1", b"2"]
        states.append(watch.statistics().state)
    states.append(watch.statistics().state)
    assert states == ["synced", "behind", "behind", "ended", "closed"]
    assert watch.position == bus.position
