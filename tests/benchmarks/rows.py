"""What is compared, and what is aimed at."""

from __future__ import annotations

from .contest import Row, work
from .memory_peers import nats_is_there

_STACK = "Starlette, sse-starlette, uvicorn"
_RANDOM = {"watches": 1000, "keys": 1000, "messages": 50_000}
_ONE_KEY = {"watches": 1000, "keys": 1, "messages": 500}
_REDIS = {"watches": 1000, "keys": 1000, "messages": 50_000}
_OURS = {"server": "serve_trio_watchbus"}
_THEIRS = {"server": "serve_starlette"}


def all_rows() -> list[Row]:
    """Return every row, those of a broker only where it is there."""
    return [*_memory_rows(), *_web_rows(), *_redis_rows()]


def _memory_rows() -> list[Row]:
    random = "1,000 watches on 1,000 keys, random publishes"
    one = "1,000 watches on one key"
    at_once = work("memory_bus", "delivered", **_RANDOM, burst=50_000)
    rows = [
        Row(
            f"{random}, in bursts of 100",
            "delivered/s",
            work("memory_bus", "delivered", **_RANDOM, burst=100),
            "Trio channels by hand, in bursts of 100",
            work("memory_peers", "trio_channels", **_RANDOM, burst=100),
            2.0,
        ),
        Row(
            f"{random}, in bursts of 100: the floor",
            "delivered/s",
            work("memory_bus", "delivered", **_RANDOM, burst=100),
            "Trio waking a task for each message, and nothing else",
            work("memory_peers", "bare_wakes", watches=1000, messages=50_000, burst=100),
        ),
    ]
    for loop in ("asyncio", "uvloop"):
        rows += [
            Row(
                f"{random}, all published before others run",
                "delivered/s",
                at_once,
                f"broadcaster, {loop}",
                work("memory_peers", "broadcaster", **_RANDOM, loop=loop),
                1.3,
            ),
            Row(
                f"{one}, `await publish`",
                "delivered/s",
                work("memory_bus", "delivered", **_ONE_KEY, burst=0),
                f"broadcaster, {loop}",
                work("memory_peers", "broadcaster", **_ONE_KEY, loop=loop),
                1.5,
            ),
        ]
    rows.append(
        Row(
            f"{one}, in bursts of 100",
            "delivered/s",
            work("memory_bus", "delivered", **_ONE_KEY, burst=100),
            "Trio channels by hand, in bursts of 100",
            work("memory_peers", "trio_channels", **_ONE_KEY, burst=100),
        )
    )
    if nats_is_there():
        for title, load in ((random, _RANDOM), (one, _ONE_KEY)):
            rows.append(
                Row(
                    f"{title}, `await publish`",
                    "delivered/s",
                    work("memory_bus", "delivered", **load, burst=0),
                    "nats-server and nats-py",
                    work("memory_peers", "nats", **load),
                )
            )
    publish = {"messages": 200_000}
    fresh = {"messages": 50_000, "fresh": 1}
    return [
        *rows,
        Row(
            "`publish_nowait`, key watched once",
            "ns",
            work("memory_bus", "publish_nowait", **publish),
            target=600,
            at_most=True,
        ),
        Row(
            "`publish_nowait`, key watched once: the floor",
            "ns",
            work("memory_bus", "publish_nowait", **publish),
            "a bare loop of what it cannot do without",
            work("memory_bus", "bare_publish", **publish),
        ),
        Row(
            "`publish_prefix_nowait` to 1,000 of 100,000 watched keys",
            "µs",
            work("memory_bus", "publish_prefix", watches=100_000, reached=1000, messages=200),
            target=300,
            at_most=True,
        ),
        Row(
            "`publish_prefix_nowait` to 1,000 of 100,000, and to 1,000 of 10,000",
            "µs",
            work("memory_bus", "publish_prefix", watches=100_000, reached=1000, messages=200),
            "this project, fewer keys",
            work("memory_bus", "publish_prefix", watches=10_000, reached=1000, messages=200),
        ),
        Row(
            "`publish_nowait` with 10,000 prefix watches elsewhere",
            "ns",
            work("memory_bus", "publish_nowait", **publish, prefixes=10_000),
            "this project, none elsewhere",
            work("memory_bus", "publish_nowait", **publish, prefixes=0),
            1.3,
            at_most=True,
        ),
        Row(
            "`publish_nowait` with them, to keys never published to before",
            "ns",
            work("memory_bus", "publish_nowait", **fresh, prefixes=10_000),
            "this project, none elsewhere",
            work("memory_bus", "publish_nowait", **fresh, prefixes=0),
            1.3,
            at_most=True,
        ),
        Row(
            "memory of a watch, key of 29 characters, 100,000 of them",
            "bytes",
            work("memory_bus", "watch_memory", watches=100_000),
            target=2500,
            at_most=True,
        ),
    ]


