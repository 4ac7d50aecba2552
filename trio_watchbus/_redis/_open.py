"""Opening and leaving the bus over Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from math import inf
from secrets import token_hex
from types import TracebackType
from typing import TYPE_CHECKING, final

import trio
from trio.lowlevel import enable_ki_protection

from .._backoff import Backoff
from .._core._buffers import BUFFERS_BYTES
from .._errors import BusUnavailableError, check_trio_runs, raise_what_ended
from .._retention import Retention, check_retention
from ._backend_errors import BackendError, BusyError, MisconfiguredError, PermanentError
from ._bus import RedisWatchBus, refused_for_good
from ._layout import Facts, Names
from ._pipeline import PAUSES
from ._settings import Settings
from ._states import BusEvent

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
    max_message_size: int | None = None,
    change_retention: bool = False,
    buffers_bytes: int = BUFFERS_BYTES,
    timeout: float = 10.0,
) -> AbstractAsyncContextManager[RedisWatchBus]:
    """Return a bus over Redis 6.2 or newer, or Valkey, to be entered with ``async with``.

    Any number of processes may open it; all that use one namespace of one database share it. Each
    has three connections and one thread that reads, however many watches there are; while there
    are none, it reads nothing. Opening it reads the tail of the log into memory, so that clients
    that come back resume without Redis.

    While Redis cannot be reached, watches wait and publishes are retried; it reconnects by
    itself, ever more slowly, up to once a second. Only a wrong password, a missing permission or
    a key of the wrong type ends the bus: that ends the watches with `trio.BrokenResourceError`,
    cancels the body of the ``async with``, and is raised there as a `BusUnavailableError`. Any
    other refusal (a certificate that has expired, say) ends only the opening of a bus.

    Leaving it takes less than a second, whatever Redis does, also while a name is looked up or a
    Sentinel is asked: a thread that hangs in that is left behind, at most one per connection.

    Args:
        url_or_client: ``redis://[[user]:password@]host[:port][/db]``, ``rediss://`` likewise over
            TLS, ``unix:///path``; or a `redis.Redis` client, one from
            `redis.sentinel.Sentinel.master_for` included: the bus makes connections of its own
            in the same way, and leaves the client's pool alone.
        namespace: what the names of all its keys in Redis start with; ``{watchbus}`` puts them
            into one slot of a cluster.
        retention: how much of the past the log keeps. The fields that are given are stored with
            it, for all who open it; those that are None are what is stored, or else the default.
        max_message_size: bytes of data that one message may have, at least 1. It is stored like
            `retention`; 1 MiB by default.
        change_retention: store what is given even if other values are stored. Processes that have
            the bus open adopt them when they next reconnect, and log that.
        buffers_bytes: bytes that the buffers of all watches may hold, at least 1, and one watch a
            sixteenth; 256 MiB by default. Beyond it a watch falls behind, or drops as its overflow
            kind says.
        timeout: seconds that a publish may take over all attempts, above 0; so too
            opening a watch, and asking for something.

    Raises:
        ImportError: redis-py is not installed.
        TypeError: an argument is of the wrong type.
        ValueError: it is not the URL of a Redis server, the client has
            ``decode_responses=True``, or another argument is out of range. On entering: other
            values of `retention` or `max_message_size` are stored; both are named.
        BusUnavailableError: on entering: Redis cannot be reached within `timeout`
            seconds, or refuses; it says what.
    """
    try:
        from ._connection import connection_maker  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ImportError(
            "a bus over Redis needs redis-py: pip install 'trio-watchbus[redis]'"
        ) from error
    for option, value in (("max_message_size", max_message_size), ("buffers_bytes", buffers_bytes)):
        if value is not None and value < 1:
            raise ValueError(f"{option} must be at least 1, not {value}")
    if not 0 < timeout < inf:
        raise ValueError(f"timeout must be above 0 s and finite, not {timeout}")
    name = f"watchbus-{token_hex(6)}"
    answer_timeout = min(_LONGEST_ANSWER, timeout / 3)
    names = Names(namespace)
    bus = RedisWatchBus(
        connection_maker(url_or_client, timeout=_READ_TIMEOUT, name=name),
        connection_maker(url_or_client, timeout=answer_timeout, name=name),
        names=names,
        settings=Settings(
            names, check_retention(retention), max_message_size, change=change_retention
        ),
        buffers_bytes=buffers_bytes,
        timeout=timeout,
    )
    return _Opened(bus)


@final
class _Opened(AbstractAsyncContextManager[RedisWatchBus]):
    """Opens and leaves a bus, where a KeyboardInterrupt waits for a checkpoint.

    Raised at any other place, it would leave the nursery open, which breaks Trio.
    """

    def __init__(self, bus: RedisWatchBus) -> None:
        self._bus = bus
        self._running = _run(bus)

    @enable_ki_protection
    async def __aenter__(self) -> RedisWatchBus:
        return await self._running.__aenter__()

    @enable_ki_protection
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._running.__aexit__(kind, error, traceback)


@asynccontextmanager
async def _run(bus: RedisWatchBus) -> AsyncIterator[RedisWatchBus]:
    """Run `bus` for as long as the body runs; raise the body's error as it is, in no group."""
    check_trio_runs()
    error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus._stop_when_cancelled)
            try:
                await _start(bus, nursery)
                bus._opening.cancel()
                try:
                    with bus._body:
                        yield bus
                finally:
                    bus.close()
                    await bus._leave()
            except (PermanentError, MisconfiguredError) as refusal:
                error = refused_for_good(refusal)
            except BaseException as raised:  # noqa: BLE001
                error = raised
            bus._stop()
            nursery.cancel_scope.cancel()
    finally:
        # Also where a cancel from outside is raised at the nursery's end.
        bus._disconnect()
    raise_what_ended(error, bus._failure)


async def _start(bus: RedisWatchBus, nursery: trio.Nursery) -> None:
    """Connect, start the background tasks, and fill the journal.

    Raises:
        PermanentError: Redis refuses.
        MisconfiguredError: likewise.
        BusUnavailableError: it cannot be reached in time.
    """
    deadline = trio.current_time() + bus._timeout
    for worker in bus._workers:
        nursery.start_soon(worker.run)
    facts = await _connect(bus, deadline)
    bus._move(BusEvent.OPENED)
    nursery.start_soon(bus._work)
    with trio.move_on_at(deadline):
        await bus._reader.runs.wait()
        with bus._reader.awake():
            await bus._reader.reach(facts)


async def _connect(bus: RedisWatchBus, deadline: float) -> Facts:
    """Try until all connections are made, and what the bus does is permitted."""
    [some, *_] = bus._workers
    backoff = Backoff(*PAUSES)
    looked_for_proxy = False
    while True:
        try:
            facts = await bus._reader.start()
            for pipeline in bus._pipelines:
                await pipeline.connect()
            await some.call(some.link.check_scripts_are_allowed)
        except (PermanentError, MisconfiguredError):
            raise
        except BackendError as error:
            if trio.current_time() >= deadline:
                refuses = isinstance(error, BusyError)
                what = "does not take writes" if refuses else "cannot be reached"
                raise BusUnavailableError(f"Redis {what}: {error}") from error
            if bus._reading.was_closed and not looked_for_proxy:
                looked_for_proxy = True
                await some.call(bus._reading.check_for_proxy)
            await backoff.pause()
        else:
            return facts
