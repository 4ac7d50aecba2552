"""What others do with the bus's names in Redis harms no process: it is refused, or told."""

from __future__ import annotations

import pytest
import trio
from redis_bus.servers import RedisServer, epoch_of
from served import until

from trio_watchbus import BusUnavailableError, WatchLaggedError, open_redis_watchbus
from trio_watchbus.abc import Watch


async def receive(watch: Watch) -> list[bytes | str | None]:
    """What comes until `b"end"`: data of messages, and why something is lost."""
    got: list[bytes | str | None] = []
    with trio.fail_after(20):
        while True:
            try:
                message = await watch.receive()
            except WatchLaggedError as lagged:
                got.append(lagged.reason)
            else:
                if message.data == b"end":
                    return got
                got.append(message.data)


@pytest.mark.parametrize("number", ["*", "2-0"], ids=["far above", "next"])
async def test_a_message_that_the_script_did_not_write_is_seen_once_at_most(
    server: RedisServer, number: str
) -> None:
    """As the numbering does not know it, a new one begins above it."""
    async with open_redis_watchbus(server.url) as bus, bus.watch("k") as watch:
        await bus.publish("k", b"1")
        assert (await watch.receive()).data == b"1"
        server.call("CONFIG", "RESETSTAT")
        epoch = epoch_of(bus.position)
        server.call(
            "XADD",
            "watchbus:log",
            number,
            *["k", "k", "d", "theirs", "t", "1", "n", "theirs", "a", "x"],
        )
        await until(lambda: not bus.position.startswith(epoch))
        epoch = epoch_of(bus.position)
        for data in (b"2", b"end"):
            await bus.publish("k", data)
        got = await receive(watch)
        assert got.count(b"theirs") <= 1
        assert got.count("epoch") == 1
        assert got[-1] == b"2"
        assert bus.position.startswith(epoch)
        # The reader was not busy with it all the while.
        assert server.call("INFO", "commandstats")["cmdstat_evalsha"]["calls"] < 40


@pytest.mark.parametrize("digits", [400, 5000])
async def test_a_message_without_a_time_is_none(server: RedisServer, digits: int) -> None:
    """It is passed over, however many digits stand where the time should."""
    async with open_redis_watchbus(server.url) as bus, bus.watch("k") as watch:
        await bus.publish("k", b"1")
        assert (await watch.receive()).data == b"1"
        epoch = epoch_of(bus.position)
        time = "9" * digits
        entry = f"k k d theirs t {time} n x a x"
        server.call("XADD", "watchbus:log", "2-0", *entry.split())
        server.call("XADD", "watchbus:key:k", "1-5", *f"data theirs t {time} e {epoch}".split())
        await until(lambda: bus.statistics().skipped_entries == 1)
        async with bus.watch("k", history=9) as late:
            assert late.receive_nowait().data == b"1"
            with pytest.raises(trio.WouldBlock):
                late.receive_nowait()
        for data in (b"2", b"end"):
            await bus.publish("k", data)
        assert await receive(watch) == ["epoch", b"2"]


async def test_a_number_that_was_set_back_is_told_once(server: RedisServer) -> None:
    async with open_redis_watchbus(server.url) as bus, bus.watch("k") as watch:
        await bus.publish_many([("k", b"1")] * 3)
        server.call("HSET", "watchbus:facts", "seq", 2)
        for data in (b"2", b"end"):
            await bus.publish("k", data)
        assert (await receive(watch)).count("epoch") == 1


async def test_a_past_that_was_put_back_is_told_though_no_connection_broke(
    server: RedisServer,
) -> None:
    """As a replica's does when it begins to follow another master."""
    async with (
        open_redis_watchbus(server.url) as bus,
        bus.subscribe_prefix("") as watch,
        open_redis_watchbus(server.url) as other,
    ):
        await bus.publish_many([("k", b"both")] * 5)
        dumped = {name: server.call("DUMP", name) for name in server.call("KEYS", "*")}
        await bus.publish_many([("k", b"undone")] * 5)
        for _ in range(10):
            await watch.receive()
        with server.client() as client, client.pipeline() as pipeline:
            pipeline.flushall()
            for name, dump in dumped.items():
                pipeline.restore(name, 0, dump)
            pipeline.execute()
        # More than were undone, so that the numbers go on where the watch is.
        epoch = epoch_of(bus.position)
        await other.publish_many([("k", b"apart")] * 8)
        await until(lambda: not bus.position.startswith(epoch))
        await other.publish("k", b"end")
        assert await receive(watch) == ["epoch"]


async def test_a_number_beyond_what_can_be_counted_is_refused(server: RedisServer) -> None:
    """Publishing says what to delete, and changes nothing; then it goes on."""
    async with open_redis_watchbus(server.url) as bus:
        epoch = epoch_of(await bus.publish("k", b"1"))
        server.call("XADD", "watchbus:log", f"{2**53}-0", "some", "thing")
        for _ in range(2):
            with pytest.raises(BusUnavailableError, match="watchbus:log has a number"):
                await bus.publish("k", b"2")
        assert server.call("HGET", "watchbus:facts", "epoch").decode() == epoch
        server.call("DEL", "watchbus:log")
        await bus.publish("k", b"2")


@pytest.mark.parametrize("value", ["foo", "1", "abc*", "a-1*0", f"{'a' * 65}-1", "a-1*1*1", "!X"])
async def test_what_is_no_answer_under_an_idempotency_key_fails_that_publish_only(
    server: RedisServer, value: str
) -> None:
    async with open_redis_watchbus(server.url) as bus:
        server.call("SET", "watchbus:idem:x", value)
        with pytest.raises(BusUnavailableError, match="WRONGTYPE"):
            await bus.publish("k", b"1", idempotency_key="x")
        await bus.publish("k", b"2", idempotency_key="y")
        assert server.call("XLEN", "watchbus:log") == 1


async def test_marks_of_another_form_are_dropped(server: RedisServer) -> None:
    async with open_redis_watchbus(server.url) as bus:
        await bus.publish("k", b"1")
        server.call("LPUSH", "watchbus:marks", "junk")
        await bus.publish("k", b"2")
        assert server.call("XLEN", "watchbus:log") == 2
        assert b"junk" not in server.call("LRANGE", "watchbus:marks", 0, -1)


async def test_names_that_are_no_keys_are_passed_over(server: RedisServer) -> None:
    async with open_redis_watchbus(server.url) as bus, bus.watch("k"):
        await bus.publish("a", b"1")
        for name in (b"a\xff", b"a\n", b"a" * 513):
            server.call("SADD", "watchbus:index", name)
            server.call("ZADD", "watchbus:keys", 0, name)
            server.call("ZADD", "watchbus:recent", 0, name)
        assert await bus.watched_keys() == {"k"}
        # As many as nobody has are as many as there are.
        async with bus.subscribe_prefix("a", history=2**70) as watch:
            assert watch.receive_nowait().data == b"1"
