"""What the embedded bus does beyond what every bus does, and the Go package's tests of its own."""

from __future__ import annotations

import time
from typing import Any

import pytest
import trio
import trio.testing
from naive import received_now, sequence

from trio_watchbus import (
    HistoryLostError,
    InMemoryWatchBus,
    InvalidKeyError,
    MessageTooLargeError,
    Retention,
    open_watchbus,
)
from trio_watchbus.testing import assert_nothing_left


@pytest.fixture
def bus() -> InMemoryWatchBus:
    return InMemoryWatchBus()


# The tests of the Go package, under names by which they can be found


async def test_in_memory_watchbus(bus: InMemoryWatchBus) -> None:
    """`TestInMemoryWatchBus`: a message to a key reaches its watch."""
    async with bus.watch("foo") as watch:
        await bus.publish("foo", b"hello")
        assert (await watch.receive()).data == b"hello"


async def test_in_memory_watchbus_prefix(bus: InMemoryWatchBus) -> None:
    """`TestInMemoryWatchBusPrefix`: messages to a key and to a prefix reach both, once each.

    The watch on the prefix gets the message to it once; in Go it might get several.
    """
    async with bus.watch("foo1") as by_key, bus.subscribe_prefix("foo") as by_prefix:
        await bus.publish("foo1", b"a")
        assert (await by_key.receive()).data == b"a"
        assert (await by_prefix.receive()).data == b"a"
        await bus.publish_prefix("foo", b"b")
        assert (await by_key.receive()).data == b"b"
        assert (await by_prefix.receive()).data == b"b"
        assert received_now(by_key) == received_now(by_prefix) == []


async def test_in_memory_watchbus_context_canceled(bus: InMemoryWatchBus) -> None:
    """`TestInMemoryWatchBusContextCanceled`: in a cancelled scope nothing is done.

    But for leaving a watch: Go refuses that too, and so leaks the watch; here it is done.
    """
    async with bus.watch("k") as watch:
        with trio.CancelScope() as scope:
            scope.cancel()
            async with bus.watch("other"):
                pass
        assert scope.cancelled_caught
        assert await bus.watched_keys() == {"k"}
        with trio.CancelScope() as scope:
            scope.cancel()
            await bus.publish("k", b"")
        assert scope.cancelled_caught
        assert received_now(watch) == []
        with trio.CancelScope() as scope:
            scope.cancel()
            await watch.aclose()
        assert bus.statistics().watches == 0


async def test_in_memory_watchbus_unwatch_unknown(bus: InMemoryWatchBus) -> None:
    """`TestInMemoryWatchBusUnwatchUnknown`: leaving a watch that is left already does nothing.

    One that was never registered cannot be left here: leaving is the watch's own affair.
    """
    async with bus.watch("missing") as watch, bus.watch("missing"):
        watch.close()
        watch.close()
        assert bus.statistics().watches == 1


async def test_in_memory_watchbus_concurrent_unwatch(bus: InMemoryWatchBus) -> None:
    """`TestInMemoryWatchBusConcurrentUnwatch`: leaving while others publish hurts nobody."""
    count = 1000
    async with (
        assert_nothing_left(bus),
        bus.watch("foo") as staying,
        trio.open_nursery() as nursery,
    ):

        async def publish() -> None:
            for number in range(count):
                await bus.publish("foo", b"%d" % number)

        async def watch_for(messages: int) -> None:
            async with bus.watch("foo") as leaving:
                for _ in range(messages):
                    await leaving.receive()

        for messages in (0, 1, 63, 64, 65, 500):
            nursery.start_soon(watch_for, messages)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(publish)
        assert [(await staying.receive()).data for _ in range(count)] == [
            b"%d" % number for number in range(count)
        ]


async def test_drop_newest_with_room_for_one_is_what_the_go_package_does(
    bus: InMemoryWatchBus,
) -> None:
    """A channel of one place, and what finds it full is dropped: here it is counted."""
    async with bus.watch("foo", buffer_size=1, overflow="drop_newest") as watch:
        for data in (b"1", b"2", b"3"):
            await bus.publish("foo", data)
        assert received_now(watch) == [b"1"]
        assert watch.statistics().dropped == 2


# Without await


def test_it_is_usable_without_trio_running(bus: InMemoryWatchBus) -> None:
    identifier = bus.publish_nowait("k", b"1")
    assert bus.publish_prefix_nowait("k", b"2") > identifier
    assert len(bus.publish_many_nowait([("k", b"3"), ("k", b"4", True)])) == 2
    assert bus.statistics().journal_messages == 4


