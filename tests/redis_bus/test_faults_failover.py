"""Under load, a replica that lacks something takes over: the loss is told, and the bus goes on."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from redis_bus.load import Account, stored_more, under_load
from redis_bus.servers import RedisServer, everywhere, in_step, running

from trio_watchbus import open_redis_watchbus
from trio_watchbus.testing import FaultProxy

pytestmark = pytest.mark.timeout(90)


async def publish_apart(server: RedisServer, account: Account, count: int) -> None:
    """Publish on a server that the watches do not see yet."""
    datas = [f"apart {number}" for number in range(count)]
    async with open_redis_watchbus(server.url) as bus:
        ids = await bus.publish_many([("a", data.encode()) for data in datas])
    for identifier, data in zip(ids, datas, strict=True):
        account.stored.append(("a", False, identifier, data))


@everywhere
@pytest.mark.parametrize("overtakes", [False, True], ids=["behind", "overtaking"])
async def test_failover_to_a_replica_that_lagged(
    kind: str, processes: int, overtakes: bool
) -> None:
    """Every watch is told, also where the numbers it saw were given to other messages since."""

    async def fail_over(account: Account) -> None:
        replication.to_client.hold()
        await stored_more(account, 60)
        master.stop()
        replica.call("REPLICAOF", "NO", "ONE")
        if overtakes:
            await publish_apart(replica, account, 1000)
        clients.target = ("127.0.0.1", replica.port)
        clients.cut()

    with ExitStack() as stack:
        master = stack.enter_context(running(kind))
        replica = stack.enter_context(running(kind))
        async with (
            FaultProxy(("127.0.0.1", master.port)) as clients,
            FaultProxy(("127.0.0.1", master.port)) as replication,
        ):
            replica.call("REPLICAOF", replication.host, replication.port)
            await in_step(replica)
            counts = await under_load(f"redis://127.0.0.1:{clients.port}", processes, fail_over)
    assert counts["lost"] == 4 * processes
