"""A replica that lacks something takes over: the loss is told, and the bus goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import pytest
import trio
from redis_bus.load import Account, under_load
from redis_bus.servers import RedisServer, epoch_of, everywhere, in_step, running
from served import until_at

from trio_watchbus import HistoryLostError, WatchLaggedError, open_redis_watchbus
from trio_watchbus._redis import _reader
from trio_watchbus._redis._backend_errors import UnreachableError
from trio_watchbus._redis._layout import Facts, Page
from trio_watchbus.testing import FaultProxy

pytestmark = pytest.mark.timeout(90)


def hide_run(server: RedisServer) -> None:
    """Let a server not say that it is another one, so that what it lacks shows by positions alone.

    Else a new process, which has none, would have the epoch replaced when it opens.
    """
    server.call("ACL", "SETUSER", "default", "-info")


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
            hide_run(replica)
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
                take_page = bus._reader._take_page
                undone = False

                async def take_in_vain(page: Page, facts: Facts) -> None:
                    if undone and page.runs and not failed_over.is_set():
                        if notice == "reader":
                            bus._reader._heard_of = facts.newest
                        missed.set()
                        raise UnreachableError("what came was not read to its end")
                    await take_page(page, facts)

                missed, failed_over = trio.Event(), trio.Event()
                monkeypatch.setattr(bus._reader, "_take_page", take_in_vain)
                await bus.publish("k", b"1")
                assert (await watch.receive()).data == b"1"
                while replica.call("XLEN", "watchbus:log") < 1:  # noqa: ASYNC110, nobody tells
                    await trio.sleep(0.01)
                replication.to_client.hold()
                undone = True
                for _ in range(3):
                    await bus.publish("k", b"undone")
                await missed.wait()
                master.stop()
                replica.call("REPLICAOF", "NO", "ONE")
                if notice == "publisher, overtaken":
                    hide_run(replica)
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


class Pair:
    """A master that clients reach by a proxy, and a replica of it that can be held back."""

    def __init__(
        self,
        master: RedisServer,
        replica: RedisServer,
        clients: FaultProxy,
        replication: FaultProxy,
    ) -> None:
        self.replica = replica
        self._master = master
        self._clients = clients
        self._replication = replication

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._clients.port}"

    async def fork(self) -> None:
        """Let the replica have what there is now, and nothing that follows."""
        offset = self._master.call("INFO", "replication")["master_repl_offset"]
        with trio.fail_after(20):
            while True:
                if self.replica.call("INFO", "replication")["slave_repl_offset"] >= offset:
                    break
                # A server tells nobody.
                await trio.sleep(0.01)
        self._replication.to_client.hold()

    def fail_over(self) -> None:
        """Let the replica take over where clients connect; the master goes on, as its replica."""
        self.replica.call("REPLICAOF", "NO", "ONE")
        self._clients.target = ("127.0.0.1", self.replica.port)
        self._master.call("REPLICAOF", "127.0.0.1", self.replica.port)

    def cut(self) -> None:
        """End the connections of clients."""
        self._clients.cut()


@asynccontextmanager
async def pair_of_servers() -> AsyncIterator[Pair]:
    with running("valkey") as master, running("valkey") as replica:
        async with (
            FaultProxy(("127.0.0.1", master.port)) as clients,
            FaultProxy(("127.0.0.1", master.port)) as replication,
        ):
            replica.call("REPLICAOF", replication.host, replication.port)
            await in_step(replica)
            yield Pair(master, replica, clients, replication)


@pytest.mark.parametrize("whose", ["own", "of another"])
async def test_a_position_got_at_rest_is_refused_where_a_failover_undid_it(
    monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    """Though the numbering has gone on past it before this process looked again."""
    with trio.fail_after(60):
        async with (
            pair_of_servers() as pair,
            open_redis_watchbus(pair.url) as bus,
            open_redis_watchbus(pair.url) as another,
        ):
            publisher = bus if whose == "own" else another
            await publisher.publish("k", b"before")
            await pair.fork()
            undone = await publisher.publish("k", b"undone")
            await until_at(bus, undone)
            # It looks again when somebody comes, not before.
            looked = bus._reader._agree
            monkeypatch.setattr(bus._reader, "_agree", trio.lowlevel.checkpoint)
            monkeypatch.setattr(_reader, "_QUIET_SECONDS", 1000)
            pair.fail_over()
            hide_run(pair.replica)
            async with open_redis_watchbus(pair.replica.url) as there:
                await there.publish_many([("k", b"apart")] * 5)
            monkeypatch.setattr(bus._reader, "_agree", looked)
            pair.cut()
            assert bus.position == undone
            with pytest.raises(HistoryLostError) as raised:
                await bus.watch("k", after=undone).__aenter__()
            assert raised.value.reason == "epoch"


async def test_the_only_publish_of_a_process_that_a_failover_undid_is_told() -> None:
    """By its next one at the latest, to a watch elsewhere that never saw what was undone."""
    with trio.fail_after(60):
        async with pair_of_servers() as pair, open_redis_watchbus(pair.url) as bus:
            bus._reader._agree = trio.lowlevel.checkpoint  # type: ignore[method-assign, assignment]
            await pair.fork()
            await bus.publish("k", b"undone")
            pair.fail_over()
            hide_run(pair.replica)
            async with (
                open_redis_watchbus(pair.replica.url) as there,
                there.watch("k") as watch,
            ):
                await there.publish_many([("k", b"apart")] * 5)
                for _ in range(5):
                    assert (await watch.receive()).data == b"apart"
                pair.cut()
                await bus.publish("k", b"after")
                with pytest.raises(WatchLaggedError) as raised:
                    await watch.receive()
                assert raised.value.reason == "epoch"
                assert (await watch.receive()).data == b"after"


async def test_a_master_that_became_a_replica_is_left() -> None:
    """It keeps its connections and refuses to write; the address leads to another by now."""
    with trio.fail_after(60):
        async with pair_of_servers() as pair, open_redis_watchbus(pair.url) as bus:
            before = await bus.publish("k", b"before")
            await pair.fork()
            pair.fail_over()
            # Nobody cuts anything.
            after = await bus.publish("k", b"after")
            assert pair.replica.call("XLEN", "watchbus:log") == 2
            assert epoch_of(after) == epoch_of(before)
            async with bus.watch("k", after=before) as watch:
                assert (await watch.receive()).data == b"after"
