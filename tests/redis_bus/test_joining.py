"""Where one thing meets another: before and after, history and live, the kept and the gone."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
import trio
import trio.testing
from redis_bus.servers import RedisServer, epoch_of
from served import until, until_at

from trio_watchbus import (
    BusUnavailableError,
    Message,
    RedisWatchBus,
    Retention,
    WatchLaggedError,
    open_redis_watchbus,
)
from trio_watchbus._redis._connection import Link
from trio_watchbus._redis._layout import Command, Facts


class Pages:
    """What the reader reads; it is held back while that is wanted."""

    def __init__(self, bus: RedisWatchBus, monkeypatch: pytest.MonkeyPatch) -> None:
        self._going_on = trio.Event()
        self.let_go()
        take_page = bus._reader._take_page

        async def take_page_later(*page: Any) -> None:
            await self._going_on.wait()
            await take_page(*page)

        monkeypatch.setattr(bus._reader, "_take_page", take_page_later)

    def hold(self) -> None:
        self._going_on = trio.Event()

    def let_go(self) -> None:
        self._going_on.set()


async def test_a_watch_opened_while_the_reader_is_behind_gets_nothing_from_before(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entering waits until what was stored before has been handed on, to whoever watched then."""
    async with (
        open_redis_watchbus(server.url) as publisher,
        open_redis_watchbus(server.url) as bus,
        trio.open_nursery() as nursery,
    ):
        pages = Pages(bus, monkeypatch)
        pages.hold()
        await publisher.publish("k", b"before")
        entered = trio.Event()

        async def watch() -> None:
            async with bus.watch("k") as watch:
                entered.set()
                assert (await watch.receive()).data == b"after"

        nursery.start_soon(watch)
        # Long enough for what entering asks of Redis; it is not to be there however long it is.
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert not entered.is_set()
        pages.let_go()
        with trio.fail_after(20):
            await entered.wait()
        await publisher.publish("k", b"after")


