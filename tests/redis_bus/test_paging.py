"""Pages of the log are as large as what reads them, and what sends them, can take."""

from __future__ import annotations

import trio
from redis_bus.servers import RedisServer

from trio_watchbus import open_redis_watchbus
from trio_watchbus._redis._paging import PAGE_BYTES, PageSize


def test_pages_of_small_messages_grow() -> None:
    """They double, up to the most."""
    size = PageSize(100)
    seen = []
    for _ in range(6):
        seen.append(size.entries)
        size.came(size.entries, size.entries)
    assert seen == [16, 32, 64, 100, 100, 100]


def test_pages_of_large_messages_are_as_large_as_one_page_may_be() -> None:
    size = PageSize(2000)
    size.came(16, 16 * 100_000)
    assert size.entries == PAGE_BYTES // 100_000
    size.came(1, 10 * PAGE_BYTES)
    assert size.entries == 1


def test_a_page_that_does_not_come_is_halved_and_then_grows_slowly() -> None:
    size = PageSize(2000)
    for _ in range(4):
        size.came(size.entries, 0)
    assert size.entries == 256
    size.failed()
    size.failed()
    assert size.entries == 64
    for _ in range(16):
        assert size.entries == 64
        size.came(64, 0)
    assert size.entries == 65
    for _ in range(20):
        size.failed()
    assert size.entries == 1


async def test_a_backlog_larger_than_redis_may_buffer_is_read(server: RedisServer) -> None:
    """Redis cuts the connection of a page that is too large; smaller ones are asked for then."""
    async with open_redis_watchbus(server.url) as publisher:
        start = publisher.position
        for number in range(60):
            await publisher.publish("k", b"%d" % number + b"x" * 100_000)
        server.call("CONFIG", "SET", "client-output-buffer-limit", "normal 400kb 0 0")
        try:
            with trio.fail_after(60):
                async with (
                    open_redis_watchbus(server.url) as bus,
                    bus.watch("k", after=start) as watch,
                ):
                    got = [int((await watch.receive()).data.partition(b"x")[0]) for _ in range(60)]
                    assert bus.statistics().reconnects < 10
        finally:
            server.call("CONFIG", "SET", "client-output-buffer-limit", "normal 0 0 0")
    assert got == list(range(60))
