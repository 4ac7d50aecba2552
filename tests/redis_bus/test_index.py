"""Who watches what, across processes."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import pytest
import trio
from redis_bus.servers import RedisServer
from served import until

from trio_watchbus import RedisWatchBus, open_redis_watchbus
from trio_watchbus._redis import _index
from trio_watchbus._redis._layout import Command, Names
from trio_watchbus.testing import FaultProxy

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


def member(bus: RedisWatchBus) -> str:
    """The name under which a process is known in Redis."""
    return f"{bus._index._generation}.{bus._index._name}"


def counts(server: RedisServer) -> dict[bytes, bytes]:
    """How many processes watch each key."""
    found: dict[bytes, bytes] = server.call("HGETALL", "watchbus:counts")
    return {key: count for key, count in found.items() if key}


def clock(server: RedisServer) -> float:
    """The time by the server's clock, in milliseconds since 1970."""
    seconds: int
    microseconds: int
    seconds, microseconds = server.call("TIME")
    return seconds * 1000 + microseconds / 1000


def pretend_to_watch(
    server: RedisServer, bus: RedisWatchBus, name: str, keys: list[str], *, lease_ends: int
) -> None:
    """Write what a process leaves in the index, as the script would."""
    other = f"{bus._index._generation}.{name}"
    with server.client() as client, client.pipeline() as pipeline:
        for key in keys:
            pipeline.sadd(f"watchbus:process:{other}", key)
            pipeline.hincrby("watchbus:counts", key, 1)
            pipeline.sadd("watchbus:index", key)
        pipeline.zadd("watchbus:processes", {other: lease_ends})
        pipeline.execute()


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
        lease_ends = server.call("ZSCORE", "watchbus:processes", member(bus))
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
        for name in ("processes", f"process:{member(bus)}"):
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
        pretend_to_watch(server, bus, "dead", ["alone", "k"], lease_ends=1)
        assert await bus.watched_keys() == {"k"}


async def test_what_was_left_is_not_told_again_and_again(server: RedisServer) -> None:
    """Redis and the process agree on what is noted, so that a beat says nothing but that."""
    async with open_redis_watchbus(server.url) as bus, bus.watch("k"):
        async with bus.watch_any(["a", "b"]):
            pass
        assert await bus.watched_keys() == {"k"}
        assert bus._index._noted == {"k"}
        assert bus._index.up_to_date


def all_told(server: RedisServer, bus: RedisWatchBus) -> set[bytes]:
    """What Redis knows that this process watches."""
    told: set[bytes] = server.call("SMEMBERS", f"watchbus:process:{member(bus)}")
    return set(told)


async def test_a_process_whose_own_set_is_gone_says_all_again(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else others would take its keys out when they leave them."""
    monkeypatch.setattr(_index, "_BEAT_SECONDS", 0.1)
    async with open_redis_watchbus(server.url) as bus, bus.watch("k"), bus.watch("l"):
        for command, *keys in (("DEL",), ("SREM", "k")):
            before = member(bus)
            server.call(command, f"watchbus:process:{before}", *keys)
            await until(lambda name=before: member(bus) != name)  # type: ignore[misc]
            await until(lambda: all_told(server, bus) == {b"k", b"l"})


async def test_a_process_that_is_gone_is_swept_away_in_bounded_steps(server: RedisServer) -> None:
    """However many keys it watched, and however many processes are gone; and exactly."""
    async with open_redis_watchbus(server.url) as bus, bus.watch("shared"):
        for name in ("dead", "gone"):
            keys = ["shared", *(f"{name}-{number}" for number in range(1200))]
            pretend_to_watch(server, bus, name, keys, lease_ends=1)
        server.call("CONFIG", "RESETSTAT")
        assert await bus.watched_keys() == {"shared"}
        assert counts(server) == {b"shared": b"1"}
        own = f"watchbus:process:{member(bus)}"
        assert server.call("KEYS", "watchbus:process:*") == [own.encode()]
        # 2402 keys, some 500 in a run.
        assert server.call("INFO", "commandstats")["cmdstat_evalsha"]["calls"] >= 5


async def test_many_keys_are_told_in_bounded_calls(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening watches, telling all again after a loss, and leaving them."""
    monkeypatch.setattr(_index, "_BEAT_SECONDS", 0.1)
    keys = [f"key-{number}" for number in range(1800)]
    longest = 0
    script = Names.script

    def script_and_measure(names: Names, *arguments: Any) -> Command:
        nonlocal longest
        if arguments[0] == "index":
            longest = max(longest, len(arguments))
        return script(names, *arguments)

    monkeypatch.setattr(Names, "script", script_and_measure)
    async with open_redis_watchbus(server.url) as bus:
        async with bus.watch_any(keys):
            assert await bus.watched_keys() == set(keys)
            server.call("DEL", "watchbus:counts")
            await until(lambda: len(counts(server)) == 1800)
            await until(lambda: set(counts(server).values()) == {b"1"})
            assert len(indexed(server)) == 1800
        assert await bus.watched_keys() == frozenset()
        assert counts(server) == {}
    assert longest < 520


async def test_a_lost_answer_counts_a_key_once(server: RedisServer) -> None:
    """A call that is sent again changes nothing."""
    async with (
        FaultProxy(("127.0.0.1", server.port)) as proxy,
        open_redis_watchbus(f"redis://127.0.0.1:{proxy.port}") as bus,
        trio.open_nursery() as nursery,
    ):
        proxy.to_client.swallow()
        nursery.start_soon(watch_forever, bus, "k")
        await until(lambda: counts(server) == {b"k": b"1"})
        proxy.cut()
        proxy.to_client.release()
        await until(lambda: bus.statistics().watches == 1)
        assert counts(server) == {b"k": b"1"}
        nursery.cancel_scope.cancel()


async def watch_forever(bus: RedisWatchBus, key: str) -> None:
    async with bus.watch(key):
        await trio.sleep_forever()


async def test_a_lease_from_the_future_ends_all_the_same(server: RedisServer) -> None:
    """It was written before the clock was set back."""
    async with open_redis_watchbus(server.url) as bus, bus.watch("k"):
        hour = round(clock(server)) + 3_600_000
        pretend_to_watch(server, bus, "dead", ["alone"], lease_ends=hour)
        await bus.watched_keys()
        name = f"{bus._index._generation}.dead"
        assert server.call("ZSCORE", "watchbus:processes", name) <= clock(server) + 60_000