async def test_the_nowait_functions_do_what_the_others_do(bus: InMemoryWatchBus) -> None:
    async with bus.subscribe_prefix("") as watch:
        ids = [
            bus.publish_nowait("a", b"1"),
            await bus.publish("a", b"2"),
            bus.publish_prefix_nowait("a", b"3"),
            await bus.publish_prefix("a", b"4"),
            *bus.publish_many_nowait([("a", b"5"), ("b", b"6", True)]),
            *await bus.publish_many([("a", b"7"), ("b", b"8", True)]),
        ]
        messages = await watch.receive_batch()
    assert [message.id for message in messages] == ids
    assert [message.data for message in messages] == [b"%d" % number for number in range(1, 9)]
    assert [message.is_prefix for message in messages] == [False, False, True, True] + [
        False,
        True,
    ] * 2


def test_the_nowait_functions_retry_like_the_others(bus: InMemoryWatchBus) -> None:
    for _ in range(2):
        ids = [
            bus.publish_nowait("a", b"1", idempotency_key="one"),
            bus.publish_prefix_nowait("a", b"2", idempotency_key="two"),
            *bus.publish_many_nowait([("a", b"3"), ("b", b"4")], idempotency_key="three"),
        ]
        assert [sequence(identifier) for identifier in ids] == [1, 2, 3, 4]
    assert sequence(bus.position) == 4


def test_an_empty_batch_takes_up_no_idempotency_key(bus: InMemoryWatchBus) -> None:
    assert bus.publish_many_nowait([], idempotency_key="one") == []
    identifier = bus.publish_nowait("a", b"1", idempotency_key="one")
    assert bus.publish_nowait("a", b"1", idempotency_key="one") == identifier
    assert bus.publish_many_nowait([], idempotency_key="one") == []
    assert sequence(bus.position) == 1


def test_a_refused_publish_takes_up_no_idempotency_key(bus: InMemoryWatchBus) -> None:
    with pytest.raises(InvalidKeyError):
        bus.publish_nowait("", b"", idempotency_key="one")
    assert sequence(bus.publish_nowait("a", b"", idempotency_key="one")) == 1


