"""A replica that lacks something takes over: the loss is told, and the bus goes on."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import trio
from redis_bus.load import Account, under_load
from redis_bus.servers import RedisServer, everywhere, in_step, running

from trio_watchbus import WatchLaggedError, open_redis_watchbus
from trio_watchbus._redis._layout import Facts, Page
from trio_watchbus._redis._trouble import UnreachableError
from trio_watchbus.testing import FaultProxy

pytestmark = pytest.mark.timeout(90)


async def publish_apart(server: RedisServer, account: Account, count: int) -> None:
    """Publish on a server that the watches do not see yet."""
    datas = [f"apart {number}" for number in range(count)]
    async with open_redis_watchbus(server.url) as bus:
        ids = await bus.publish_many([("a", data.encode()) for data in datas])
    for identifier, data in zip(ids, datas, strict=True):
        account.store("a", False, identifier, data)


@everywhere
@pytest.mark.parametrize("overtakes", [False, True], ids=["behind", "overtaking"])
async def test_failover_to_a_replica_that_lagged(
    kind: str, processes: int, overtakes: bool
) -> None:
    """Under load; also where the numbers that a watch saw were given to other messages since."""

    async def fail_over(account: Account) -> None:
        replication.to_client.hold()
        await account.stored_more(60)
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


@pytest.mark.parametrize("notice", ["publisher", "publisher, overtaken", "reader"])
async def test_failover_that_undoes_what_no_reader_had_read(
    monkeypatch: pytest.MonkeyPatch, notice: str
) -> None:
    """Acknowledged, and then neither read nor replicated before the master died: it is told."""
    with ExitStack() as stack:
        stack.enter_context(trio.fail_after(30))
        master = stack.enter_context(running("valkey"))
        replica = stack.enter_context(running("valkey"))
        async with (
            FaultProxy(("127.0.0.1", master.port)) as clients,
            FaultProxy(("127.0.0.1", master.port)) as replication,
        ):
            replica.call("REPLICAOF", replication.host, replication.port)
            await in_step(replica)
            async with (
                open_redis_watchbus(f"redis://127.0.0.1:{clients.port}") as bus,
                bus.watch("k") as watch,
            ):
                read = bus._reader._read
                undone = False

                def read_in_vain() -> tuple[Page, Facts | None]:
                    page, facts = read()
                    if undone and page.runs and not failed_over.is_set():
                        if notice == "reader":
                            assert facts is not None
                            bus._reader._newest = facts.newest
                        trio.from_thread.run_sync(missed.set)
                        raise UnreachableError("what came was not read to its end")
                    return page, facts

                missed, failed_over = trio.Event(), trio.Event()
                monkeypatch.setattr(bus._reader, "_read", read_in_vain)
                # The second one is read by the function above.
                for data in (b"1", b"2"):
                    await bus.publish("k", data)
                    assert (await watch.receive()).data == data
                while replica.call("XLEN", "watchbus:log") < 2:  # noqa: ASYNC110, nobody tells
                    await trio.sleep(0.01)
                replication.to_client.hold()
                undone = True
                for _ in range(3):
                    await bus.publish("k", b"undone")
                await missed.wait()
                master.stop()
                replica.call("REPLICAOF", "NO", "ONE")
                if notice == "publisher, overtaken":
                    async with open_redis_watchbus(replica.url) as other:
                        await other.publish_many([("k", b"apart")] * 5)
                clients.target = ("127.0.0.1", replica.port)
                failed_over.set()
                clients.cut()
                if notice != "reader":
                    await bus.publish("k", b"after")
                with pytest.raises(WatchLaggedError) as raised:
                    await watch.receive()
                assert (raised.value.missed, raised.value.reason) == (None, "epoch")
                if notice == "reader":
                    await bus.publish("k", b"after")
                assert (await watch.receive()).data == b"after"
