"""Opens and closes many watches and connections, and shows that nothing is left.

Takes some minutes. What the default suite tries in small is here tried at length, and on a bus over
Redis as well.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parents[1]))

from leaks import (
    BLOCKS,
    DEADLINE_BLOCKS,
    Use,
    assert_no_growth,
    short_request,
    short_watch,
)
from redis_bus.servers import binaries, running
from served import resident_size, served

from trio_watchbus import InMemoryWatchBus, Retention, open_redis_watchbus
from trio_watchbus.abc import WatchBus

RETENTION = Retention(messages=1000)
"""So little that the bus has soon as much of the past as it keeps, and enough to open a watch with
the history of all keys meanwhile."""


RESIDENT_EACH = 60
"""Bytes of the process's memory that one use may take for good, on average: where one leaves a
hundred, that is more. Without a leak it is twenty-five at most."""


async def assert_no_leak(use: Use, count: int, *buses: WatchBus, blocks: int = BLOCKS) -> None:
    """Assert that `count` uses leave nothing that Python knows of, and no memory of the process.

    The process has taken what it needs after as many uses before.
    """
    await assert_no_growth(use, count, *buses, blocks=blocks)
    before = resident_size()
    await assert_no_growth(use, count, *buses, blocks=blocks)
    # Half as many again come before each count.
    each = (resident_size() - before) / (count * 3 // 2)
    assert each <= RESIDENT_EACH, f"{each:.0f} bytes are left of each of {count} uses"
    print(f"        {each:.1f} bytes each")


async def soak_memory(count: int) -> None:
    """Short watches on a bus in memory."""
    bus = InMemoryWatchBus(retention=RETENTION)
    await assert_no_leak(short_watch(bus), count, bus)


async def soak_redis(count: int) -> None:
    """Short watches on a bus over a real server."""
    with running(min(binaries())) as server:
        async with open_redis_watchbus(f"unix://{server.path}", retention=RETENTION) as bus:
            await assert_no_leak(short_watch(bus), count, bus, blocks=DEADLINE_BLOCKS)


async def soak_served(count: int) -> None:
    """Short connections to a served bus."""
    async with served(InMemoryWatchBus(retention=RETENTION)) as server:
        await assert_no_leak(short_request(server), count, blocks=DEADLINE_BLOCKS)


SOAKS: dict[str, tuple[Callable[[int], Awaitable[None]], int]] = {
    "watches in memory": (soak_memory, 100_000),
    "watches over Redis": (soak_redis, 20_000),
    "HTTP connections": (soak_served, 10_000),
}


def main() -> None:
    """Run them all and print what each took, and what the process had before and after."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the usual number of each")
    options = parser.parse_args()
    for name, (soak, usual) in SOAKS.items():
        count = int(usual * options.share)
        before, start = held(), time.monotonic()
        trio.run(soak, count)
        seconds = time.monotonic() - start
        print(
            f"{count:7} {name}: {seconds:.0f} s, nothing left; before, {before}; after, {held()}",
            flush=True,
        )


def held() -> str:
    """Say what this process has of what leaks."""
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    return f"{resident_size() / 2**20:.1f} MiB resident, {descriptors} descriptors"


if __name__ == "__main__":
    main()