def test_idempotency_keys_are_remembered_in_bounded_number(
    bus: InMemoryWatchBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_watchbus._core._calls._KEYS", 3)
    ids = [bus.publish_nowait("a", b"", idempotency_key=f"{number}") for number in range(4)]
    assert bus.publish_nowait("a", b"", idempotency_key="1") == ids[1]
    assert bus.publish_nowait("a", b"", idempotency_key="3") == ids[3]
    # The oldest was forgotten.
    assert sequence(bus.publish_nowait("a", b"", idempotency_key="0")) == 5
    assert len(bus._calls._numbers) == 3


# Its numbering


def test_messages_are_numbered_from_one_without_holes(bus: InMemoryWatchBus) -> None:
    assert sequence(bus.position) == 0
    assert [sequence(bus.publish_nowait("a", b"")) for _ in range(3)] == [1, 2, 3]
    ids = bus.publish_many_nowait([("a", b""), ("b", b"")])
    assert [sequence(identifier) for identifier in ids] == [4, 5]
    assert bus.position == ids[-1]


async def test_a_position_of_another_bus_is_refused(bus: InMemoryWatchBus) -> None:
    """As one from before a restart is, instead of resuming wrongly."""
    other = InMemoryWatchBus()
    assert bus.position.partition("-")[0] != other.position.partition("-")[0]
    with pytest.raises(HistoryLostError) as raised:
        async with bus.watch("k", after=other.position):
            pass
    assert raised.value.reason == "epoch"


async def test_the_time_of_a_message_is_that_of_its_publish(bus: InMemoryWatchBus) -> None:
    async with bus.watch("k") as watch:
        before = time.time()
        bus.publish_nowait("k", b"")
        bus.publish_many_nowait([("k", b""), ("k", b"")])
        after = time.time()
        times = [message.time for message in await watch.receive_batch()]
    assert before <= min(times) <= max(times) <= after


# What it keeps


async def test_it_keeps_by_its_retention() -> None:
    bus = InMemoryWatchBus(retention=Retention(messages=3, per_key=2, keys=2))
    for key in "abc":
        for number in range(9):
            bus.publish_nowait(key, b"%d" % number)
    assert await bus.latest("a") is None
    latest = await bus.latest("b")
    assert latest is not None
    assert latest.data == b"8"
    statistics = bus.statistics()
    assert (statistics.journal_messages, statistics.kept_keys) == (3, 2)
    assert statistics.journal_bytes == 6
    # Of b, beyond the journal.
    async with bus.subscribe_prefix("", history=5) as watch:
        assert received_now(watch) == [b"7", b"8", b"7", b"8"]


async def test_it_may_keep_nothing_for_each_key() -> None:
    for retention in (Retention(per_key=0), Retention(keys=0)):
        bus = InMemoryWatchBus(retention=retention)
        bus.publish_nowait("k", b"")
        assert await bus.latest("k") is None
        async with bus.watch("k", history=1) as watch:
            assert received_now(watch) == []
        assert bus.statistics().kept_keys == 0


async def test_what_is_older_than_its_seconds_cannot_be_resumed() -> None:
    now = 1000.0
    bus = InMemoryWatchBus(retention=Retention(seconds=60), clock=lambda: now)
    start = bus.position
    first = bus.publish_nowait("k", b"1")
    now = 1060.0
    bus.publish_nowait("k", b"2")
    async with bus.watch("k", after=start) as watch:
        assert received_now(watch) == [b"1", b"2"]
    now = 1060.1
    bus.publish_nowait("k", b"3")
    with pytest.raises(HistoryLostError):
        async with bus.watch("k", after=start):
            pass
    async with bus.watch("k", after=first) as watch:
        assert received_now(watch) == [b"2", b"3"]


def test_the_size_of_a_message_is_its_own_bound() -> None:
    bus = InMemoryWatchBus(max_message_size=4)
    bus.publish_nowait("k", b"1234")
    publishes: list[Any] = [
        lambda: bus.publish_nowait("k", b"12345"),
        lambda: bus.publish_prefix_nowait("k", b"12345"),
        lambda: bus.publish_many_nowait([("k", b"1"), ("k", b"12345")]),
        lambda: bus.publish_nowait("k", bytearray(b"12345")),
    ]
    for publish in publishes:
        with pytest.raises(MessageTooLargeError, match="has 5 bytes, and this bus takes at most 4"):
            publish()
    assert sequence(bus.position) == 1


# Closing


async def test_leaving_its_scope_closes_it() -> None:
    async with InMemoryWatchBus() as bus:
        assert bus.statistics().connected
    assert not bus.statistics().connected
    with pytest.raises(trio.ClosedResourceError):
        bus.publish_nowait("k", b"")


async def test_a_closed_bus_publishes_nothing(bus: InMemoryWatchBus) -> None:
    bus.publish_nowait("k", b"", idempotency_key="one")
    bus.close()
    publishes: list[Any] = [
        lambda: bus.publish_nowait("k", b""),
        lambda: bus.publish_nowait("k", b"", idempotency_key="one"),
        lambda: bus.publish_prefix_nowait("k", b""),
        lambda: bus.publish_many_nowait([("k", b"")]),
        lambda: bus.publish_many_nowait([]),
    ]
    for publish in publishes:
        with pytest.raises(trio.ClosedResourceError):
            publish()
    assert sequence(bus.position) == 1


async def test_a_bus_that_closes_while_a_watch_is_being_opened_refuses_it() -> None:
    for _ in range(20):  # Which of two tasks runs first is left to chance.
        bus = InMemoryWatchBus()

        async def open_one(bus: InMemoryWatchBus = bus) -> None:
            with pytest.raises(trio.ClosedResourceError):
                async with bus.watch("k"):
                    pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_one)
            await trio.lowlevel.checkpoint()
            bus.close()
        assert bus.statistics().watches == 0


async def test_a_cancelled_aclose_has_closed_it(bus: InMemoryWatchBus) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await bus.aclose()
    assert scope.cancelled_caught
    assert not bus.statistics().connected


async def test_it_says_where_it_is_and_nothing_of_what_it_carries(bus: InMemoryWatchBus) -> None:
    bus.publish_nowait("secret key", b"secret data")
    async with bus.watch("secret key"):
        assert repr(bus) == f"<InMemoryWatchBus at {bus.position}: 1 watches>"
    bus.close()
    assert repr(bus) == f"<InMemoryWatchBus at {bus.position}: closed>"


# Turns


async def test_a_publisher_that_never_waits_lets_others_run_and_can_be_cancelled(
    bus: InMemoryWatchBus,
) -> None:
    """Else one loop of publishes would hold up the whole program."""
    for publish in (bus.publish, bus.publish_prefix):
        with trio.CancelScope() as scope:

            async def cancel(scope: trio.CancelScope = scope) -> None:
                scope.cancel()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel)
                while True:
                    await publish("k", b"")
        assert scope.cancelled_caught
    assert sequence(bus.position) <= 2 * 2 * 64


# From a URL


async def test_a_memory_url_opens_one() -> None:
    async with open_watchbus("memory://", retention=Retention(messages=1)) as bus:
        assert isinstance(bus, InMemoryWatchBus)
        await bus.publish_many([("k", b"")] * 3)
        assert bus.statistics().journal_messages == 1
    assert not bus.statistics().connected
