"""The reader: what it hands on, what it tells to be lost, and how it resumes."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from redis_bus.servers import RedisServer, epoch_of
from served import until

from trio_watchbus import (
    HistoryLostError,
    Message,
    RedisWatchBus,
    Retention,
    WatchLaggedError,
    open_redis_watchbus,
)
from trio_watchbus._core._dispatcher import Dispatcher
from trio_watchbus._message import Position
from trio_watchbus._redis._layout import Command, Facts, Page, Run
from trio_watchbus.abc import Publication, Watch, WatchBus
from trio_watchbus.testing import FaultProxy


def numbered(count: int, key: str = "k") -> list[Publication]:
    """A batch of `count` messages whose data are their numbers."""
    return [(key, b"%d" % number) for number in range(count)]


async def receive(watch: Watch, count: int) -> list[bytes]:
    """Receive `count` messages, and return their data."""
    with trio.fail_after(20):
        return [(await watch.receive()).data for _ in range(count)]


async def lag(watch: Watch) -> WatchLaggedError:
    """Receive once, which raises a loss; return that."""
    with trio.fail_after(20), pytest.raises(WatchLaggedError) as caught:
        await watch.receive()
    return caught.value


@asynccontextmanager
async def cut_off(
    server: RedisServer, retention: Retention | None = None
) -> AsyncIterator[tuple[FaultProxy, RedisWatchBus, Watch, WatchBus]]:
    """A proxy that refuses, behind it a bus with a watch on all, and a bus that has no fault.

    The watch has received all that was published so far.
    """
    async with (
        FaultProxy(("127.0.0.1", server.port)) as proxy,
        open_redis_watchbus(f"redis://127.0.0.1:{proxy.port}", retention=retention) as bus,
        open_redis_watchbus(server.url) as other,
        bus.subscribe_prefix("") as watch,
    ):
        await other.publish("k", b"before")
        assert await receive(watch, 1) == [b"before"]
        proxy.refuse()
        proxy.cut()
        yield proxy, bus, watch, other


async def test_a_jump_is_a_loss_of_its_size(server: RedisServer) -> None:
    """Messages that were taken out of the log before they were read are told, to the number."""
    async with cut_off(server) as (proxy, _, watch, other):
        await other.publish_many(numbered(7))
        server.call("DEL", "watchbus:log")
        after = await other.publish("k", b"after")
        proxy.accept()
        told = await lag(watch)
        assert (told.missed, told.reason) == (7, "trimmed")
        message = await watch.receive()
        assert (message.id, message.data) == (after, b"after")


async def test_what_came_while_it_was_cut_off_is_received_however_little_it_holds(
    server: RedisServer,
) -> None:
    """Who watches is given more than the journal has room for, as it is in the log."""
    async with cut_off(server, Retention(messages=5)) as (proxy, _, watch, other):
        await other.publish_many(numbered(50))
        proxy.accept()
        assert await receive(watch, 50) == [b"%d" % number for number in range(50)]


async def test_the_statistics_say_how_far_the_reader_is_behind(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is connected again it knows how much it has to read; in the end, nothing is left."""
    async with cut_off(server) as (proxy, bus, watch, other):
        reader = bus._reader
        take_page = reader._take_page
        behind = []

        async def take_page_and_look(*page: Any) -> None:
            behind.append(bus.statistics().behind)
            await take_page(*page)

        monkeypatch.setattr(reader, "_take_page", take_page_and_look)
        await other.publish_many(numbered(50))
        await until(lambda: not bus.statistics().connected)
        proxy.accept()
        await receive(watch, 50)
        await until(lambda: bus.statistics().behind == 0)
        assert behind[0] == 50
        assert bus.statistics().reconnects == 1


async def test_since_when_it_is_connected_is_known(server: RedisServer) -> None:
    """Not while it is not, and anew after that."""
    before = time.time()
    async with cut_off(server) as (proxy, bus, _, _):
        await until(lambda: not bus.statistics().connected)
        assert bus.statistics().connected_since is None
        cut = time.time()
        proxy.accept()
        await until(lambda: bus.statistics().connected)
        since = bus.statistics().connected_since
        assert since is not None
        assert before < cut <= since <= time.time()
    assert bus.statistics().connected is False


