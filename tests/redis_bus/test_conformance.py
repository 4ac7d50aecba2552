"""The bus over Redis keeps every promise: on a fake server, and on real ones."""

from __future__ import annotations

import itertools
from contextlib import AbstractAsyncContextManager

import pytest
from buses import fake_redis
from redis_bus.servers import RedisServer

from trio_watchbus import Retention, open_redis_watchbus
from trio_watchbus.abc import WatchBus
from trio_watchbus.testing import WATCHBUS_CHECKS, WatchBusCheck

_namespaces = (f"watchbus{number}" for number in itertools.count())


@pytest.mark.parametrize("check", WATCHBUS_CHECKS, ids=lambda check: check.name)
async def test_fake(check: WatchBusCheck) -> None:
    await check(fake_redis)


@pytest.mark.parametrize("check", WATCHBUS_CHECKS, ids=lambda check: check.name)
async def test_real(check: WatchBusCheck, any_server: RedisServer) -> None:
    def real(*, retention: Retention) -> AbstractAsyncContextManager[WatchBus]:
        return open_redis_watchbus(
            f"unix://{any_server.path}", namespace=next(_namespaces), retention=retention
        )

    await check(real)
