"""Connections that break, and what a remote bus makes of that."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
from served import Server, served, until

from trio_watchbus import (
    BusUnavailableError,
    InMemoryWatchBus,
    PublishUnknownError,
    RemoteWatchBus,
    Retention,
    WatchLaggedError,
    open_remote_watchbus,
)
from trio_watchbus._backoff import Backoff
from trio_watchbus._remote import _bus
from trio_watchbus.abc import Watch
from trio_watchbus.testing import FaultProxy


@asynccontextmanager
async def through_proxy(
    server: Server, **options: Any
) -> AsyncIterator[tuple[FaultProxy, RemoteWatchBus]]:
    """Open a bus whose connection goes through a proxy."""
    async with (
        FaultProxy(("127.0.0.1", server.port)) as proxy,
        open_remote_watchbus(f"http://127.0.0.1:{proxy.port}", **options) as bus,
    ):
        yield proxy, bus


async def reconnected(bus: RemoteWatchBus, times: int = 1) -> None:
    await until(lambda: bus.statistics().connected and bus.statistics().reconnects >= times)


async def numbers(watch: Watch, count: int) -> list[int]:
    return [int((await watch.receive()).data) for _ in range(count)]


@pytest.mark.parametrize("reset", [False, True])
async def test_watches_go_on_after_a_cut_without_loss_or_repeat(reset: bool) -> None:
    async with (
        served() as server,
        through_proxy(server) as (proxy, bus),
        bus.watch("k") as watch,
        bus.subscribe_prefix("k", history=5) as other,
    ):
        await server.bus.publish("k", b"0")
        assert await numbers(watch, 1) == [0]
        proxy.cut(reset=reset)
        await server.bus.publish_many([("k", b"1"), ("x", b""), ("k", b"2")])
        await reconnected(bus)
        await server.bus.publish("k", b"3")
        assert await numbers(watch, 3) == [1, 2, 3]
        assert await numbers(other, 4) == [0, 1, 2, 3]


async def test_cuts_at_any_time_lose_and_repeat_nothing_and_publish_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both directions in small pieces, so that cuts come within frames."""
    monkeypatch.setattr(_bus, "_LONGEST_PAUSE", 0.05)
    async with (
        served() as server,
        through_proxy(server) as (proxy, bus),
        server.bus.watch("k") as stored,
        bus.watch("k", buffer_size=4) as watch,
        trio.open_nursery() as nursery,
    ):
        proxy.to_client.piece_size = 50
        proxy.to_target.piece_size = 50

        async def publish() -> None:
            for number in range(300):
                await bus.publish("k", b"%d" % number)

        async def cut() -> None:
            for times in range(1, 15):
                await proxy.to_client.wait_seen(300)
                proxy.cut(reset=bool(times % 2))
                await reconnected(bus, times)

        nursery.start_soon(publish)
        nursery.start_soon(cut)
        assert await numbers(watch, 300) == list(range(300))
        assert await numbers(stored, 300) == list(range(300))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("long", "times"), [(0.0, 1), (1000.0, 0)])
async def test_pauses_begin_anew_after_a_connection_that_held(
    monkeypatch: pytest.MonkeyPatch, long: float, times: int
) -> None:
    """And grow on after one that did not, so that a server that fails at once is no busier."""
    resets = 0

    def reset(_: Backoff) -> None:
        nonlocal resets
        resets += 1

    monkeypatch.setattr(Backoff, "reset", reset)
    async with served() as server, through_proxy(server) as (proxy, bus):
        monkeypatch.setattr(_bus, "_LONGEST_PAUSE", long)
        proxy.cut()
        await reconnected(bus)
        assert resets == times


async def test_the_position_moves_past_what_does_not_match_so_that_it_can_be_resumed_from() -> None:
    bus_behind = InMemoryWatchBus(retention=Retention(messages=10))
    async with (
        # A client has as long to answer, on a busy machine too.
        served(bus_behind, heartbeat=2) as server,
        through_proxy(server) as (proxy, bus),
        bus.watch("k") as watch,
    ):
        await server.bus.publish_many([("other", b"")] * 20)
        await until(lambda: watch.position == server.bus.position)
        proxy.cut()
        await reconnected(bus)
        await server.bus.publish("k", b"1")
        assert await numbers(watch, 1) == [1]


async def test_the_position_of_the_bus_does_not_go_back_with_a_watch_of_the_past() -> None:
    async with served() as server, through_proxy(server) as (_, bus):
        ids = await bus.publish_many([("k", b"%d" % number) for number in range(10)])
        # So small that no more than two of them come.
        async with bus.watch("k", after=ids[0], buffer_size=1) as watch:
            assert await numbers(watch, 1) == [1]
            assert bus.position == ids[-1]


