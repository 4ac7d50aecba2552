"""Who watches what, across processes."""

from __future__ import annotations

import sys
from functools import partial

import pytest
import trio
from redis_bus.servers import RedisServer
from served import until

from trio_watchbus import open_redis_watchbus
from trio_watchbus._redis import _index

WATCHER = """
import sys, trio
from trio_watchbus import open_redis_watchbus
from trio_watchbus._redis import _index

_index.LEASE_SECONDS = 1
# Before the lease ends, so that nothing but the end of the process ends it.
_index._BEAT_SECONDS = 0.2

async def main():
    async with open_redis_watchbus(sys.argv[1]) as bus, bus.watch_any(["shared", "alone"]):
        await trio.sleep_forever()

trio.run(main)
"""


def indexed(server: RedisServer) -> set[bytes]:
    """The index as anyone sees it."""
    members: set[bytes] = server.call("SMEMBERS", "watchbus:index")
    return set(members)


def clock(server: RedisServer) -> float:
    """The time by the server's clock, in milliseconds since 1970."""
    seconds: int
    microseconds: int
    seconds, microseconds = server.call("TIME")
    return seconds * 1000 + microseconds / 1000


async def test_redis_watchbus(server: RedisServer) -> None:
    """What the Go package's test of this name checks: receiving by key and prefix, the index."""
    async with open_redis_watchbus(server.url) as bus:
        async with bus.watch("foo1") as by_key, bus.subscribe_prefix("foo") as by_prefix:
            await bus.publish("foo1", b"a")
            with trio.fail_after(5):
                assert (await by_key.receive()).data == b"a"
                assert (await by_prefix.receive()).data == b"a"
            assert server.call("SISMEMBER", "watchbus:index", "foo1")
            await bus.publish_prefix("foo", b"b")
            with trio.fail_after(5):
                assert (await by_key.receive()).data == b"b"
                assert (await by_prefix.receive()).data == b"b"
        await until(lambda: not server.call("SISMEMBER", "watchbus:index", "foo1"))


async def test_the_index_is_told_before_a_watch_is_entered(server: RedisServer) -> None:
    """Whoever has entered a watch is in the index; prefixes are not."""
    async with open_redis_watchbus(server.url) as bus:
        async with bus.watch_any(["a", "b"], ["c"]), bus.watch("a"):
            assert indexed(server) == {b"a", b"b"}
        await until(lambda: indexed(server) == set())


async def test_a_key_is_watched_until_the_last_process_leaves_it(server: RedisServer) -> None:
    """A key that two processes watch stays in the index when one of them leaves it."""
    async with open_redis_watchbus(server.url) as one, open_redis_watchbus(server.url) as two:
        async with one.watch("k"):
            async with two.watch("k"), two.watch("other"):
                pass
            await until(lambda: b"other" not in indexed(server))
            assert indexed(server) == {b"k"}
            assert await two.watched_keys() == {"k"}
        await until(lambda: not indexed(server))


async def test_watched_keys_is_exact_right_after_leaving(server: RedisServer) -> None:
    """A process that has just left a watch does not find its key watched."""
    async with open_redis_watchbus(server.url) as bus:
        for _ in range(20):
            async with bus.watch("k"):
                assert await bus.watched_keys() == {"k"}
            assert await bus.watched_keys() == frozenset()


async def test_leaving_the_bus_takes_its_keys_out(server: RedisServer) -> None:
    """A bus that is left with watches open takes its keys with it at once."""
    async with trio.open_nursery() as nursery:
        async with open_redis_watchbus(server.url) as bus:
            opening = bus.watch("k")
            await opening.__aenter__()
            assert indexed(server) == {b"k"}
        assert not indexed(server)
        assert server.call("KEYS", "watchbus:process*") == []
        nursery.cancel_scope.cancel()