async def test_a_lost_end_is_told_without_a_further_message(server: RedisServer) -> None:
    """Messages that were last in the log, and are gone, are told although nothing follows."""
    async with (
        FaultProxy(("127.0.0.1", server.port)) as proxy,
        open_redis_watchbus(f"redis://127.0.0.1:{proxy.port}") as bus,
        open_redis_watchbus(server.url) as other,
        bus.subscribe_prefix("") as watch,
    ):
        await other.publish("k", b"last")
        assert await receive(watch, 1) == [b"last"]
        proxy.refuse()
        proxy.cut()
        ids = await other.publish_many(numbered(5))
        server.call("XTRIM", "watchbus:log", "MAXLEN", 0)
        proxy.accept()
        told = await lag(watch)
        assert (told.missed, told.position) == (5, ids[-1])
        assert watch.position == bus.position == ids[-1]
        await bus.publish("k", b"next")
        assert await receive(watch, 1) == [b"next"]


async def test_a_flush_is_told_while_nothing_is_published(server: RedisServer) -> None:
    """Every watch learns of a flush, and the bus is in another epoch."""
    async with open_redis_watchbus(server.url) as bus, bus.watch("k") as watch:
        before = await bus.publish("k", b"before")
        assert await receive(watch, 1) == [b"before"]
        server.call("FLUSHALL")
        told = await lag(watch)
        assert (told.missed, told.reason) == (None, "epoch")
        assert epoch_of(bus.position) != epoch_of(before)
        await bus.publish("k", b"after")
        assert await receive(watch, 1) == [b"after"]
        with pytest.raises(HistoryLostError) as caught:
            await bus.watch("k", after=before).__aenter__()
        assert caught.value.reason == "epoch"


async def test_a_log_that_lost_its_facts_is_begun_anew_above_what_is_left(
    server: RedisServer,
) -> None:
    """Without its hash of facts the bus goes on in another epoch, above all numbers given."""
    async with open_redis_watchbus(server.url) as bus, bus.watch("k") as watch:
        await bus.publish_many(numbered(3))
        await receive(watch, 3)
        server.call("DEL", "watchbus:facts")
        identifier = await bus.publish("k", b"after")
        assert identifier.endswith("-4")
        assert (await lag(watch)).reason == "epoch"
        assert await receive(watch, 1) == [b"after"]


async def test_one_process_replaces_the_epoch_and_all_follow(server: RedisServer) -> None:
    """Of several processes that find the history rewritten, all end in one new epoch."""
    async with (
        open_redis_watchbus(server.url) as first,
        open_redis_watchbus(server.url) as second,
        first.watch("k") as one,
        second.watch("k") as two,
    ):
        await first.publish_many(numbered(3))
        await receive(one, 3)
        await receive(two, 3)
        # As after a failover to a replica that has the third message otherwise.
        server.call("DEL", "watchbus:log")
        for number in (1, 2, 3):
            fields = ("k", "k", "d", "another" if number == 3 else number, "t", 1)
            server.call("XADD", "watchbus:log", f"{number}-0", *fields)
        for watch in (one, two):
            assert (await lag(watch)).reason == "epoch"
        assert first.position == second.position
        await second.publish("k", b"after")
        assert await receive(one, 1) == await receive(two, 1) == [b"after"]


async def test_a_numbering_that_fell_back_is_another_history(server: RedisServer) -> None:
    """A log without entries, whose newest number is below that of a message seen, was rewritten."""
    async with open_redis_watchbus(server.url) as bus, bus.watch("k") as watch:
        await bus.publish_many(numbered(3))
        await receive(watch, 3)
        server.call("DEL", "watchbus:log")
        server.call("HSET", "watchbus:facts", "seq", 2)
        assert (await lag(watch)).reason == "epoch"
        await bus.publish("k", b"after")
        assert await receive(watch, 1) == [b"after"]


async def test_foreign_entries_are_passed_over_and_counted(server: RedisServer) -> None:
    """What others add to the log is skipped, and does not stop the bus."""
    async with open_redis_watchbus(server.url) as bus, bus.watch("k") as watch:
        await bus.publish("k", b"1")
        assert await receive(watch, 1) == [b"1"]
        server.call("XADD", "watchbus:log", "1-5", "some", "thing")
        server.call("XADD", "watchbus:log", "1-6", "k", b"\xff", "d", "x", "t", "1")
        server.call("XADD", "watchbus:log", "1-7", "k", "k", "d", "x", "t", "no time")
        await bus.publish("k", b"2")
        assert await receive(watch, 1) == [b"2"]
        assert bus.statistics().skipped_entries == 3
        # With an id of Redis's making, far above: the bus goes on above it.
        server.call("XADD", "watchbus:log", "*", "some", "thing")
        await bus.publish("k", b"3")
        assert (await lag(watch)).reason == "epoch"
        await bus.publish("k", b"4")
        got = await receive(watch, 1)
        assert got == [b"3"] or got == [b"4"]