async def test_what_comes_while_history_is_read_follows_it(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_redis_watchbus(server.url, retention=Retention(per_key=3)) as bus:
        history = bus._past.history

        async def history_and_more(*asked: Any) -> list[Message]:
            found = await history(*asked)
            await until_at(bus, await bus.publish("k", b"between"))
            return found

        monkeypatch.setattr(bus._past, "history", history_and_more)
        await bus.publish("k", b"old")
        async with bus.watch("k", history=2) as watch:
            await bus.publish("k", b"live")
            with trio.fail_after(20):
                got = [(await watch.receive()).data for _ in range(3)]
        assert got == [b"old", b"between", b"live"]


async def test_so_much_that_comes_while_history_is_read_that_it_is_lost_is_told(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a watch on a busy bus can be opened, however long its history takes."""
    async with open_redis_watchbus(server.url, retention=Retention(messages=5)) as bus:
        history = bus._past.history

        async def history_and_much_more(*asked: Any) -> list[Message]:
            found = await history(*asked)
            ids = await bus.publish_many([("k", b"%d" % number) for number in range(20)])
            await until_at(bus, ids[-1])
            return found

        monkeypatch.setattr(bus._past, "history", history_and_much_more)
        await bus.publish("k", b"old")
        with trio.fail_after(20):
            async with bus.watch("k", history=1) as watch:
                assert (await watch.receive()).data == b"old"
                with pytest.raises(WatchLaggedError) as raised:
                    await watch.receive()
                assert raised.value.missed == 15
                got = [(await watch.receive()).data for _ in range(5)]
        assert got == [b"15", b"16", b"17", b"18", b"19"]


@pytest.mark.parametrize("history", [1, 3])
async def test_history_of_many_keys_is_asked_for_in_pages(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, history: int
) -> None:
    """All that a prefix covers, and nothing beside it, in no answer that would hold others up."""
    exchange = Link.exchange
    largest = 0

    def exchange_and_measure(link: Link, *commands: Command) -> list[Any]:
        nonlocal largest
        answers = exchange(link, *commands)
        entries = sum(len(answer) for answer in answers if isinstance(answer, list))
        largest = max(largest, entries)
        return answers

    keys = [f"k{number}é" for number in range(1700)]
    retention = Retention(messages=10, per_key=3)
    async with open_redis_watchbus(server.url, retention=retention) as publisher:
        for _ in range(3):
            await publisher.publish_many([(key, key.encode()) for key in ("j", *keys, "l", "k")])
    async with open_redis_watchbus(server.url, retention=retention) as bus:
        monkeypatch.setattr(Link, "exchange", exchange_and_measure)
        async with bus.subscribe_prefix("k", history=history) as watch:
            got = [(await watch.receive()).key for _ in range(1701 * history)]
            with pytest.raises(trio.WouldBlock):
                watch.receive_nowait()
    assert got == [*keys, "k"] * history
    assert 490 <= largest <= 500


async def test_a_watch_whose_history_cannot_be_read_leaves_nothing(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_redis_watchbus(server.url) as bus:
        history = bus._past.history

        async def fail(*_: Any) -> list[Message]:
            raise BusUnavailableError

        monkeypatch.setattr(bus._past, "history", fail)
        with pytest.raises(BusUnavailableError):
            async with bus.watch("k", history=1):
                pass
        statistics = bus.statistics()
        assert (statistics.watches, statistics.trie_nodes) == (0, 0)
        monkeypatch.setattr(bus._past, "history", history)
        async with bus.watch("k", history=1):
            assert await bus.watched_keys() == {"k"}
        assert await bus.watched_keys() == set()


async def test_an_epoch_that_ends_while_history_is_read_has_it_read_again(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_redis_watchbus(server.url) as bus:
        history = bus._past.history
        epoch = epoch_of(bus.position)
        asked = 0

        async def history_and_a_flush(*of: Any) -> list[Message]:
            nonlocal asked
            asked += 1
            found = await history(*of)
            if asked == 1:
                server.call("FLUSHALL")
                await until(lambda: not bus.position.startswith(epoch))
            return found

        monkeypatch.setattr(bus._past, "history", history_and_a_flush)
        await bus.publish("k", b"of an epoch that is gone")
        async with bus.watch("k", history=1) as watch:
            await bus.publish("k", b"live")
            with trio.fail_after(20):
                assert (await watch.receive()).data == b"live"
        assert asked == 2


async def test_what_comes_while_older_messages_are_read_follows_them(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older than this process has in memory, and so read from the log."""
    async with (
        open_redis_watchbus(server.url) as publisher,
        open_redis_watchbus(server.url) as bus,
    ):
        bus._reader.dispatcher.set_retention(Retention(messages=5))
        ids = await publisher.publish_many([("k", b"%d" % number) for number in range(10)])
        await until_at(bus, ids[-1])
        older = bus._past.older

        async def older_and_more(*asked: Any) -> Any:
            found = await older(*asked)
            await until_at(bus, await publisher.publish("k", b"between"))
            return found

        monkeypatch.setattr(bus._past, "older", older_and_more)
        async with bus.watch("k", after=ids[1]) as watch:
            await publisher.publish("k", b"live")
            with trio.fail_after(20):
                got = [(await watch.receive()).data for _ in range(10)]
        assert got == [*(b"%d" % number for number in range(2, 10)), b"between", b"live"]


async def test_a_log_that_lost_its_newest_entry_is_another_history(server: RedisServer) -> None:
    """Though all that is older is there, and nobody publishes."""
    async with open_redis_watchbus(server.url) as bus, bus.watch("k") as watch:
        *_, last = await bus.publish_many([("k", b"%d" % number) for number in range(3)])
        await until_at(bus, last)
        server.call("XDEL", "watchbus:log", f"{last.partition('-')[2]}-0")
        with trio.fail_after(20):
            assert [(await watch.receive()).data for _ in range(3)] == [b"0", b"1", b"2"]
            with pytest.raises(WatchLaggedError) as raised:
                await watch.receive()
        assert (raised.value.missed, raised.value.reason) == (None, "epoch")
        await bus.publish("k", b"after")
        with trio.fail_after(20):
            assert (await watch.receive()).data == b"after"


async def test_what_is_to_be_kept_is_in_the_log_at_any_time(server: RedisServer) -> None:
    async with open_redis_watchbus(server.url, retention=Retention(messages=100)) as bus:
        for published in range(7, 2000, 7):
            await bus.publish_many([("k", b"")] * 7)
            assert server.call("XLEN", "watchbus:log") >= min(published, 100)


async def test_entering_has_one_deadline_for_all_of_its_parts(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What telling the index took is no longer there for reading the log."""
    async with open_redis_watchbus(server.url, timeout=20) as bus:
        enter, reach = bus._index.enter, bus._reader.reach
        latest: list[float] = []
        deadlines: list[float] = []

        async def enter_slowly(keys: Collection[str]) -> Facts:
            latest.append(trio.current_time() + 20)
            await trio.sleep(0.01)
            return await enter(keys)

        async def reach_in_time(facts: Facts) -> bool:
            deadlines.append(trio.current_effective_deadline())
            return await reach(facts)

        monkeypatch.setattr(bus._index, "enter", enter_slowly)
        monkeypatch.setattr(bus._reader, "reach", reach_in_time)
        async with bus.watch("k"):
            assert deadlines <= latest


async def test_what_comes_before_history_is_read_is_not_given_twice(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands in the key's stream by then, and in the journal."""
    async with open_redis_watchbus(server.url, retention=Retention(per_key=3)) as bus:
        history = bus._past.history

        async def more_and_history(*asked: Any) -> list[Message]:
            await until_at(bus, await bus.publish("k", b"between"))
            return await history(*asked)

        monkeypatch.setattr(bus._past, "history", more_and_history)
        await bus.publish("k", b"old")
        async with bus.watch("k", history=3) as watch:
            await bus.publish("k", b"live")
            with trio.fail_after(20):
                got = [(await watch.receive()).data for _ in range(3)]
        assert got == [b"old", b"between", b"live"]


async def test_what_is_published_while_the_log_is_read_follows_from_the_journal(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of the log may reach beyond what this process has handed on yet."""
    async with (
        open_redis_watchbus(server.url) as publisher,
        open_redis_watchbus(server.url, retention=Retention(messages=5)) as bus,
        bus.watch("other"),
    ):
        start = publisher.position
        ids = await publisher.publish_many([("k", b"")] * 20)
        await until_at(bus, ids[-1])
        pages = Pages(bus, monkeypatch)
        # Whatever read is under way, the next one is held back.
        ids.append(await publisher.publish("k", b""))
        await until_at(bus, ids[-1])
        pages.hold()
        register_after = bus._mirror.register_after

        def register_and_go_on(*arguments: Any) -> Any:
            pages.let_go()
            return register_after(*arguments)

        monkeypatch.setattr(bus._mirror, "register_after", register_and_go_on)
        older = bus._past.older

        async def publish_and_older(*arguments: Any) -> Any:
            # The log has these, and this process has not heard of them.
            ids.extend(await publisher.publish_many([("k", b"")] * 3))
            return await older(*arguments)

        monkeypatch.setattr(bus._past, "older", publish_and_older)
        async with bus.watch("k", after=start) as watch:
            with trio.fail_after(20):
                assert [(await watch.receive()).id for _ in range(24)] == ids
