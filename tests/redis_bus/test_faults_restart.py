"""A server that came back with less than it had, or another one: who may say that all is there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from redis_bus.servers import KINDS, RedisServer, epoch_of, running
from served import until, until_at

from trio_watchbus import (
    BusUnavailableError,
    HistoryLostError,
    WatchLaggedError,
    open_redis_watchbus,
)
from trio_watchbus._redis._backend_errors import UnreachableError
from trio_watchbus._redis._bus import RedisWatchBus
from trio_watchbus.testing import FaultProxy

pytestmark = pytest.mark.timeout(90)

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


async def restart(server: RedisServer) -> None:
    """Kill it, as the end of a machine does, and start it again."""
    server.kill()
    await trio.to_thread.run_sync(server.start)


async def epoch_of_new_process(server: RedisServer) -> str:
    """The epoch that a process sees which knows nothing of before."""
    async with open_redis_watchbus(server.url) as bus:
        return epoch_of(bus.position)


async def reconnected(bus: RedisWatchBus) -> None:
    """Wait until the bus is connected again."""
    await until(lambda: bus.statistics().connected and bus.statistics().reconnects)


@asynccontextmanager
async def staying(server: RedisServer) -> AsyncIterator[tuple[FaultProxy, RedisWatchBus]]:
    """A bus that stays while its server is killed, with its way there."""
    async with (
        FaultProxy(("127.0.0.1", server.port)) as proxy,
        open_redis_watchbus(f"redis://127.0.0.1:{proxy.port}") as bus,
    ):
        yield proxy, bus


async def without_connection(proxy: FaultProxy, bus: RedisWatchBus) -> None:
    """Take its connection from a bus until its proxy accepts again."""
    proxy.refuse()
    proxy.cut()
    await until(lambda: not bus.statistics().connected)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_position_that_a_restart_undid_is_refused_by_who_knows_nothing_of_it(
    kind: str,
) -> None:
    """Redis lost what came after its snapshot, and all processes were started anew too."""
    with running(kind) as server:
        async with open_redis_watchbus(server.url) as bus, bus.watch("k") as watch:
            await bus.publish_many([("k", b"kept")] * 3)
            server.call("SAVE")
            await bus.publish_many([("k", b"undone")] * 3)
            for _ in range(6):
                await watch.receive()
            stored = watch.position
        await restart(server)
        async with open_redis_watchbus(server.url) as bus:
            # Until the numbering is past it.
            ids = await bus.publish_many([("k", b"new")] * 5)
            with pytest.raises(HistoryLostError) as raised:
                await bus.watch("k", after=stored).__aenter__()
            assert raised.value.reason == "epoch"
            async with bus.watch("k", after=ids[0]) as watch:
                for identifier in ids[1:]:
                    assert (await watch.receive()).id == identifier
            assert epoch_of(ids[0]) == await epoch_of_new_process(server)


async def test_processes_that_open_on_a_server_that_was_not_restarted_keep_the_epoch() -> None:
    """With and without messages."""
    with running("valkey") as server:
        first = await epoch_of_new_process(server)
        async with open_redis_watchbus(server.url) as bus:
            await bus.publish("k", b"")
            assert epoch_of(bus.position) == first
        assert await epoch_of_new_process(server) == first


async def test_new_processes_after_a_restart_agree_on_one_epoch() -> None:
    """Also where they open at the same time."""
    epochs: list[str] = []
    with running("valkey", *DURABLE) as server:
        before = await epoch_of_new_process(server)
        await restart(server)

        async def open_another() -> None:
            epochs.append(await epoch_of_new_process(server))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(open_another)
    assert len(set(epochs)) == 1
    assert epochs[0] != before


@pytest.mark.parametrize("kind", KINDS)
async def test_who_stayed_and_finds_what_it_knows_vouches_for_the_log(kind: str) -> None:
    """It loses nothing, nor does a process that opens after it."""
    with running(kind, *DURABLE) as server:
        async with open_redis_watchbus(server.url) as bus, bus.watch("k") as watch:
            first = await bus.publish("k", b"1")
            assert (await watch.receive()).data == b"1"
            await restart(server)
            await reconnected(bus)
            second = await bus.publish("k", b"2")
            assert (await watch.receive()).id == second
            assert epoch_of(second) == epoch_of(first)
            async with (
                open_redis_watchbus(server.url) as another,
                another.watch("k", after=first) as resumed,
            ):
                assert (await resumed.receive()).id == second


async def test_who_stayed_is_told_where_a_new_process_came_first() -> None:
    """Nothing may be lost, but the new one could not know."""
    with running("valkey", *DURABLE) as server:
        async with staying(server) as (proxy, bus), bus.watch("k") as watch:
            first = await bus.publish("k", b"1")
            assert (await watch.receive()).data == b"1"
            await without_connection(proxy, bus)
            await restart(server)
            epoch = await epoch_of_new_process(server)
            assert epoch != epoch_of(first)
            proxy.accept()
            with pytest.raises(WatchLaggedError) as raised:
                await watch.receive()
            assert (raised.value.missed, raised.value.reason) == (None, "epoch")
            second = await bus.publish("k", b"2")
            assert (await watch.receive()).id == second
            assert epoch_of(second) == epoch


@pytest.mark.parametrize("knows", ["of no message", "one that the log no longer has"])
async def test_who_stayed_and_finds_nothing_that_it_knows_cannot_vouch(knows: str) -> None:
    """What came after it, and who knew, may be gone."""
    with running("valkey", *DURABLE) as server:
        async with staying(server) as (proxy, bus):
            if knows != "of no message":
                await bus.publish("k", b"")
                await until(lambda: bus._reader._heard_of == bus._publisher.stored)
            before = bus.position
            await without_connection(proxy, bus)
            async with open_redis_watchbus(server.url) as another:
                await another.publish_many([("k", b"")] * 5)
            server.call("XTRIM", "watchbus:log", "MINID", "3-0")
            await restart(server)
            proxy.accept()
            await reconnected(bus)
            assert epoch_of(bus.position) != epoch_of(before)
            assert epoch_of(bus.position) == await epoch_of_new_process(server)


async def test_a_publisher_that_comes_back_alone_knowing_nothing_begins_an_epoch_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it stores then does not vouch for what was before, and is not lost when readers come."""

    async def fail(**_: object) -> None:
        raise UnreachableError("not yet")

    with running("valkey", *DURABLE) as server:
        async with open_redis_watchbus(server.url) as bus:
            before = bus.position
            with monkeypatch.context() as patches:
                patches.setattr(bus._reader, "_agree", fail)
                await restart(server)
                early = await bus.publish("k", b"early")
                await until(lambda: not bus.statistics().connected)
            await reconnected(bus)
            assert epoch_of(before) != epoch_of(early) == epoch_of(bus.position)
            assert await epoch_of_new_process(server) == epoch_of(early)