async def test_what_the_server_no_longer_holds_is_told_once_with_a_bound() -> None:
    bus_behind = InMemoryWatchBus(retention=Retention(messages=10))
    async with (
        served(bus_behind) as server,
        through_proxy(server) as (proxy, bus),
        bus.watch("k") as watch,
    ):
        await server.bus.publish("k", b"0")
        await until(lambda: watch.statistics().buffered)
        proxy.refuse()
        proxy.cut()
        await server.bus.publish_many([("k", b"%d" % number) for number in range(1, 31)])
        proxy.accept()
        assert await numbers(watch, 1) == [0]
        with pytest.raises(WatchLaggedError) as caught:
            await watch.receive()
        assert (caught.value.missed, caught.value.reason) == (20, "trimmed")
        assert watch.position == caught.value.position
        assert await numbers(watch, 10) == list(range(21, 31))


@pytest.mark.parametrize("retained", [10_000, 3])
@pytest.mark.parametrize("overflow", ["replay", "drop_oldest"])
async def test_a_cut_before_the_history_is_received_adds_nothing_to_it(
    retained: int, overflow: Any
) -> None:
    """Not what it left out, nor a loss where only the messages kept by key are still held."""
    bus_behind = InMemoryWatchBus(retention=Retention(messages=retained))
    async with served(bus_behind) as server, through_proxy(server) as (proxy, bus):
        await server.bus.publish_many([("a", b"10"), ("x", b"20")])
        await server.bus.publish_many([("b", b"%d" % number) for number in range(5)])
        # The kind that drops is to have room for what comes after the history.
        size = 1 if overflow == "replay" else 10
        async with bus.watch_any(
            ["a", "x", "b"], history=1, buffer_size=size, overflow=overflow
        ) as watch:
            proxy.refuse()
            proxy.cut()
            await server.bus.publish_many([("b", b"31"), ("b", b"32")])
            proxy.accept()
            await reconnected(bus)
            await server.bus.publish("b", b"33")
            assert await numbers(watch, 6) == [10, 20, 4, 31, 32, 33]


