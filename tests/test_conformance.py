"""Every bus keeps every promise: one suite for all."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import pytest

from trio_watchbus import InMemoryWatchBus, Retention
from trio_watchbus.abc import WatchBus
from trio_watchbus.testing import WATCHBUS_CHECKS, WatchBusCheck, check_watchbus


def memory(*, retention: Retention) -> AbstractAsyncContextManager[WatchBus]:
    return InMemoryWatchBus(retention=retention)


@pytest.mark.parametrize("check", WATCHBUS_CHECKS, ids=lambda check: check.name)
async def test_memory(check: WatchBusCheck) -> None:
    await check(memory)


async def test_the_whole_suite_under_an_autojump_clock(autojump_clock: object) -> None:
    await check_watchbus(memory)
