"""Under load, whatever is done to what Redis holds: no loss is silent, and the bus goes on."""

from __future__ import annotations

import pytest
import trio
from redis_bus.load import Account, under_load
from redis_bus.servers import everywhere, running
from served import until

pytestmark = pytest.mark.timeout(90)


@everywhere
@pytest.mark.parametrize(
    "command",
    [("XTRIM", "watchbus:log", "MAXLEN", 0), ("DEL", "watchbus:log")],
    ids=["XTRIM", "DEL"],
)
async def test_log_taken_away(kind: str, processes: int, command: tuple[str | int, ...]) -> None:
    """What is taken out of the log before it was read is told, to the message."""

    async def take(account: Account) -> None:
        for _ in range(50):
            server.call(*command)
            await account.stored_more(2)

    with running(kind) as server:
        await under_load(server.url, processes, take)


@everywhere
async def test_everything_flushed(kind: str, processes: int) -> None:
    """A flush is told to every watch, and the bus goes on in another epoch."""

    async def flush(account: Account) -> None:
        for _ in range(3):
            server.call("FLUSHALL")
            await account.stored_more(30)

    with running(kind) as server:
        counts = await under_load(server.url, processes, flush)
    # Two flushes may come so fast that they are seen as one.
    assert counts["lost"] >= 4 * processes
    assert counts["refused"] == counts["unknown"] == 0


@everywhere
async def test_scripts_flushed(kind: str, processes: int) -> None:
    """Nobody notices that Redis forgets its scripts every 10 ms."""

    async def flush(_account: Account) -> None:
        for _ in range(50):
            server.call("SCRIPT", "FLUSH")
            await trio.sleep(0.01)

    with running(kind) as server:
        counts = await under_load(server.url, processes, flush)
    assert counts["lost"] == counts["refused"] == counts["unknown"] == 0


@everywhere
async def test_eviction(kind: str, processes: int) -> None:
    """Where Redis evicts what the bus wrote, a loss is told, and the bus goes on."""

    async def evict(account: Account) -> None:
        server.call("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
        for _ in range(30):
            server.call("CONFIG", "SET", "maxmemory", 1)
            # So long it evicts.
            await trio.sleep(0.01)
            server.call("CONFIG", "SET", "maxmemory", 0)
            await account.stored_more(3)
        server.call("CONFIG", "SET", "maxmemory-policy", "noeviction")

    with running(kind) as server:
        counts = await under_load(server.url, processes, evict)
    assert counts["lost"]


@everywhere
async def test_out_of_memory(kind: str, processes: int) -> None:
    """While Redis has no memory left, publishes are refused, and watches live on."""

    async def fill(account: Account) -> None:
        server.call("CONFIG", "SET", "maxmemory", 1)
        await until(lambda: len(account.refused) >= 10)
        server.call("CONFIG", "SET", "maxmemory", 0)

    with running(kind) as server:
        counts = await under_load(server.url, processes, fill)
    assert counts["lost"] == counts["unknown"] == 0
    assert counts["refused"]
