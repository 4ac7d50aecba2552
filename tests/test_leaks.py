"""Many short watches and connections leave nothing; `nox -s soak` tries ten times as many."""

from __future__ import annotations

from leaks import assert_no_growth, short_request, short_watch
from served import served

from trio_watchbus import InMemoryWatchBus, Retention


def small_bus() -> InMemoryWatchBus:
    """A bus that has soon as much of the past as it keeps."""
    return InMemoryWatchBus(retention=Retention(messages=100))


async def test_ten_thousand_short_watches() -> None:
    bus = small_bus()
    await assert_no_growth(short_watch(bus), 10_000, bus)


async def test_a_thousand_short_connections() -> None:
    async with served(small_bus()) as server:
        # A thousand messages of a quarter as many requests fill the caches of encoded ones.
        await assert_no_growth(short_request(server), 1_000, before=4_000)
