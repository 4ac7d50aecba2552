"""The bus over Redis."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from secrets import token_hex
from typing import TYPE_CHECKING, final

import trio
from trio.lowlevel import checkpoint, enable_ki_protection

from .._core._watch import BufferedWatch
from .._errors import BusUnavailableError, MessageTooLargeError, broken_by
from .._keys import check_key, check_prefix
from .._message import Message, Position, check_data, check_publication
from .._request import WatchRequest
from .._statistics import RedisBusStatistics
from ..abc import Data, Publication, WatchBus
from ._backend_errors import (
    MisconfiguredError,
    PermanentError,
    RefusedError,
)
from ._index import Index
from ._layout import Facts, Names, read_stream
from ._mirror import Mirror
from ._past import Past
from ._publisher import BYTES_A_WEIGHT, Publisher, Publishing
from ._queries import Queries
from ._reader import Reader
from ._settings import Settings
from ._states import BUS, BusEvent, BusState
from ._watched import watched_keys
from ._worker import Worker

if TYPE_CHECKING:
    from ._connection import Link

_FAREWELL_SECONDS = 0.3
"""How long leaving the bus waits until Redis has taken this process out of the index; after that
its lease ends by itself."""

_MESSAGES_A_BATCH = 100_000
"""Messages in one batch: Redis stores so many in about a second, in which it does nothing else."""

_BYTES_A_BATCH = 256 * 1024 * 1024
"""Bytes of data in one batch: Redis cuts whoever sends 1 GB that it has not worked on yet."""


_ENDED = {BusState.CLOSED, BusState.FAILED}


@final
class RedisWatchBus(WatchBus):
    """A bus over Redis, shared by any number of processes. Made by `open_redis_watchbus`."""

    def __init__(
        self,
        reading: Callable[[], Link],
        asking: Callable[[], Link],
        *,
        names: Names,
        settings: Settings,
        buffers_bytes: int,
        timeout: float,
    ) -> None:
        self.max_message_size: int = settings.max_message_size
        self._settings = settings
        self._names = names
        self._timeout = timeout
        self._process = token_hex(8)
        self._reading = reading()
        self._publishing, self._querying = self._workers = (Worker(asking()), Worker(asking()))
        self._publisher = Publisher(
            self._publishing,
            timeout,
            names=names,
            process=self._process,
            vouching=lambda: self._reader.state_command(connecting=True),
        )
        # These two share a connection.
        self._queries = Queries(self._querying, timeout)
        self._index = Index(self._querying, timeout, names=names)
        self._past = Past(self._queries, names)
        self._pipelines = (self._publisher, self._queries, self._index)
        self._reader: Reader[Mirror] = Reader(
            self._reading,
            trio.CapacityLimiter(1),
            names=names,
            settings=settings,
            adopted=self._adopt,
            make_dispatcher=partial(Mirror, left=self._index.leave, buffers_bytes=buffers_bytes),
            last_stored=lambda: self._publisher.stored,
        )
        self._state = BusState.OPENING
        # What it failed with, where it did.
        self._failure: Exception | None = None
        self._body = trio.CancelScope()
        self._opening = trio.CancelScope()
        self._working = trio.CancelScope(shield=True)

    def __repr__(self) -> str:
        if self._state is not BusState.OPEN:
            state = self._state.value
        elif self._reader.connected_since is None:
            state = "disconnected"
        else:
            state = f"{len(self._mirror.watches)} watches"
        # It has no position before it has connected.
        at = f" at {self.position}" if hasattr(self._reader, "dispatcher") else ""
        return f"<RedisWatchBus{at}: {state}>"

    async def publish(self, key: str, data: Data, *, idempotency_key: str | None = None) -> str:
        check_key(key)
        if type(data) is not bytes or len(data) > self.max_message_size:
            data = check_data(data, self.max_message_size)
        if idempotency_key is not None:
            check_key(idempotency_key, "idempotency key")
        asked = Publishing([(key, data, False)], idempotency_key)
        return (await self._publisher.request(asked, 1 + len(data) // BYTES_A_WEIGHT))[0]

    async def publish_prefix(
        self, prefix: str, data: Data, *, idempotency_key: str | None = None
    ) -> str:
        check_prefix(prefix)
        message = (prefix, check_data(data, self.max_message_size), True)
        return (await self._publish([message], idempotency_key))[0]

    async def publish_many(
        self, messages: Iterable[Publication], *, idempotency_key: str | None = None
    ) -> list[str]:
        """As in `WatchBus`; a batch has at most 100,000 messages, with 256 MiB of data.

        Raises:
            ValueError: it has more messages.
            MessageTooLargeError: they have more data.
        """
        batch = [check_publication(item, self.max_message_size) for item in messages]
        if len(batch) > _MESSAGES_A_BATCH:
            raise ValueError(f"a batch has at most {_MESSAGES_A_BATCH} messages, not {len(batch)}")
        return await self._publish(batch, idempotency_key)

    async def latest(self, key: str) -> Message | None:
        check_key(key)
        [entries] = await self._queries.request(
            [("XREVRANGE", self._names.stream(key), "+", "-", "COUNT", 1)]
        )
        found = read_stream(key, entries)
        return found[0] if found else None

    async def watched_keys(self, prefix: str = "") -> frozenset[str]:
        check_prefix(prefix)
        if not self._index.up_to_date:
            await self._index.request(None)
        return await watched_keys(self._queries, self._names, prefix)

    @property
    def position(self) -> str:
        return str(self._newest)

    def statistics(self) -> RedisBusStatistics:
        mirror, reader = self._mirror, self._reader
        return RedisBusStatistics(
            connected=self._state is BusState.OPEN and reader.connected_since is not None,
            watches=len(mirror.watches),
            watched_keys=len(mirror.keys),
            watched_prefixes=len(mirror.prefixes),
            trie_nodes=mirror.keys.nodes + mirror.prefixes.nodes,
            journal_messages=len(mirror.journal),
            journal_bytes=mirror.journal.bytes,
            kept_keys=0,
            buffers_bytes=mirror.budget.held,
            buffers_reserved=mirror.budget.reserved,
            buffers_full=mirror.budget.met,
            routes_dropped=mirror.routes.met,
            connected_since=reader.connected_since,
            reconnects=reader.reconnects,
            behind=self._newest.sequence - mirror.journal.last if mirror.watches else 0,
            skipped_entries=reader.skipped,
        )

    def close(self) -> None:
        self._end(None)

    @property
    def _mirror(self) -> Mirror:
        return self._reader.dispatcher

    @property
    def _newest(self) -> Position:
        """The newest position that this process knows, handed on or not."""
        heard, stored = self._reader.newest, self._publisher.stored
        # What was stored from here is known before the reader hears of it.
        if stored is None or stored.epoch != heard.epoch:
            return heard
        return max(heard, stored, key=lambda position: position.sequence)

    def _adopt(self) -> None:
        """Take the settings that are stored with the log."""
        self.max_message_size = self._settings.max_message_size

    # Opening and ending

    @enable_ki_protection
    async def _guard(self, function: Callable[[], Awaitable[None]]) -> None:
        """Run a background task; its failure is the bus's."""
        try:
            await function()
        except PermanentError as error:
            self._end(refused_for_good(error))
        except Exception as error:
            # A task made a request when the bus was closed.
            if self._state in _ENDED:
                return
            self._end(error)
            raise

    @enable_ki_protection
    async def _work(self) -> None:
        """Run the background tasks; a cancel from outside leaves them to `_leave` and `_stop`."""
        with self._working:
            async with trio.open_nursery() as nursery:
                for pipeline in self._pipelines:
                    nursery.start_soon(self._guard, pipeline.run)
                    nursery.start_soon(self._guard, pipeline.expire)
                nursery.start_soon(self._guard, self._reader.run)
                nursery.start_soon(self._guard, self._index.keep)

    @enable_ki_protection
    async def _stop_when_cancelled(self) -> None:
        """Wake the threads of opening, which no cancel reaches."""
        with self._opening:
            try:
                await trio.sleep_forever()
            finally:
                if not self._opening.cancel_called:
                    self._stop()

    def _stop(self) -> None:
        """End the background tasks, and wake their threads."""
        self._reading.end()
        for worker in self._workers:
            worker.end()
        self._working.cancel()

    def _disconnect(self) -> None:
        """Close the sockets, once the threads have ended."""
        for link in (self._reading, *(worker.link for worker in self._workers)):
            link.disconnect()

    async def _leave(self) -> None:
        """Take this process out of the index, if Redis is there."""
        if self._working.cancel_called or self._state is BusState.FAILED:
            return
        interrupt: KeyboardInterrupt | None = None
        if self._reader.connected_since is not None:
            with (
                trio.move_on_after(_FAREWELL_SECONDS, shield=True),
                # Then the lease ends by itself.
                suppress(BusUnavailableError, trio.BrokenResourceError),
            ):
                try:
                    await self._index.say_farewell()
                except KeyboardInterrupt as raised:
                    # It waits for the farewell, which no cancel reaches either.
                    interrupt = raised
                    await self._index.say_farewell()
        if interrupt is not None:
            raise interrupt

    def _end(self, failure: Exception | None) -> None:
        if self._state in _ENDED:
            return
        self._move(BusEvent.CLOSE if failure is None else BusEvent.FAIL)
        self._failure = failure
        self._mirror.close(failure)
        self._reader.release()
        for pipeline in self._pipelines:
            pipeline.close(self._ending)
        if failure is not None:
            self._body.cancel()

    def _move(self, event: BusEvent) -> None:
        self._state = BUS[self._state][event]

    def _ending(self) -> Exception:
        if self._failure is not None:
            return broken_by(self._failure)
        return trio.ClosedResourceError("this bus is closed")

    # Publishing

    async def _publish(
        self, messages: list[tuple[str, bytes, bool]], idempotency_key: str | None
    ) -> list[str]:
        if idempotency_key is not None:
            check_key(idempotency_key, "idempotency key")
        if not messages:
            await checkpoint()
            if self._state in _ENDED:
                raise self._ending()
            return []
        size = sum(len(data) for _, data, _ in messages)
        if size > _BYTES_A_BATCH:
            raise MessageTooLargeError(
                f"a batch has at most {_BYTES_A_BATCH} bytes of data, not {size}"
            )
        weight = len(messages) + size // BYTES_A_WEIGHT
        return await self._publisher.request(Publishing(messages, idempotency_key), weight)

    # Watching

    @enable_ki_protection
    async def open_watch(self, request: WatchRequest) -> BufferedWatch:
        deadline = trio.current_time() + self._timeout
        facts = await self._index.enter(request.keys)
        try:
            with trio.fail_at(deadline), self._reader.awake():
                return await self._register(request, facts)
        except trio.TooSlowError:
            self._index.leave(request.keys)
            raise BusUnavailableError(
                f"the log could not be read up to its end in {self._timeout:g} s"
            ) from None
        except BaseException:
            self._index.leave(request.keys)
            raise

    async def _register(self, request: WatchRequest, facts: Facts) -> BufferedWatch:
        """Add a watch once all that was stored before `facts` was handed on."""
        while True:
            while not await self._reader.reach(facts):
                facts = await self._index.request(None)
            if self._state in _ENDED:
                raise self._ending()
            if request.history:
                watch = await self._register_with_history(request)
                if watch is not None:
                    return watch
                facts = await self._index.request(None)
                continue
            after = request.after
            if after is not None and after._replace(branch="") == facts.start:
                # All of this epoch is after its start, whichever message somebody thinks is there.
                after = facts.start
            if after is not None and self._mirror.journal.make_indexes(after.sequence):
                await checkpoint()
                continue
            if after is None or after.sequence >= self._mirror.oldest.sequence:
                return self._mirror.register(request, after)
            earlier, after = await self._past.older(request, after, facts, self._mirror)
            return self._mirror.register_after(request, earlier, after)

    async def _register_with_history(self, request: WatchRequest) -> BufferedWatch | None:
        """Add a watch that gets the history first; None where the epoch changed meanwhile.

        It is added before the history is read, however long that takes: what comes meanwhile
        follows from the journal, or is told to be lost.
        """
        mirror = self._mirror
        watch = mirror.register(request)
        watch.fall_behind(mirror.journal.last)
        try:
            history = await self._past.history(request, mirror.journal.last)
            if history:
                watch.load_history(history, mirror.before(history[0]))
        except BaseException:
            mirror.withdraw(watch)
            raise
        if watch.rewritten:
            mirror.withdraw(watch)
            return None
        if not watch.unread:
            watch.catch_up()
        return watch


def refused_for_good(refusal: RefusedError) -> BusUnavailableError:
    """Return what to raise where waiting does not help."""
    hint = ""
    if isinstance(refusal, MisconfiguredError) and "command" in str(refusal):
        hint = " (a proxy that does not pass on scripts says so too: use Redis's own address)"
    error = BusUnavailableError(
        f"Redis refuses, and will until its settings change: {refusal}{hint}"
    )
    error.__cause__ = refusal
    return error
