"""Every bus keeps every promise: one suite for all.

Here the bus in memory, and a remote one of a server whose own bus is over Redis; each kind by
itself is in the folder of its tests.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from buses import memory, remote_over_redis_on
from redis_bus.servers import RedisServer, binaries, running

from trio_watchbus.testing import WATCHBUS_CHECKS, WatchBusCheck, check_watchbus

every_check = pytest.mark.parametrize("check", WATCHBUS_CHECKS, ids=lambda check: check.name)


@every_check
async def test_memory(check: WatchBusCheck) -> None:
    await check(memory)


async def test_the_whole_suite_under_an_autojump_clock(autojump_clock: object) -> None:
    await check_watchbus(memory)


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with running(min(binaries())) as server:
        yield server


@every_check
async def test_remote_over_redis(check: WatchBusCheck, redis_server: RedisServer) -> None:
    await check(remote_over_redis_on(redis_server))
