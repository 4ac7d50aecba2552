"""Opening and leaving the bus over Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from math import inf
from secrets import token_hex
from typing import TYPE_CHECKING

import trio

from .._errors import check_trio_runs, raise_what_ended
from .._message import MAX_MESSAGE_SIZE
from .._retention import Retention, check_retention
from ._bus import RedisWatchBus, refused_for_good
from ._layout import Names
from ._trouble import HopelessError

if TYPE_CHECKING:
    import redis

_READ_TIMEOUT = 3.0
"""Seconds in which Redis has to answer the reader, which it asks to wait for less than one."""

_LONGEST_ANSWER = 5.0
"""Seconds in which Redis has to answer anything else, so that it is asked again on another
connection; a third of the time that callers wait where that is less."""


def open_redis_watchbus(
    url_or_client: str | redis.Redis,
    *,
    namespace: str = "watchbus",
    retention: Retention | None = None,
    max_message_size: int = MAX_MESSAGE_SIZE,
    publish_timeout: float = 10.0,
) -> AbstractAsyncContextManager[RedisWatchBus]:
    """Return a bus over Redis 6.2 or newer, or Valkey, to be entered with ``async with``.

    Any number of processes may open it; all that use one namespace of one database share it. Each
    has three connections and one thread that reads, however many watches there are; while there
    are none, it reads nothing. Opening it reads the tail of the log into memory, so that clients
    that come back resume without Redis.

    While Redis cannot be reached, watches wait and publishes are retried; it reconnects by
    itself. What heals only by other settings (a wrong password, a missing permission, a name
    that holds something else) ends the watches with `trio.BrokenResourceError`, cancels the body
    of the ``async with``, and is raised there as a `BusUnavailableError`. Leaving it takes less
    than a second, whatever Redis does.

    Args:
        url_or_client: ``redis://[[user]:password@]host[:port][/db]``, ``rediss://`` likewise over
            TLS, ``unix:///path``; or a `redis.Redis` client, one from
            `redis.sentinel.Sentinel.master_for` included: the bus makes connections of its own
            in the same way, and leaves the client's pool alone.
        namespace: what the names of all its keys in Redis start with; ``{watchbus}`` puts them
            into one slot of a cluster.
        retention: how much of the past it keeps; give all processes the same.
        max_message_size: bytes of data that one message may have, at least 1.
        publish_timeout: seconds that a publish may take over all attempts, above 0; so too
            opening a watch, and asking for something.

    Raises:
        ImportError: redis-py is not installed.
        TypeError: an argument is of the wrong type.
        ValueError: it is not the URL of a Redis server, the client has
            ``decode_responses=True``, or another argument is out of range.
        BusUnavailableError: on entering: Redis cannot be reached within `publish_timeout`
            seconds, or refuses; it says what.
    """
    try:
        from ._connection import connection_maker  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ImportError(
            "a bus over Redis needs redis-py: pip install 'trio-watchbus[redis]'"
        ) from error
    if max_message_size < 1:
        raise ValueError(f"max_message_size must be at least 1, not {max_message_size}")
    if not 0 < publish_timeout < inf:
        raise ValueError(f"publish_timeout must be above 0 s and finite, not {publish_timeout}")
    name = f"watchbus-{token_hex(6)}"
    answer_timeout = min(_LONGEST_ANSWER, publish_timeout / 3)
    bus = RedisWatchBus(
        connection_maker(url_or_client, timeout=_READ_TIMEOUT, name=name),
        connection_maker(url_or_client, timeout=answer_timeout, name=name),
        names=Names(namespace),
        retention=check_retention(retention),
        max_message_size=max_message_size,
        timeout=publish_timeout,
    )
    return _opened(bus)


@asynccontextmanager
async def _opened(bus: RedisWatchBus) -> AsyncIterator[RedisWatchBus]:
    """Run `bus` for as long as the body runs; raise the body's error as it is, in no group."""
    check_trio_runs()
    error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus._stop_when_cancelled)
            try:
                await bus._start(nursery)
                bus._opening.cancel()
                try:
                    with bus._body:
                        yield bus
                finally:
                    bus.close()
                    await bus._leave()
            except HopelessError as trouble:
                error = refused_for_good(trouble)
            except BaseException as raised:  # noqa: BLE001
                error = raised
            bus._stop()
            nursery.cancel_scope.cancel()
    finally:
        # Also where a cancel from outside is raised at the nursery's end.
        for link in bus._links:
            link.disconnect()
    raise_what_ended(error, bus._failure)
