"""A served bus whose Redis is down."""

from __future__ import annotations

import logging
from typing import Any, cast

import pytest
import trio
from redis_bus.servers import binaries, running
from served import SECONDS, served, until

from trio_watchbus import open_redis_watchbus


async def test_while_redis_is_down_the_answer_is_503(caplog: pytest.LogCaptureFixture) -> None:
    """With when to try again, and nothing from inside; a stream waits, and goes on afterwards."""
    with running(min(binaries())) as redis:
        async with (
            open_redis_watchbus(redis.url, timeout=0.5) as bus,
            served(cast(Any, bus)) as server,
            await server.connect() as watcher,
        ):
            await watcher.stream_events("/sse?key=a")
            redis.kill()
            await until(lambda: not bus.statistics().connected)
            for target, method in (
                ("/publish?key=a", "POST"),
                ("/sse?key=a", "GET"),
                ("/readyz", "GET"),
            ):
                response = await server.ask(target, method)
                assert (response.status, response.error) == (503, "unavailable")
                assert int(response.headers["retry-after"]) >= 1
                for inside in (b"redis", b"127.0.0.1", b"%d" % redis.port, b"rrno", b"refused"):
                    assert inside not in response.body.lower()
            async with await server.connect() as client:
                head = await client.upgrade("/ws?key=a")
                assert head.status == 503
                assert "retry-after" in head.headers
            assert (await server.ask("/healthz")).status == 200
            redis.start()
            await until(lambda: bus.statistics().connected)
            # What publishes connects by itself, a little earlier or later.
            with trio.fail_after(SECONDS):
                while (await server.ask("/publish?key=a", "POST", b"again")).status != 200:
                    pass
            while (event := await watcher.message_event()).event == "gap":
                pass
            assert event.data == "again"
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []
