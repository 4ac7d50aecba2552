"""A process in which nobody watches reads nothing, and has what it needs when somebody comes."""

from __future__ import annotations

import pytest
import trio
from redis_bus.servers import RedisServer
from served import until, until_at

from trio_watchbus import HistoryLostError, Retention, open_redis_watchbus
from trio_watchbus._redis import _reader

BATCH = [("k", b"%d" % number) for number in range(50)]


def reads(server: RedisServer) -> int:
    """How often the log was read on from somewhere since the server's counts were reset."""
    calls: int = server.call("INFO", "commandstats").get("cmdstat_xread", {"calls": 0})["calls"]
    return calls


async def test_who_only_publishes_reads_nothing(server: RedisServer) -> None:
    """It knows where the log is all the same, and is not behind what nobody waits for."""
    async with open_redis_watchbus(server.url) as bus, open_redis_watchbus(server.url) as other:
        # When it knows of this, no read is under way any more.
        await until_at(bus, await other.publish("k", b"before"))
        server.call("CONFIG", "RESETSTAT")
        before = bus.statistics().journal_messages
        [*_, last] = await bus.publish_many(BATCH)
        assert bus.position == last
        last = await other.publish("k", b"")
        await until_at(bus, last)
        assert reads(server) == 0
        statistics = bus.statistics()
        assert (statistics.behind, statistics.journal_messages) == (0, before)
        async with bus.watch("k", after=last) as watch:
            await bus.publish("k", b"live")
            with trio.fail_after(20):
                assert (await watch.receive()).data == b"live"
            assert reads(server) > 0


async def test_it_rests_again_when_the_last_watch_is_gone(server: RedisServer) -> None:
    async with open_redis_watchbus(server.url) as bus, open_redis_watchbus(server.url) as other:
        async with bus.watch("a"), bus.watch("b"):
            pass
        # It ends the read that was under way.
        await until(lambda: server.call("INFO", "clients")["blocked_clients"] == 0)
        server.call("CONFIG", "RESETSTAT")
        last = await other.publish("a", b"")
        await until_at(bus, last)
        assert reads(server) == 0


async def test_who_comes_later_resumes_from_before_the_rest(server: RedisServer) -> None:
    """From the journal, as far as that was to hold it, and without asking for each."""
    async with open_redis_watchbus(server.url) as bus:
        start = bus.position
        [*_, last] = await bus.publish_many(BATCH)
        await until_at(bus, last)
        for _ in range(2):
            async with bus.watch("k", after=start) as watch:
                with trio.fail_after(20):
                    got = [(await watch.receive()).data for _ in BATCH]
            assert got == [data for _, data in BATCH]
        assert bus.statistics().journal_messages == len(BATCH)


async def test_a_long_rest_ends_with_the_newest_only(server: RedisServer) -> None:
    """What the journal would not hold is not read for it; who resumes from there gets it."""
    async with (
        open_redis_watchbus(server.url) as other,
        open_redis_watchbus(server.url, retention=Retention(messages=5)) as bus,
    ):
        start = bus.position
        [*_, last] = await other.publish_many(BATCH)
        await until_at(bus, last)
        assert bus._reader._cursor == b"45-0"
        async with bus.watch("more") as watch:
            await other.publish("more", b"")
            with trio.fail_after(20):
                await watch.receive()
            assert bus.statistics().journal_messages == 5
        async with bus.watch("k", after=start) as watch:
            with trio.fail_after(20):
                got = [(await watch.receive()).data for _ in BATCH]
        assert got == [data for _, data in BATCH]


async def test_what_was_rewritten_during_the_rest_is_told(server: RedisServer) -> None:
    """Who resumes from before it is refused; who comes anew gets what follows."""
    async with open_redis_watchbus(server.url) as bus:
        [*_, before] = await bus.publish_many(BATCH)
        await until_at(bus, before)
        server.call("FLUSHALL")
        await bus.publish("k", b"of the next epoch")
        with pytest.raises(HistoryLostError) as raised:
            await bus.watch("k", after=before).__aenter__()
        assert raised.value.reason == "epoch"
        async with bus.watch("k") as watch:
            await bus.publish("k", b"live")
            with trio.fail_after(20):
                assert (await watch.receive()).data == b"live"


async def test_who_comes_does_not_wait_for_the_rest_to_end(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_reader, "_QUIET_SECONDS", 1000)
    async with open_redis_watchbus(server.url) as bus:
        for _ in range(3):
            await bus.publish("k", b"")
            with trio.fail_after(20):
                async with bus.watch("k") as watch:
                    await bus.publish("k", b"live")
                    assert (await watch.receive()).data == b"live"
                    # Ends the read that would wait for as long.
                    await bus.publish("k", b"")


async def test_a_position_never_goes_back(server: RedisServer) -> None:
    """Neither when somebody comes, and the rest is read, nor when they have left."""
    async with open_redis_watchbus(server.url) as bus, open_redis_watchbus(server.url) as other:
        start = bus.position
        positions = [int(start.partition("-")[2])]

        async def note() -> None:
            while True:
                positions.append(int(bus.position.partition("-")[2]))
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(note)
            for publisher in (bus, other, other):
                [*_, last] = await publisher.publish_many(BATCH)
                await until_at(bus, last)
                async with bus.watch("k", after=start) as watch:
                    with trio.fail_after(20):
                        while (await watch.receive()).id != last:
                            pass
                    assert watch.position == bus.position == last
            nursery.cancel_scope.cancel()
        assert positions == sorted(positions)
        assert positions[-1] == 3 * len(BATCH)
