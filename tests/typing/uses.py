"""What users write, as the type checker has to see it. Checked, never run.

`assert_type` says what a type is. A `type: ignore` says that a mistake is found: the checker warns
of those that ignore nothing.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import assert_type

import trio
from quart import Blueprint
from quart_trio import QuartTrio

from trio_watchbus import (
    BusStatistics,
    HistoryLostError,
    InMemoryWatchBus,
    Message,
    PublishUnknownError,
    RedisBusStatistics,
    RedisWatchBus,
    Retention,
    WatchLaggedError,
    WatchStatistics,
    open_redis_watchbus,
    open_watchbus,
)
from trio_watchbus.abc import Publication, Watch, WatchBus, WatchOptions
from trio_watchbus.web import ServerOptions, WebOptions, create_app, drain, serve
from trio_watchbus.web import watchbus_blueprint as blueprint_of


async def open_each_bus() -> None:
    assert_type(open_watchbus("memory://"), AbstractAsyncContextManager[WatchBus])
    async with open_watchbus("memory://", max_message_size=10) as bus:
        assert_type(bus, WatchBus)
    async with InMemoryWatchBus(retention=Retention(messages=10, seconds=1.5)) as memory:
        assert_type(memory, InMemoryWatchBus)
    async with open_redis_watchbus("redis://127.0.0.1", namespace="a") as redis:
        assert_type(redis, RedisWatchBus)
        assert_type(redis.statistics(), RedisBusStatistics)
    InMemoryWatchBus(retention=10)  # type: ignore[arg-type]
    InMemoryWatchBus(message_size=10)  # type: ignore[call-arg]
    Retention(10)  # type: ignore[call-arg]
    open_redis_watchbus(42)  # type: ignore[arg-type]


async def publish(bus: WatchBus) -> None:
    assert_type(await bus.publish("key", b"data"), str)
    assert_type(await bus.publish_prefix("", b"data", idempotency_key="once"), str)
    assert_type(await bus.publish_many([("key", b"data"), ("prefix", b"data", True)]), list[str])
    batch: list[Publication] = [("key", b"data")]
    batch.append(("prefix", b"data", True))
    await bus.publish_many(batch)
    # Copied.
    assert_type(await bus.publish("key", bytearray(b"data")), str)
    assert_type(await bus.publish_prefix("", memoryview(b"data")), str)
    assert_type(await bus.publish_many([("key", bytearray(b"data"))]), list[str])
    await bus.publish("key", "text")  # type: ignore[arg-type]
    await bus.publish("key")  # type: ignore[call-arg]
    await bus.publish_many([("key", "text")])  # type: ignore[list-item]
    # Only in memory is there anything that needs no waiting.
    bus.publish_nowait("key", b"data")  # type: ignore[attr-defined]


def publish_from_synchronous_code(bus: InMemoryWatchBus) -> None:
    assert_type(bus.publish_nowait("key", b"data"), str)
    assert_type(bus.publish_prefix_nowait("prefix", b"data"), str)
    assert_type(bus.publish_many_nowait([("key", b"data")]), list[str])
    assert_type(bus.publish_nowait("key", bytearray(b"data")), str)
    assert_type(bus.publish_prefix_nowait("prefix", memoryview(b"data")), str)


async def watch(bus: WatchBus) -> None:
    assert_type(bus.watch("key"), AbstractAsyncContextManager[Watch])
    how: WatchOptions = {"history": 1, "overflow": "latest"}
    async with bus.watch("key", **how) as watch:
        assert_type(watch, Watch)
        assert_type(await watch.receive(), Message)
        assert_type(watch.receive_nowait(), Message)
        assert_type(await watch.receive_batch(10), list[Message])
        assert_type(watch.position, str)
        assert_type(watch.statistics(), WatchStatistics)
        async for message in watch:
            assert_type(message, Message)
    async with bus.subscribe_prefix("", after="position", buffer_size=10):
        pass
    async with bus.watch_any(["a", "b"], prefixes=("c",), overflow="drop_oldest"):
        pass
    bus.watch("key", overflow="drop")  # type: ignore[arg-type]
    bus.watch("key", buffer=10)  # type: ignore[call-arg]
    bus.watch(b"key")  # type: ignore[arg-type]
    with bus.watch("key"):  # type: ignore[attr-defined]
        pass


async def receive_as_any_channel(bus: WatchBus) -> None:
    async with bus.watch("key") as watch:
        channel: trio.abc.ReceiveChannel[Message] = watch
        assert_type(await channel.receive(), Message)


async def ask(bus: WatchBus) -> None:
    assert_type(await bus.latest("key"), Message | None)
    assert_type(await bus.watched_keys(), frozenset[str])
    assert_type(bus.position, str)
    assert_type(bus.statistics(), BusStatistics)


def look_at_a_message(message: Message) -> None:
    assert_type(message.key, str)
    assert_type(message.data, bytes)
    assert_type(message.id, str)
    assert_type(message.time, float)
    assert_type(message.is_prefix, bool)
    message.data = b""  # type: ignore[misc]


async def handle_errors(bus: WatchBus) -> None:
    try:
        async with bus.watch("key", after="position") as watch:
            await watch.receive()
    except HistoryLostError as lost:
        assert_type(lost.position, str)
    except WatchLaggedError as lagged:
        assert_type(lagged.missed, int | None)
        assert_type(lagged.position, str)
    except PublishUnknownError as unknown:
        assert_type(unknown.idempotency_key, str)


async def serve_a_bus(bus: WatchBus) -> None:
    assert_type(create_app(bus, WebOptions(heartbeat=5)), QuartTrio)
    routes = blueprint_of(bus)
    assert_type(routes, Blueprint)
    QuartTrio(__name__).register_blueprint(routes, url_prefix="/bus")
    options = ServerOptions(allowed_origins=["https://shop.example"], max_keys=5)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, bus, bind="127.0.0.1:0", options=options))
        drain(routes)
    await serve(bus, bind=8000)  # type: ignore[arg-type]
    await serve(bus, options=WebOptions())  # type: ignore[arg-type]