async def test_a_cut_amid_the_history_has_it_come_anew_as_of_then() -> None:
    size = 300_000
    async with (
        served() as server,
        through_proxy(server) as (proxy, bus),
        trio.open_nursery() as nursery,
    ):
        # Each in a frame of its own.
        for number in range(5):
            await server.bus.publish(f"k/{number}", b"%*d" % (size, number))
        proxy.to_client.piece_size = 10_000
        entered = trio.Event()

        async def watch() -> None:
            async with bus.subscribe_prefix("k/", history=1, buffer_size=1) as watch:
                entered.set()
                assert await numbers(watch, 6) == [0, 2, 3, 4, 5, 6]

        nursery.start_soon(watch)
        await proxy.to_client.wait_seen(size + size // 2)
        proxy.refuse()
        proxy.cut()
        await until(lambda: not server.watches)
        assert not entered.is_set()
        await server.bus.publish("k/1", b"5")
        proxy.accept()
        await until(lambda: server.watches)
        await server.bus.publish("k/0", b"6")


async def test_a_server_that_starts_anew_is_a_loss_of_unknown_size() -> None:
    async with (
        served() as first,
        served() as second,
        through_proxy(first) as (proxy, bus),
        bus.watch("k") as watch,
    ):
        await bus.publish("k", b"1")
        assert await numbers(watch, 1) == [1]
        await second.bus.publish("k", b"2")
        proxy.target = ("127.0.0.1", second.port)
        first.stop.set()
        with pytest.raises(WatchLaggedError) as caught:
            await watch.receive()
        assert (caught.value.missed, caught.value.reason) == (None, "epoch")
        assert await numbers(watch, 1) == [2]
        await bus.publish("k", b"3")
        assert await numbers(watch, 1) == [3]
        assert bus.position == second.bus.position


async def test_a_server_that_drains_is_left_for_the_next_without_loss() -> None:
    """Two servers of one bus, one after the other, as in a rolling restart."""
    bus_behind = InMemoryWatchBus()
    async with (
        served(bus_behind) as first,
        served(bus_behind) as second,
        through_proxy(first) as (proxy, bus),
        bus.watch("k") as watch,
    ):
        proxy.target = ("127.0.0.1", second.port)
        ids = [await bus.publish("k", b"%d" % number) for number in range(3)]
        first.stop.set()
        ids += [await bus.publish("k", b"%d" % number) for number in range(3, 6)]
        assert len(set(ids)) == 6
        assert await numbers(watch, 6) == list(range(6))


async def test_a_publish_whose_answer_is_lost_is_stored_once_and_answered() -> None:
    async with (
        served() as server,
        server.bus.watch("k") as stored,
        through_proxy(server) as (proxy, bus),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(proxy.lose_reply)
        await trio.testing.wait_all_tasks_blocked()
        identifier = await bus.publish("k", b"1")
        assert bus.statistics().reconnects == 1
        assert (await stored.receive()).id == identifier
        ids = await bus.publish_many([("k", b"2"), ("k", b"3")], idempotency_key="mine")
        assert await server.bus.publish_many([("k", b"")] * 2, idempotency_key="mine") == ids
        assert await numbers(stored, 2) == [2, 3]


async def test_a_batch_whose_answer_is_lost_is_stored_once_and_answered() -> None:
    """Without a key from its caller: the bus gives it one."""
    async with (
        served() as server,
        through_proxy(server) as (proxy, bus),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(proxy.lose_reply)
        await trio.testing.wait_all_tasks_blocked()
        ids = await bus.publish_many([("k", b"1"), ("k", b"2")])
        assert bus.statistics().reconnects == 1
        assert [identifier.rpartition("-")[2] for identifier in ids] == ["1", "2"]
        assert server.bus.position == ids[-1]


async def test_a_publish_that_may_have_arrived_and_is_not_answered_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with served() as server, through_proxy(server) as (proxy, bus):
        proxy.to_client.swallow()
        with monkeypatch.context() as patches:
            # For those that are not answered alone; it has to suffice to send them.
            patches.setattr(bus._calls, "_timeout", 1)
            with pytest.raises(PublishUnknownError) as caught:
                await bus.publish("k", b"1")
            with pytest.raises(PublishUnknownError) as caught_named:
                await bus.publish("k", b"2", idempotency_key="mine")
        assert caught_named.value.idempotency_key == "mine"
        proxy.cut()
        proxy.to_client.release()
        await reconnected(bus)
        async with bus.watch("k", history=1) as watch:
            again = await bus.publish("k", b"1", idempotency_key=caught.value.idempotency_key)
            assert again.endswith("-1")
            assert await numbers(watch, 1) == [2]


async def test_what_cannot_have_been_sent_is_unavailable_and_was_not_done() -> None:
    async with served() as server, through_proxy(server, timeout=0.1) as (proxy, bus):
        proxy.refuse()
        proxy.cut()
        await until(lambda: not bus.statistics().connected)
        for ask in (
            bus.publish("k", b""),
            bus.publish_many([("k", b"")]),
            bus.latest("k"),
            bus.watched_keys(),
            bus.watch("k").__aenter__(),
        ):
            with pytest.raises(BusUnavailableError) as caught:
                await ask
            assert type(caught.value) is BusUnavailableError
        assert bus.statistics().watches == 0
        proxy.accept()
        await reconnected(bus)
        assert server.bus.position.endswith("-0")


async def test_what_is_asked_while_disconnected_is_done_once_connected() -> None:
    async with served() as server, through_proxy(server) as (proxy, bus):
        await server.bus.publish("k", b"0")
        proxy.refuse()
        proxy.cut()
        await until(lambda: not bus.statistics().connected)
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                async with bus.watch("k", history=1) as watch:
                    assert await numbers(watch, 2) == [0, 1]

            nursery.start_soon(watch)
            await until(lambda: bus.statistics().watches)
            proxy.accept()
            await until(lambda: server.watches)
            await bus.publish("k", b"1")


@pytest.mark.parametrize("direction", ["to_client", "to_target", "both"])
async def test_a_half_open_connection_is_noticed_and_replaced(direction: str) -> None:
    async with (
        served() as server,
        through_proxy(server, heartbeat=0.1, heartbeat_timeout=0.1) as (proxy, bus),
        bus.watch("k") as watch,
    ):
        if direction != "to_target":
            proxy.to_client.swallow()
        if direction != "to_client":
            proxy.to_target.swallow()
        await until(lambda: not bus.statistics().connected)
        proxy.to_client.release()
        proxy.to_target.release()
        await reconnected(bus)
        await server.bus.publish("k", b"1")
        assert await numbers(watch, 1) == [1]


async def test_a_silent_server_that_answers_is_not_left() -> None:
    async with (
        served() as server,
        through_proxy(server, heartbeat=0.02, heartbeat_timeout=10) as (proxy, bus),
    ):
        # Several questions, and as many answers.
        await proxy.to_client.wait_seen(10 * len('{"op":"pong"}'))
        assert bus.statistics().reconnects == 0


async def test_a_slow_watch_stops_neither_the_others_nor_the_pings() -> None:
    async with (
        served() as server,
        through_proxy(server, heartbeat=0.05, heartbeat_timeout=5) as (proxy, bus),
        bus.watch("k", buffer_size=3) as slow,
        bus.watch("k") as quick,
    ):
        ids = [await server.bus.publish("k", b"x" * 10_000) for _ in range(500)]
        assert [(await quick.receive()).id for _ in ids] == ids
        await proxy.to_target.wait_seen(100)
        await proxy.to_client.wait_seen(100)
        assert slow.statistics().buffered == 3
        assert bus.statistics().reconnects == 0
        assert [(await slow.receive()).id for _ in ids] == ids


async def test_a_watch_that_is_closed_while_disconnected_is_not_opened_again() -> None:
    async with served() as server, through_proxy(server) as (proxy, bus), bus.watch("a"):
        async with bus.watch("b"):
            proxy.refuse()
            proxy.cut()
            await until(lambda: not bus.statistics().connected)
            await until(lambda: server.watches == 0)
        proxy.accept()
        await reconnected(bus)
        assert await bus.watched_keys() == {"a"}


async def test_statistics_say_how_it_is_connected(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trio_watchbus.remote")
    async with served() as server, through_proxy(server) as (proxy, bus):
        before = bus.statistics()
        assert (before.connected, before.reconnects) == (True, 0)
        assert before.connected_since is not None
        assert repr(bus) == (
            f"<RemoteWatchBus http://127.0.0.1:{proxy.port} at {server.bus.position}: 0 watches>"
        )
        proxy.refuse()
        proxy.cut()
        await until(lambda: not bus.statistics().connected)
        assert bus.statistics().connected_since is None
        assert repr(bus).endswith("disconnected>")
        proxy.accept()
        await reconnected(bus)
        after = bus.statistics()
        assert after.reconnects == 1
        assert after.connected_since is not None
        assert after.connected_since >= before.connected_since
    assert repr(bus).endswith("closed>")
    assert [record.levelname for record in caplog.records][:1] == ["WARNING"]
    assert "connected to http://127.0.0.1" in caplog.messages[-1]


async def test_hundreds_of_watches_go_on_together() -> None:
    async with (
        served() as server,
        through_proxy(server) as (proxy, bus),
        AsyncExitStack() as stack,
    ):
        watches = [
            await stack.enter_async_context(bus.watch(f"k/{number}")) for number in range(300)
        ]
        proxy.cut()
        await reconnected(bus)
        await bus.publish_many([(f"k/{number}", b"%d" % number) for number in range(300)])
        for number, watch in enumerate(watches):
            assert await numbers(watch, 1) == [number]


@pytest.mark.parametrize("overflow", ["replay", "latest", "drop_oldest", "drop_newest"])
async def test_what_a_slow_network_does_is_what_a_slow_consumer_does(overflow: Any) -> None:
    """Held up on the way, messages are lost or dropped at the server, and that is told."""
    size = 1_000_000
    bus_behind = InMemoryWatchBus(retention=Retention(messages=3))
    async with (
        served(bus_behind) as server,
        through_proxy(server) as (proxy, bus),
        bus.subscribe_prefix("", overflow=overflow, buffer_size=4) as watch,
    ):
        proxy.to_client.hold()
        # More than all the sockets on the way hold.
        for number in range(60):
            await server.bus.publish("k", b"%*d" % (size, number))
            await trio.testing.wait_all_tasks_blocked()
        proxy.to_client.release()
        got: list[int] = []
        missed = 0
        with trio.move_on_after(30):
            while missed + len(got) + watch.statistics().dropped < 60 and 59 not in got:
                try:
                    got.append(int((await watch.receive()).data))
                except WatchLaggedError as loss:
                    missed += loss.missed or 0
        assert got == sorted(set(got))
        assert len(got) < 60
        match overflow:
            case "replay":
                assert len(got) + missed == 60
            case "latest":
                assert got[-1] == 59
                assert watch.statistics().dropped == 0
            case "drop_oldest":
                assert got[-1] == 59
                assert watch.statistics().dropped + len(got) == 60
            case "drop_newest":
                assert got[:4] == [0, 1, 2, 3]
                assert watch.statistics().dropped + len(got) == 60