async def test_what_the_journal_no_longer_holds_is_read_from_the_log(server: RedisServer) -> None:
    """A position older than this process's journal is resumed from in pages, exactly."""
    count = 1700
    async with (
        open_redis_watchbus(server.url) as publisher,
        open_redis_watchbus(server.url, retention=Retention(messages=5)) as bus,
    ):
        start = publisher.position
        await publisher.publish_many(numbered(count))
        await publisher.publish_prefix("", b"end")
        async with bus.watch("k", after=start, buffer_size=3) as watch, trio.open_nursery() as n:
            n.start_soon(publisher.publish_many, numbered(3, "other"))
            got = await receive(watch, count + 1)
        assert got == [b"%d" % number for number in range(count)] + [b"end"]


async def test_what_the_log_no_longer_holds_is_refused(server: RedisServer) -> None:
    """A position older than the log is refused; the oldest one that it names can be resumed."""
    async with open_redis_watchbus(server.url) as bus:
        start = bus.position
        ids = await bus.publish_many(numbered(20))
        server.call("XTRIM", "watchbus:log", "MINID", 11)
        async with open_redis_watchbus(server.url) as fresh:
            with pytest.raises(HistoryLostError) as caught:
                await fresh.watch("k", after=start).__aenter__()
            assert (caught.value.reason, caught.value.position) == ("trimmed", ids[9])
            async with fresh.watch("k", after=caught.value.position) as watch:
                assert await receive(watch, 10) == [b"%d" % number for number in range(10, 20)]


async def test_the_nonce_of_a_position_counts_where_the_log_alone_tells(
    server: RedisServer,
) -> None:
    """The number may be that of another message than the one that the position was got from."""
    async with (
        open_redis_watchbus(server.url) as publisher,
        open_redis_watchbus(server.url, retention=Retention(messages=5)) as bus,
    ):
        ids = await publisher.publish_many(numbered(20))
        undone = Position.parse(ids[3])._replace(branch="undone")
        with pytest.raises(HistoryLostError) as caught:
            await bus.watch("k", after=str(undone)).__aenter__()
        assert caught.value.reason == "epoch"
        async with bus.watch("k", after=ids[3]) as watch:
            assert await receive(watch, 16) == [b"%d" % number for number in range(4, 20)]


async def test_a_message_that_came_after_another_one_is_of_another_history(
    server: RedisServer,
) -> None:
    """As where a copy of the data was there for no longer than one read."""
    async with open_redis_watchbus(server.url) as bus, bus.watch("k") as watch:
        await bus.publish("k", b"1")
        assert await receive(watch, 1) == [b"1"]
        last = bus._reader.dispatcher.position
        message = Message("k", b"2", f"{last.epoch}_other-{last.sequence + 1}", 0.0)
        run = Run(last._replace(branch="other"), [message])
        facts = Facts(Position(last.epoch, 0), Position.parse(message.id))
        await bus._reader._take_page(Page([run], b"2-0", 0), facts)
        loss = await lag(watch)
        assert (loss.missed, loss.reason) == (None, "epoch")


async def test_a_fresh_process_resumes_clients_from_memory(server: RedisServer) -> None:
    """Watches that come back to a process that has just started cost Redis no read of the log."""
    async with open_redis_watchbus(server.url) as bus:
        start = bus.position
        await bus.publish_many(numbered(50))
    async with open_redis_watchbus(server.url) as fresh:
        assert fresh.statistics().journal_messages == 50
        server.call("CONFIG", "RESETSTAT")
        for _ in range(20):
            async with fresh.watch("k", after=start) as watch:
                assert len(await receive(watch, 50)) == 50
        calls = server.call("INFO", "commandstats")
        # Those of the looks around, which read single entries.
        assert calls.get("cmdstat_xrange", {"calls": 0})["calls"] < 20


