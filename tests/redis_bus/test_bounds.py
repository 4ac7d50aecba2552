"""What a log keeps is bounded, in bytes too, and each call drops a part of what is beyond."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from redis_bus.servers import KINDS, RedisServer, running
from served import until

from trio_watchbus import Message, Retention, open_redis_watchbus

pytestmark = pytest.mark.timeout(90)

DROPPED = 500
"""Things of each kind that one call drops, unless it stored more."""


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with running(request.param) as started:
        yield started


def kept_bytes(server: RedisServer) -> int:
    """What the bus counts."""
    return int(server.call("HGET", "watchbus:sizes", "") or 0)


def bytes_found(server: RedisServer) -> int:
    """What is there."""
    total = 0
    for key in server.call("ZRANGE", "watchbus:keys", 0, -1):
        entries: Any = server.call("XRANGE", b"watchbus:key:" + key, "-", "+")
        total += len(key) + sum(len(fields[b"data"]) for _, fields in entries)
    return total


async def test_the_log_is_trimmed_a_part_at_a_time(server: RedisServer) -> None:
    """Also where a mark stands for more messages than a call drops."""
    everything = Retention(messages=1_000_000)
    async with open_redis_watchbus(server.url, retention=everything) as bus:
        for _ in range(3):
            await bus.publish_many([("k", b"")] * 1000)
    fewer = Retention(messages=10, seconds=0.001)
    async with open_redis_watchbus(server.url, retention=fewer, change_retention=True) as bus:
        lengths = []
        for _ in range(8):
            await bus.publish("k", b"")
            lengths.append(server.call("XLEN", "watchbus:log"))
    dropped = [before + 1 - after for before, after in zip([3000, *lengths], lengths, strict=False)]
    assert max(dropped) == DROPPED
    assert lengths[-1] < 10


async def test_a_batch_drops_as_much_as_it_stores(server: RedisServer) -> None:
    """So that the log does not grow however large the batches are."""
    async with open_redis_watchbus(
        server.url, retention=Retention(messages=100, seconds=0.001)
    ) as bus:
        for _ in range(5):
            await bus.publish_many([("k", b"")] * 2000)
        assert server.call("XLEN", "watchbus:log") <= 2000


async def test_keys_are_given_up_a_part_at_a_time(server: RedisServer) -> None:
    """The least recently published ones first, with all that is kept of them."""
    async with open_redis_watchbus(server.url) as bus:
        await bus.publish_many([(f"{number:04}", b"x") for number in range(2000)])
    async with open_redis_watchbus(
        server.url, retention=Retention(keys=100), change_retention=True
    ) as bus:
        await bus.publish("new", b"x")
        assert server.call("ZCARD", "watchbus:recent") >= 2001 - 2 * DROPPED
        await until(lambda: server.call("ZCARD", "watchbus:recent") == 100)
        assert await bus.latest("1900") is None
        assert await bus.latest("1901") is not None
        assert server.call("ZCARD", "watchbus:keys") == 100
        assert server.call("HLEN", "watchbus:sizes") == 101
        assert len(server.call("KEYS", "watchbus:key:*")) == 100
        assert kept_bytes(server) == bytes_found(server)


async def test_what_is_beyond_the_bounds_goes_though_nobody_publishes(server: RedisServer) -> None:
    """Any process that has the bus open sees to it."""
    async with open_redis_watchbus(server.url) as bus:
        await bus.publish_many([(f"{number:04}", b"x") for number in range(3000)])
    async with open_redis_watchbus(
        server.url, retention=Retention(keys=1), change_retention=True
    ) as bus:
        await until(lambda: server.call("ZCARD", "watchbus:recent") == 1)
        assert bus.position.endswith("-3000")


@pytest.mark.parametrize("per_key", [1, 3])
async def test_kept_bytes_are_counted(server: RedisServer, per_key: int) -> None:
    """Those of keys too, whatever is replaced, trimmed or sent in one batch."""
    retention = Retention(per_key=per_key)
    async with open_redis_watchbus(server.url, retention=retention) as bus:
        for number in range(8):
            await bus.publish("k", b"x" * number)
        assert kept_bytes(server) == bytes_found(server)
        await bus.publish_many([(f"k{number % 3}", b"x" * number) for number in range(20)])
        await bus.publish_many([("k", b""), ("other", b"1"), ("k", b"1"), ("other", b"22")])
        assert kept_bytes(server) == bytes_found(server) > 0
        await bus.publish_prefix("k", b"none of these")
        assert kept_bytes(server) == bytes_found(server)


@pytest.mark.parametrize("per_key", [1, 2])
async def test_kept_bytes_are_bounded(server: RedisServer, per_key: int) -> None:
    """What was published least recently goes, until there is room."""
    retention = Retention(kept_bytes=100, per_key=per_key)
    async with open_redis_watchbus(server.url, retention=retention) as bus:
        for key in "abcdefgh":
            await bus.publish(key, b"x" * 24)
        assert kept_bytes(server) == bytes_found(server) == 100
        assert await bus.latest("d") is None
        await bus.publish("e", b"y" * 49)
        left = [await bus.latest(key) for key in "efgh"]
        assert [message is not None for message in left] == [True, False, per_key == 1, True]
        assert kept_bytes(server) == bytes_found(server) <= 100
        # As in memory: what has no room alone is not kept.
        await bus.publish("i", b"z" * 100)
        assert await bus.latest("i") is None
        assert kept_bytes(server) == bytes_found(server) == 0


async def test_a_lower_per_key_is_reached_two_messages_at_a_time(server: RedisServer) -> None:
    async with open_redis_watchbus(server.url, retention=Retention(per_key=9)) as bus:
        await bus.publish_many([("k", b"x")] * 9)
    async with open_redis_watchbus(
        server.url, retention=Retention(per_key=2), change_retention=True
    ) as bus:
        lengths = []
        for _ in range(8):
            await bus.publish("k", b"x")
            lengths.append(server.call("XLEN", "watchbus:key:k"))
        assert lengths == [8, 7, 6, 5, 4, 3, 2, 2]
        assert kept_bytes(server) == bytes_found(server)


@pytest.mark.parametrize("lost", ["watchbus:recent", "watchbus:keys"])
async def test_the_keys_that_are_kept_are_found_again_a_part_at_a_time(
    server: RedisServer, lost: str
) -> None:
    """Redis evicted one of the two sets of them, and the other has their names."""
    async with open_redis_watchbus(server.url) as bus:
        await bus.publish_many([(f"{number:04}", b"x") for number in range(1500)])
        server.call("DEL", lost)
        await bus.publish("new", b"x")
        assert server.call("ZCARD", lost) < 1501
        for _ in range(10):
            await bus.publish("new", b"x")
        assert server.call("ZCARD", "watchbus:recent") == 1501
        assert server.call("ZCARD", "watchbus:keys") == 1501
        found: list[Message] = []
        async with bus.subscribe_prefix("", history=1) as watch:
            while len(found) < 1501:
                found += await watch.receive_batch()
        assert len({message.key for message in found}) == 1501


async def test_idempotency_keys_are_bounded_in_number(server: RedisServer) -> None:
    """Those that would be forgotten first go first, a part at a time."""
    most = 100_000
    async with open_redis_watchbus(server.url) as bus:
        first = await bus.publish("k", b"1", idempotency_key="first")
        later = float(server.call("ZSCORE", "watchbus:idempotency", "idem:first")) + 0.5
        remember_others(server, most, later)
        assert await bus.publish("k", b"1", idempotency_key="first") == first
        second = await bus.publish("k", b"2", idempotency_key="second")
        assert server.call("ZCARD", "watchbus:idempotency") == most
        assert server.call("EXISTS", "watchbus:idem:first") == 0
        assert await bus.publish("k", b"1", idempotency_key="first") != first
        assert second


async def test_idempotency_keys_from_a_clock_that_was_ahead_make_room_for_new_ones(
    server: RedisServer,
) -> None:
    """By their times a new one would be forgotten at once, and what is retried stored twice."""
    async with open_redis_watchbus(server.url) as bus:
        remember_others(server, 100_000, time.time() * 1000 + 90_000_000)
        first = await bus.publish("k", b"1", idempotency_key="new")
        assert await bus.publish("k", b"1", idempotency_key="new") == first
        assert server.call("ZCARD", "watchbus:idempotency") == 100_000


def remember_others(server: RedisServer, count: int, expiry: float) -> None:
    """File so many names of idempotency keys, to expire at that time in milliseconds."""
    for start in range(0, count, 1000):
        pairs = [item for n in range(start, start + 1000) for item in (expiry, f"idem:x{n}")]
        server.call("ZADD", "watchbus:idempotency", *pairs)


async def test_names_of_idempotency_keys_that_expired_are_forgotten(server: RedisServer) -> None:
    async with open_redis_watchbus(server.url) as bus:
        for start in range(0, 1200, 400):
            pairs = [item for n in range(start, start + 400) for item in (n, f"idem:x{n}")]
            server.call("ZADD", "watchbus:idempotency", *pairs)
        await bus.publish("k", b"1", idempotency_key="new")
        assert server.call("ZCARD", "watchbus:idempotency") == 1201 - DROPPED
        for _ in range(2):
            await bus.publish("k", b"1")
        assert server.call("ZRANGE", "watchbus:idempotency", 0, -1) == [b"idem:new"]


async def test_more_may_be_stored_with_an_idempotency_key(server: RedisServer) -> None:
    """What follows the id, a digest say, is for those who know it."""
    async with open_redis_watchbus(server.url) as bus:
        first = await bus.publish("k", b"1", idempotency_key="one")
        server.call("SET", "watchbus:idem:one", f"{first} 0a1b2c3d")
        assert await bus.publish("k", b"1", idempotency_key="one") == first