async def test_a_killed_process_leaves_the_index(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys of a process that was killed go, those that others watch stay, and nobody forgets."""
    monkeypatch.setattr(_index, "LEASE_SECONDS", 1)
    monkeypatch.setattr(_index, "_BEAT_SECONDS", 0.2)
    async with open_redis_watchbus(server.url) as bus, bus.watch("shared"):
        async with trio.open_nursery() as nursery:
            command = [sys.executable, "-c", WATCHER, server.url]
            process = await nursery.start(partial(trio.run_process, command, check=False))
            await until(lambda: b"alone" in indexed(server))
            assert await bus.watched_keys() == {"shared", "alone"}
            process.kill()
        await until(lambda: indexed(server) == {b"shared"})
        # Beyond the end of the lease that it has now.
        lease_ends = server.call("ZSCORE", "watchbus:processes", bus._process)
        await until(lambda: clock(server) > lease_ends)
        assert await bus.watched_keys() == {"shared"}


async def test_a_process_that_watches_nothing_has_no_lease(server: RedisServer) -> None:
    async with open_redis_watchbus(server.url) as bus:
        async with bus.watch("k"):
            assert server.call("ZCARD", "watchbus:processes") == 1
        await until(lambda: server.call("EXISTS", "watchbus:processes") == 0)


async def test_the_sets_expire_where_nobody_is_left(server: RedisServer) -> None:
    """What the last process leaves behind when it is killed does not stay for ever."""
    async with open_redis_watchbus(server.url) as bus, bus.watch("k"):
        assert 0 < server.call("PTTL", "watchbus:index") <= 1000 * _index.LEASE_SECONDS
        for name in ("processes", f"process:{bus._process}"):
            # Not before others have seen that the lease has ended.
            assert server.call("PTTL", f"watchbus:{name}") > 2000 * _index.LEASE_SECONDS
    assert _index.LEASE_SECONDS + _index._BEAT_SECONDS < 30


@pytest.mark.parametrize(
    "command",
    [
        ("FLUSHALL",),
        ("DEL", "watchbus:index"),
        # As when another process has begun it anew meanwhile.
        ("SREM", "watchbus:index", "k"),
        ("DEL", "watchbus:processes"),
    ],
    ids=" ".join,
)
async def test_the_index_heals(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """What Redis lost of the index is there again some beats later."""
    monkeypatch.setattr(_index, "_BEAT_SECONDS", 0.1)
    async with open_redis_watchbus(server.url) as bus, bus.watch("k"), bus.watch("l"):
        server.call(*command)
        await until(lambda: indexed(server) == {b"k", b"l"})
        await until(lambda: server.call("ZCARD", "watchbus:processes") == 1)


async def test_a_watch_is_entered_where_the_index_cannot_be_told(server: RedisServer) -> None:
    """Without memory for the index one can still watch; it is told when there is some."""
    async with open_redis_watchbus(server.url) as bus:
        await bus.publish("k", b"")
        server.call("CONFIG", "SET", "maxmemory", 1)
        async with bus.watch("k") as watch:
            server.call("CONFIG", "SET", "maxmemory", 0)
            await bus.publish("k", b"1")
            assert (await watch.receive()).data == b"1"
            assert await bus.watched_keys() == {"k"}


async def test_who_asks_does_not_see_a_process_whose_lease_has_ended(server: RedisServer) -> None:
    """Though no beat of anybody's has swept it away yet."""
    async with open_redis_watchbus(server.url) as bus, bus.watch("k"):
        server.call("SADD", "watchbus:process:dead", "alone", "k")
        server.call("SADD", "watchbus:index", "alone")
        server.call("ZADD", "watchbus:processes", 1, "dead")
        assert await bus.watched_keys() == {"k"}


async def test_what_was_left_is_not_told_again_and_again(server: RedisServer) -> None:
    """Redis and the process agree on what is noted, so that a beat says nothing but that."""
    async with open_redis_watchbus(server.url) as bus, bus.watch("k"):
        async with bus.watch_any(["a", "b"]):
            pass
        assert await bus.watched_keys() == {"k"}
        assert bus._index._noted == {"k"}
        assert bus._index.up_to_date


async def test_a_process_whose_own_set_is_gone_says_all_again(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else others would take its keys out when they leave them."""
    monkeypatch.setattr(_index, "_BEAT_SECONDS", 0.1)
    async with open_redis_watchbus(server.url) as bus, bus.watch("k"), bus.watch("l"):
        own = f"watchbus:process:{bus._process}"
        for taken in (("DEL", own), ("SREM", own, "k")):
            server.call(*taken)
            await until(lambda: server.call("SMEMBERS", own) == {b"k", b"l"})