async def test_ten_thousand_watches_have_three_connections(server: RedisServer) -> None:
    """Connections and threads are as few with many watches as with none."""
    async with open_redis_watchbus(server.url) as bus, trio.open_nursery() as nursery:
        entered = 0
        all_entered = trio.Event()

        async def watch(number: int) -> None:
            nonlocal entered
            async with bus.watch(f"key-{number}") as watch:
                entered += 1
                if entered == 10_000:
                    all_entered.set()
                await watch.receive()

        for number in range(10_000):
            nursery.start_soon(watch, number)
        with trio.fail_after(60):
            await all_entered.wait()
        with server.client() as client:
            names = [connected["name"] for connected in client.client_list()]
        assert sum(name.startswith("watchbus-") for name in names) == 3
        assert sum("read_page" in thread.name for thread in threading.enumerate()) == 1
        await bus.publish_prefix("key-", b"")


@pytest.mark.parametrize(
    "rewrite",
    [
        ("HSET", "watchbus:facts", "epoch", "another", "start", 1700),
        ("DEL", "watchbus:facts"),
    ],
    ids=["replaced", "gone"],
)
async def test_a_history_that_is_rewritten_while_it_is_read_is_refused(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, rewrite: tuple[Any, ...]
) -> None:
    """Between two pages of what is older than the journal."""
    async with (
        open_redis_watchbus(server.url) as publisher,
        open_redis_watchbus(server.url, retention=Retention(messages=5)) as bus,
    ):
        start = publisher.position
        await publisher.publish_many(numbered(1700))
        request = bus._queries.request
        pages = 0

        async def request_and_rewrite(commands: Sequence[Command], *weight: int) -> list[Any]:
            nonlocal pages
            pages += commands[0][0] == "XRANGE"
            if pages == 2:
                server.call(*rewrite)
            return await request(commands, *weight)

        monkeypatch.setattr(bus._queries, "request", request_and_rewrite)
        with pytest.raises(HistoryLostError) as raised:
            await bus.watch("k", after=start).__aenter__()
        assert (raised.value.reason, pages) == ("epoch", 2)


async def test_a_position_below_the_start_of_its_epoch_is_refused(server: RedisServer) -> None:
    """What stands there in the log is of another epoch; nobody was given such a position."""
    async with open_redis_watchbus(server.url) as bus:
        await bus.publish_many(numbered(3))
        server.call("DEL", "watchbus:facts")
        epoch = epoch_of(await bus.publish("k", b"after"))
        for number in (0, 2):
            with pytest.raises(HistoryLostError) as raised:
                await bus.watch("k", after=f"{epoch}-{number}").__aenter__()
            assert (raised.value.reason, raised.value.position) == ("trimmed", f"{epoch}-3")
        async with bus.watch("k", after=f"{epoch}-3") as watch:
            assert (await watch.receive()).data == b"after"


async def test_others_run_while_a_page_is_handed_on(server: RedisServer) -> None:
    """Every 64 messages; and pages of large messages become small ones."""
    async with open_redis_watchbus(server.url) as bus, trio.open_nursery() as nursery:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        nursery.start_soon(count)
        reader = bus._reader
        before, data = reader.dispatcher.position, b"x" * 10_000
        messages = [
            Message("k", data, f"{before.epoch}_nonce-{number}", 0.0) for number in range(1, 641)
        ]
        facts = Facts(before, Position.parse(messages[-1].id))
        await reader._take_page(Page([Run(before, messages)], b"640-0", 0), facts)
        assert turns >= 5
        assert reader._page_size.entries <= 1024 * 1024 // 10_000
        nursery.cancel_scope.cancel()


async def test_opening_reads_no_more_than_the_journal_holds(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the log is, which other processes may want longer."""
    async with open_redis_watchbus(server.url) as publisher:
        await publisher.publish_many(numbered(500))
        accepted: list[str] = []
        accept = Dispatcher.accept

        def note(dispatcher: Dispatcher, message: Message) -> None:
            accepted.append(message.id)
            accept(dispatcher, message)

        monkeypatch.setattr(Dispatcher, "accept", note)
        async with open_redis_watchbus(server.url, retention=Retention(messages=5)) as bus:
            assert len(accepted) == bus.statistics().journal_messages == 5


async def test_who_opens_reads_nothing_of_an_epoch_before(server: RedisServer) -> None:
    """What stands below the start of the numbering has ids of another."""
    async with open_redis_watchbus(server.url) as bus:
        await bus.publish_many(numbered(3))
        server.call("DEL", "watchbus:facts")
        last = await bus.publish("k", b"after")
        async with open_redis_watchbus(server.url) as fresh:
            assert fresh.statistics().journal_messages == 1
            epoch = epoch_of(last)
            with pytest.raises(HistoryLostError):
                await fresh.watch("k", after=f"{epoch}-2").__aenter__()