def _web_rows() -> list[Row]:
    full: dict[str, int | str] = {"clients": 200, "messages": 500}
    paced: dict[str, int | str] = {"kind": "sse", "clients": 1000, "rate": 20, "messages": 200}
    idle: dict[str, int | str] = {"kind": "sse", "clients": 1000}
    one_by_one = {"clients": 32, "messages": 20_000}
    return [
        Row(
            "SSE, 200 clients, full speed",
            "delivered/s",
            work("served", "throughput", **_OURS, kind="sse", **full),
            _STACK,
            work("served", "throughput", **_THEIRS, kind="sse", **full),
            1.5,
        ),
        Row(
            "SSE, 1,000 clients, 20 messages a second: p99 of latency",
            "ms",
            work("served", "latency", **_OURS, **paced),
            _STACK,
            work("served", "latency", **_THEIRS, **paced),
            1.0,
            at_most=True,
        ),
        Row(
            "WebSocket `watchbus.v1`, 200 clients, full speed",
            "delivered/s",
            work("served", "throughput", **_OURS, kind="v1", **full),
            "Starlette, uvicorn: a frame a message",
            work("served", "throughput", **_THEIRS, kind="ws", **full),
            1.5,
        ),
        Row(
            "WebSocket, a frame a message, 200 clients, full speed",
            "delivered/s",
            work("served", "throughput", **_OURS, kind="ws", **full),
            "Starlette, uvicorn",
            work("served", "throughput", **_THEIRS, kind="ws", **full),
            0.6,
        ),
        Row(
            "`POST /publish` one by one, 32 connections",
            "requests/s",
            work("served", "publishing", **_OURS, **one_by_one),
            "a bare ASGI app on hypercorn-trio, which publishes nothing",
            work("served", "publishing", server="serve_bare", **one_by_one),
            0.85,
        ),
        Row(
            "`POST /publish` one by one, 32 connections, beside the Starlette stack",
            "requests/s",
            work("served", "publishing", **_OURS, **one_by_one),
            "Starlette, broadcaster, uvicorn",
            work("served", "publishing", **_THEIRS, **one_by_one),
        ),
        Row(
            "NDJSON publish, 1,000 messages a request, 4 connections",
            "messages/s",
            work("served", "publishing", **_OURS, clients=4, messages=400_000, batch=1000),
            target=150_000,
        ),
        Row(
            "memory of an idle SSE connection, 1,000 of them",
            "bytes",
            work("served", "idle_memory", **_OURS, **idle),
            _STACK,
            work("served", "idle_memory", **_THEIRS, **idle),
            0.75,
            at_most=True,
        ),
    ]


def _redis_rows() -> list[Row]:
    return [
        Row(
            "Redis, 256 publishing tasks, two processes, 1,000 watches on 1,000 keys",
            "delivered/s",
            work("redis_bus", "delivered", **_REDIS),
            "redis.asyncio pub/sub in pipelines of 200, two processes",
            work("redis_peer", "delivered", **_REDIS),
            2.0,
        ),
        Row(
            "Redis, the same beside one process that publishes and watches",
            "delivered/s",
            work("redis_bus", "delivered", **_REDIS),
            "redis.asyncio pub/sub in pipelines of 200, one process",
            work("redis_peer", "delivered_in_one", **_REDIS),
            2.0,
        ),
        Row(
            "Redis, `publish_many` in batches of 500, one task",
            "stored/s",
            work("redis_bus", "stored", keys=1000, messages=200_000),
            target=100_000,
        ),
        Row(
            "Redis, one publish to its delivery in another process: median",
            "ms",
            work("redis_bus", "lone_latency", messages=500),
            target=2,
            at_most=True,
        ),
    ]
