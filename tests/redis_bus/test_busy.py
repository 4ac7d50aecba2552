"""A server that does not take writes now is waited for, and nothing is stored twice."""

from __future__ import annotations

import os
from contextlib import suppress

import redis
import trio
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis_bus.servers import RedisServer, epoch_of, free_port, running
from served import until

from trio_watchbus import open_redis_watchbus


def refuses_writes(server: RedisServer) -> bool:
    try:
        server.call("SET", "probe", "")
    except redis.ReadOnlyError:
        return True
    return False


async def test_a_replica_is_waited_for_until_it_takes_over(server: RedisServer) -> None:
    """READONLY: a publish is retried, a watch can be entered, and nobody is told anything."""
    async with open_redis_watchbus(server.url) as bus, bus.watch("k") as watch:
        await bus.publish("k", b"1")
        server.call("REPLICAOF", "127.0.0.1", free_port())
        try:
            assert refuses_writes(server)
            async with trio.open_nursery() as nursery:
                ids: list[str] = []

                async def publish() -> None:
                    ids.append(await bus.publish("k", b"2"))

                sent = bus._publisher._call
                nursery.start_soon(publish)
                # So often it was refused.
                await until(lambda: bus._publisher._call >= sent + 3)
                assert ids == []
                server.call("REPLICAOF", "NO", "ONE")
        finally:
            server.call("REPLICAOF", "NO", "ONE")
        with trio.fail_after(20):
            assert [(await watch.receive()).data for _ in range(2)] == [b"1", b"2"]
        assert len(ids) == 1


async def test_a_server_that_is_busy_with_a_script_is_waited_for(server: RedisServer) -> None:
    """BUSY: as long as a publish may take, and nothing is stored twice."""
    server.call("CONFIG", "SET", "lua-time-limit", 1)

    def hold_up() -> None:
        with server.client() as client, suppress(redis.ResponseError):
            client.eval("while true do end", 0)

    def is_busy() -> bool:
        try:
            server.call("PING")
        except redis.ResponseError as error:
            return "BUSY" in str(error)
        return False

    try:
        async with open_redis_watchbus(server.url) as bus, bus.watch("k") as watch:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, hold_up)
                await until(is_busy)
                sent = bus._publisher._call
                nursery.start_soon(bus.publish, "k", b"1")
                await until(lambda: bus._publisher._call >= sent + 3)
                server.call("SCRIPT", "KILL")
            with trio.fail_after(20):
                assert (await watch.receive()).data == b"1"
    finally:
        server.call("CONFIG", "SET", "lua-time-limit", 5000)


async def test_a_server_that_loads_its_data_is_waited_for() -> None:
    """LOADING: after a restart with much to read."""
    # Half a second to load, and answers meanwhile.
    settings = """
        save 3600 1
        key-load-delay 1000
        loading-process-events-interval-bytes 1024
    """
    with running("valkey", settings=settings) as server, trio.fail_after(60):
        async with open_redis_watchbus(server.url) as bus, bus.watch("k") as watch:
            before = await bus.publish("k", b"1")
            with server.client() as client:
                client.mset({f"other:{number}": os.urandom(1024) for number in range(500)})
                client.save()
            server.kill()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, server.start)
                await until(lambda: is_loading(server))
                after = await bus.publish("k", b"2")
            assert [(await watch.receive()).data for _ in range(2)] == [b"1", b"2"]
            assert epoch_of(after) == epoch_of(before)
            assert server.call("XLEN", "watchbus:log") == 2


def is_loading(server: RedisServer) -> bool:
    """Whether it says that it loads; a client that retries would wait until it does not."""
    try:
        with server.client(retry=Retry(NoBackoff(), 0)) as client:
            client.get("k")
    except redis.BusyLoadingError:
        return True
    except redis.ConnectionError:
        pass
    return False
