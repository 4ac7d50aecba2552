"""Under load, whatever happens to the connections: nothing is lost, nothing seen twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import pytest
import trio
from redis_bus.load import Account, under_load
from redis_bus.servers import RedisServer, running
from served import until

from trio_watchbus import open_redis_watchbus
from trio_watchbus.testing import FaultProxy

pytestmark = pytest.mark.timeout(90)

in_one_and_two_processes = pytest.mark.parametrize(
    "processes", [1, 2], ids=["one process", "two processes"]
)


@pytest.fixture(scope="module")
def kept() -> Iterator[RedisServer]:
    """A server, shared by the tests of this module."""
    with running("valkey") as server:
        yield server


@in_one_and_two_processes
@pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])
async def test_cut(kept: RedisServer, processes: int, reset: bool) -> None:
    """Connections that are cut again and again lose nothing."""

    async def cut(account: Account) -> None:
        for _ in range(10):
            await until(lambda: proxy.cut(reset=reset))
            await account.stored_more(5)

    async with FaultProxy(("127.0.0.1", kept.port)) as proxy:
        counts = await under_load(f"redis://127.0.0.1:{proxy.port}", processes, cut)
    assert counts["lost"] == counts["refused"] == counts["unknown"] == 0


@in_one_and_two_processes
async def test_replies_dropped(kept: RedisServer, processes: int) -> None:
    """What was done, though its reply was lost, is not done again."""

    async def drop(account: Account) -> None:
        for _ in range(20):
            await proxy.lose_reply()
            await account.stored_more(5)

    async with FaultProxy(("127.0.0.1", kept.port)) as proxy:
        counts = await under_load(f"redis://127.0.0.1:{proxy.port}", processes, drop)
    assert counts["lost"] == counts["refused"] == counts["unknown"] == 0


@in_one_and_two_processes
async def test_half_open(kept: RedisServer, processes: int) -> None:
    """A connection on which nothing comes any more, and nobody is told, is given up in time."""

    async def swallow(account: Account) -> None:
        proxy.to_target.swallow()
        proxy.to_client.swallow()
        # So long nothing comes through.
        await trio.sleep(0.2)
        proxy.to_target.release()
        proxy.to_client.release()
        await account.stored_more(30)

    async with FaultProxy(("127.0.0.1", kept.port)) as proxy:
        counts = await under_load(f"redis://127.0.0.1:{proxy.port}", processes, swallow)
    assert counts["lost"] == counts["refused"] == counts["unknown"] == 0


@in_one_and_two_processes
async def test_slow(kept: RedisServer, processes: int) -> None:
    """A slow connection is slow, and that is all."""

    async def slow_down(account: Account) -> None:
        proxy.to_target.delay = proxy.to_client.delay = 0.05
        await account.stored_more(20)
        proxy.to_target.delay = proxy.to_client.delay = 0

    async with FaultProxy(("127.0.0.1", kept.port)) as proxy:
        counts = await under_load(f"redis://127.0.0.1:{proxy.port}", processes, slow_down)
    assert counts["lost"] == counts["refused"] == counts["unknown"] == 0


@in_one_and_two_processes
async def test_one_byte_at_a_time(kept: RedisServer, processes: int) -> None:
    """Nothing depends on how what was sent is cut into pieces."""

    async def crumble(account: Account) -> None:
        proxy.to_target.piece_size = proxy.to_client.piece_size = 1
        await account.stored_more(20)
        proxy.to_target.piece_size = proxy.to_client.piece_size = None

    async with FaultProxy(("127.0.0.1", kept.port)) as proxy:
        counts = await under_load(f"redis://127.0.0.1:{proxy.port}", processes, crumble)
    assert counts["lost"] == counts["refused"] == counts["unknown"] == 0


@in_one_and_two_processes
async def test_refused_for_longer_than_a_publish_waits(kept: RedisServer, processes: int) -> None:
    """While nobody can connect, publishes surely do nothing, and watches wait."""

    async def refuse(account: Account) -> None:
        proxy.refuse()
        proxy.cut()
        await until(lambda: account.refused)
        proxy.accept()

    async with FaultProxy(("127.0.0.1", kept.port)) as proxy:
        counts = await under_load(
            f"redis://127.0.0.1:{proxy.port}", processes, refuse, patience=1.0
        )
    assert counts["refused"]
    assert counts["lost"] == 0


@in_one_and_two_processes
async def test_replies_dropped_for_longer_than_a_publish_waits(
    kept: RedisServer, processes: int
) -> None:
    """A publish whose reply does not come in time is told to be unknown; its retry stores once."""

    async def drop(account: Account) -> None:
        for _ in range(3):
            proxy.to_client.swallow()
            # So long nothing comes through: longer than a publish waits.
            await trio.sleep(1.1)
            proxy.to_client.release()
            proxy.cut()
            await account.stored_more(30)

    async with FaultProxy(("127.0.0.1", kept.port)) as proxy:
        counts = await under_load(f"redis://127.0.0.1:{proxy.port}", processes, drop, patience=1.0)
    assert counts["lost"] == 0


async def test_a_request_that_nobody_answers_is_sent_again_before_its_time_is_over(
    kept: RedisServer,
) -> None:
    """On a new connection, as the one that it was lost on is half open, and says nothing."""
    async with (
        FaultProxy(("127.0.0.1", kept.port)) as proxy,
        open_redis_watchbus(f"redis://127.0.0.1:{proxy.port}", timeout=6) as bus,
    ):
        await bus.publish("k", b"1")
        assert (await bus.latest("k")) is not None

        async def lose_on_the_way(request: Callable[[], Awaitable[object]]) -> None:
            async with trio.open_nursery() as nursery:
                proxy.to_target.swallow()
                nursery.start_soon(request)
                await proxy.to_target.wait_seen()
                proxy.to_target.release()

        await lose_on_the_way(partial(bus.publish, "k", b"2"))
        await lose_on_the_way(partial(bus.latest, "k"))
        message = await bus.latest("k")
    assert message is not None
    assert message.data == b"2"
