"""Under load, whatever happens to the server: nothing is lost unseen, nothing seen twice."""

from __future__ import annotations

import pytest
import trio
from redis_bus.load import Account, under_load
from redis_bus.servers import everywhere, running

pytestmark = pytest.mark.timeout(90)


@everywhere
async def test_no_fault(kind: str, processes: int) -> None:
    """Without a fault nothing is lost."""

    async def nothing(account: Account) -> None:
        await account.stored_more(100)

    with running(kind) as server:
        counts = await under_load(server.url, processes, nothing)
    assert counts["seen"] > 100
    assert counts["lost"] == counts["refused"] == counts["unknown"] == 0


@everywhere
@pytest.mark.parametrize("fsync", ["always", "no", "everysec"])
async def test_killed_and_restarted_with_an_append_only_file(
    kind: str, processes: int, fsync: str
) -> None:
    """A kill -9 loses nothing that the system was given; the bus goes on."""

    async def kill(_: Account) -> None:
        server.kill()
        # So long it is not there.
        await trio.sleep(0.1)
        await trio.to_thread.run_sync(server.start)

    with running(kind, "--appendonly", "yes", "--appendfsync", fsync) as server:
        counts = await under_load(server.url, processes, kill)
    assert counts["refused"] == 0
    if fsync == "everysec" and counts["lost"]:
        # While a sync is under way, Redis keeps for up to two seconds what it has acknowledged.
        # Where it is killed just then, every watch is told, once, at its place.
        assert counts["lost"] == 4 * processes
    else:
        # Killing the process alone does not lose what it gave to the system.
        assert counts["lost"] == 0


@everywhere
async def test_killed_and_restarted_without_persistence(kind: str, processes: int) -> None:
    """A restart that lost everything is told to every watch, and the bus goes on."""

    async def kill(_: Account) -> None:
        server.kill()
        await trio.to_thread.run_sync(server.start)

    with running(kind) as server:
        counts = await under_load(server.url, processes, kill)
    assert counts["lost"] == 4 * processes


@everywhere
async def test_stopped_for_a_second(kind: str, processes: int) -> None:
    """A server that stands still for a second loses nothing, and nobody notices."""

    async def stop(_: Account) -> None:
        server.stop()
        await trio.sleep(1)
        server.go_on()

    with running(kind) as server:
        counts = await under_load(server.url, processes, stop)
    assert counts["lost"] == counts["refused"] == counts["unknown"] == 0


@pytest.mark.parametrize("processes", [1, 2])
async def test_stopped_for_ten_seconds(processes: int) -> None:
    """A server that stands still for longer than a publish waits loses nothing, nor is it lied."""

    async def stop(_: Account) -> None:
        server.stop()
        await trio.sleep(10)
        server.go_on()

    with running("valkey") as server:
        counts = await under_load(server.url, processes, stop, patience=4.0)
    assert counts["lost"] == 0
    assert counts["refused"] + counts["unknown"]