async def test_a_process_vouches_with_what_it_stored_and_has_not_read() -> None:
    """Redis goes away before the reader sees what the publisher was told that it stored."""
    with running("valkey", *DURABLE) as server:
        async with open_redis_watchbus(server.url) as bus, bus.watch("k") as watch:
            # The loop stands still, so nothing that is read is looked at.
            answered = bus._reader._take_page
            held: list[tuple[object, ...]] = []

            async def hold(*page: object) -> None:
                held.append(page)
                raise UnreachableError("the connection is lost")

            bus._reader._take_page = hold  # type: ignore[method-assign, assignment]
            first = await bus.publish("k", b"1")
            await restart(server)
            await until(lambda: bool(held))
            bus._reader._take_page = answered  # type: ignore[method-assign]
            assert (await watch.receive()).id == first
            assert epoch_of(await bus.publish("k", b"2")) == epoch_of(first)


async def test_what_is_known_of_another_epoch_does_not_vouch() -> None:
    """The server went back to an epoch of before, of which it may lack something as well."""
    with running("valkey") as server:
        async with open_redis_watchbus(server.url) as bus, bus.watch("k") as watch:
            first = await bus.publish("k", b"")
            await watch.receive()
            server.call("SAVE")
            server.call("DEL", "watchbus:facts", "watchbus:log")
            with pytest.raises(WatchLaggedError):
                await watch.receive()
            second = await bus.publish("k", b"")
            await watch.receive()
            await restart(server)
            with pytest.raises(WatchLaggedError):
                await watch.receive()
            third = await bus.publish("k", b"")
    assert len({epoch_of(position) for position in (first, second, third)}) == 3


async def test_who_stayed_goes_on_where_redis_has_no_memory_to_note_that_it_vouched() -> None:
    """A new process, that cannot begin an epoch then, is refused until there is memory."""
    with running("valkey", *DURABLE) as server:
        async with staying(server) as (proxy, bus), bus.watch("k") as watch:
            first = await bus.publish("k", b"1")
            assert (await watch.receive()).data == b"1"
            await without_connection(proxy, bus)
            await restart(server)
            server.call("CONFIG", "SET", "maxmemory", 1)
            proxy.accept()
            await reconnected(bus)
            with pytest.raises(BusUnavailableError, match="memory"):
                await open_redis_watchbus(server.url, timeout=0.5).__aenter__()
            server.call("CONFIG", "SET", "maxmemory", 0)
            second = await bus.publish("k", b"2")
            assert (await watch.receive()).id == second
            assert epoch_of(second) == epoch_of(first)


@pytest.mark.parametrize("kind", KINDS)
async def test_the_server_is_asked_who_it_is_only_on_a_new_connection(kind: str) -> None:
    """Neither with each read, publish or watch, nor at rest: its answer takes it some time."""
    with running(kind) as server:
        async with open_redis_watchbus(server.url) as bus, open_redis_watchbus(server.url) as other:
            server.call("CONFIG", "RESETSTAT")
            async with bus.watch("k") as watch:
                for _ in range(5):
                    await bus.publish("k", b"")
                    await watch.receive()
            await until_at(bus, await other.publish("k", b""))
            assert "cmdstat_info" not in server.call("INFO", "commandstats")


async def test_a_server_that_does_not_say_whether_it_was_restarted() -> None:
    """Then a process that opens takes the log as it is."""
    settings = 'save ""\nrename-command INFO ""\n'
    with running("valkey", *DURABLE, settings=settings) as server:
        async with open_redis_watchbus(server.url) as bus:
            first = await bus.publish("k", b"")
        await restart(server)
        async with open_redis_watchbus(server.url) as bus:
            second = await bus.publish("k", b"")
            async with bus.watch("k", after=first) as watch:
                assert (await watch.receive()).id == second
