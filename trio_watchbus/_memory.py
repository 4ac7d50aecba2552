"""The embedded bus: everything in this process's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from secrets import token_hex
from time import monotonic
from time import time as now
from types import TracebackType
from typing import final

import trio
from trio.lowlevel import checkpoint, checkpoint_if_cancelled, enable_ki_protection

from ._core._buffers import BUFFERS_BYTES, LARGE
from ._core._calls import Calls
from ._core._dispatcher import Dispatcher
from ._core._history import load_history
from ._core._routes import STEP
from ._core._values import Values
from ._core._watch import BufferedWatch
from ._keys import check_key, check_prefix
from ._message import MAX_MESSAGE_SIZE, Message, Position, check_data, check_publication
from ._request import WatchRequest
from ._retention import Retention, check_retention
from ._statistics import BusStatistics
from .abc import Data, Publication, WatchBus

_PUBLISHES_A_TURN = 64
"""Publishes before a task that awaits them lets others run: as many as watches receive."""

_UNKNOWN = range(STEP + 1)
"""In place of a route that is not known: it may be longer than what is handed on in one step."""

_ITEMS_A_STEP = 4096
"""Items of a batch that are checked before other tasks run: about two milliseconds."""


@final
class InMemoryWatchBus(WatchBus):
    """A bus in this process's memory.

    Usable at once; as an async context manager it is closed on leaving. It belongs to one Trio
    run: from other threads, call it through `trio.from_thread`.

    Args:
        retention: how much of the past it keeps.
        max_message_size: bytes of data that one message may have, at least 1.
        buffers_bytes: bytes that the buffers of all watches may hold, at least 1; a sixteenth of
            it for one watch. Beyond that, a watch falls behind or drops, as its overflow kind says.
            A message counts for each buffer that it waits in.
        clock: seconds by a clock that never goes back, for the ages of messages.

    A message to more than some thousand watches, and a batch, is handed on in steps, between which
    other tasks run: it is in the order at once, and what is published later waits for it. The
    functions that do not await hand on what is left of that first, in one step.

    The order of messages is that of the calls. Messages are lost with the process, and the epoch
    is new with each bus, so that a position from before a restart is refused instead of resumed
    wrongly.
    """

    def __init__(
        self,
        *,
        retention: Retention | None = None,
        max_message_size: int = MAX_MESSAGE_SIZE,
        buffers_bytes: int = BUFFERS_BYTES,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        if max_message_size < 1:
            raise ValueError(f"max_message_size must be at least 1, not {max_message_size}")
        if buffers_bytes < 1:
            raise ValueError(f"buffers_bytes must be at least 1, not {buffers_bytes}")
        self.max_message_size = max_message_size
        retention = check_retention(retention)
        # 48 bits: no two epochs that one client could meet are the same.
        self._dispatcher = Dispatcher(
            Position(token_hex(6), 0), retention, buffers_bytes=buffers_bytes, clock=clock
        )
        self._journal = self._dispatcher.journal
        self._known_routes = self._dispatcher.routes.known
        # What a message of type bytes may have to go the shortest way.
        self._short = min(max_message_size, LARGE)
        self._watches = self._dispatcher.watches
        self._append = self._journal.append
        self._accept = self._dispatcher.accept
        self._id_start = f"{self._dispatcher.epoch}-"
        self._values = Values(retention)
        self._keep = self._values.append
        self._calls = Calls()
        self._closed = False
        self._set_ready(ready=True)
        self._delivering = trio.StrictFIFOLock()
        self._turn = _PUBLISHES_A_TURN

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._dispatcher.watches)} watches"
        return f"<InMemoryWatchBus at {self.position}: {state}>"

    @enable_ki_protection
    def publish_nowait(self, key: str, data: Data, *, idempotency_key: str | None = None) -> str:
        """Publish as `publish` does, but synchronously; not a checkpoint.

        For code that cannot await. From another thread, call it by `trio.from_thread.run_sync`.

        Returns:
            the message's id, once the message was handed to each live watch.

        Raises:
            InvalidKeyError: `key` or `idempotency_key` is not a valid key.
            MessageTooLargeError: `data` is too long.
            TypeError: an argument is of the wrong type.
            trio.ClosedResourceError: the bus is closed.
        """
        # Keys that were published to lately are known to be good, data of type bytes is what
        # nearly everyone passes: this is the hot path of the whole library.
        route = self._routes.get(key)
        if route is None or idempotency_key is not None:
            checked = [check_publication((key, data), self.max_message_size)]
            return self._publish_now(checked, idempotency_key)[0]
        if type(data) is not bytes or len(data) > self._short:
            return self._accept_one(key, check_data(data, self.max_message_size), is_prefix=False)
        identifier = f"{self._id_start}{self._journal.last + 1}"
        message = Message(key, data, identifier, now())
        self._keep(message)
        # As `accept` of the dispatcher does, without another call.
        self._append(message)
        for watch in route:
            watch.put(message)
        return identifier

    @enable_ki_protection
    def publish_prefix_nowait(
        self, prefix: str, data: Data, *, idempotency_key: str | None = None
    ) -> str:
        """Publish as `publish_prefix` does, but synchronously; not a checkpoint.

        Returns:
            the message's id, once the message was handed to each live watch that it touches.

        Raises:
            Exception: as `publish_nowait`.
        """
        return self._publish_now(
            [check_publication((prefix, data, True), self.max_message_size)], idempotency_key
        )[0]

    @enable_ki_protection
    def publish_many_nowait(
        self, messages: Iterable[Publication], *, idempotency_key: str | None = None
    ) -> list[str]:
        """Publish as `publish_many` does, but synchronously; not a checkpoint.

        Returns:
            the ids, in the order of the messages.

        Raises:
            Exception: as `publish_nowait`; what is wrong with one item refuses them all.
        """
        return self._publish_now(
            [check_publication(item, self.max_message_size) for item in messages], idempotency_key
        )

    async def publish(self, key: str, data: Data, *, idempotency_key: str | None = None) -> str:
        # As `_pass_turn`, without another coroutine.
        if self._turn:
            self._turn -= 1
            await checkpoint_if_cancelled()
        else:
            self._turn = _PUBLISHES_A_TURN - 1
            await checkpoint()
        if len(self._routes.get(key, _UNKNOWN)) <= STEP or (
            self._ready and len(self._watches) <= STEP
        ):
            return self.publish_nowait(key, data, idempotency_key=idempotency_key)
        checked = [check_publication((key, data), self.max_message_size)]
        return (await self._publish_in_steps(checked, idempotency_key))[0]

    async def publish_prefix(
        self, prefix: str, data: Data, *, idempotency_key: str | None = None
    ) -> str:
        await self._pass_turn()
        if self._ready and len(self._watches) <= STEP:
            return self.publish_prefix_nowait(prefix, data, idempotency_key=idempotency_key)
        checked = [check_publication((prefix, data, True), self.max_message_size)]
        return (await self._publish_in_steps(checked, idempotency_key))[0]

    async def publish_many(
        self, messages: Iterable[Publication], *, idempotency_key: str | None = None
    ) -> list[str]:
        await checkpoint()
        items = iter(messages)
        checked: list[tuple[str, bytes, bool]] = []
        while page := list(islice(items, _ITEMS_A_STEP)):
            checked += [check_publication(item, self.max_message_size) for item in page]
            if len(page) == _ITEMS_A_STEP:
                await checkpoint()
        return await self._publish_in_steps(checked, idempotency_key)

    async def latest(self, key: str) -> Message | None:
        check_key(key)
        await checkpoint()
        self._check_open()
        return self._values.latest(key)

    async def watched_keys(self, prefix: str = "") -> frozenset[str]:
        check_prefix(prefix)
        await checkpoint()
        self._check_open()
        return frozenset(self._dispatcher.keys.strings(prefix))

    @property
    def position(self) -> str:
        return self._journal.newest

    def statistics(self) -> BusStatistics:
        dispatcher = self._dispatcher
        return BusStatistics(
            connected=not self._closed,
            watches=len(dispatcher.watches),
            watched_keys=len(dispatcher.keys),
            watched_prefixes=len(dispatcher.prefixes),
            trie_nodes=dispatcher.keys.nodes + dispatcher.prefixes.nodes,
            journal_messages=len(dispatcher.journal),
            journal_bytes=dispatcher.journal.bytes,
            kept_keys=len(self._values),
            kept_bytes=self._values.bytes,
            kept_evicted=self._values.evicted,
            buffers_bytes=dispatcher.budget.held,
            buffers_reserved=dispatcher.budget.reserved,
            buffers_full=dispatcher.budget.met,
            routes_dropped=dispatcher.routes.met,
        )

    @enable_ki_protection
    def close(self) -> None:
        self._closed = True
        self._set_ready(ready=False)
        self._dispatcher.close()

    @enable_ki_protection
    async def aclose(self) -> None:
        await self._close_in_steps()
        await checkpoint()

    @enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the bus."""
        await self._close_in_steps()

    async def _close_in_steps(self) -> None:
        """Close, and tell many watches with checkpoints between; a cancel waits."""
        self._closed = True
        self._set_ready(ready=False)
        self._dispatcher.close(in_steps=True)
        if not self._delivering.locked():
            # Else whoever hands on goes on with that.
            self._delivering.acquire_nowait()
            try:
                await self._hand_on()
            finally:
                self._delivering.release()

    @enable_ki_protection
    async def open_watch(self, request: WatchRequest) -> BufferedWatch:
        await checkpoint()
        self._check_open()
        dispatcher = self._dispatcher
        if request.after is not None:
            dispatcher.check(request.after)
            while dispatcher.journal.make_indexes(request.after.sequence):
                await checkpoint()
            self._check_open()
        watch = dispatcher.register(request, request.after, in_steps=True)
        try:
            if request.history:
                await load_history(dispatcher, self._values, watch)
            while request.overflow == "latest" and watch.behind and dispatcher.prepare(watch):
                await checkpoint()
        except BaseException:
            watch.close()
            raise
        return watch

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this bus is closed")

    def _publish_now(
        self, messages: list[tuple[str, bytes, bool]], idempotency_key: str | None
    ) -> list[str]:
        """Publish checked messages in one run, and hand them on."""
        if not self._ready:
            self._dispatcher.finish()
            self._set_ready(ready=not self._closed)
        # A bus that is ready is open.
        if idempotency_key is not None or not self._ready or not messages:
            known = self._begin_call(len(messages), idempotency_key)
            if known is not None:
                return known
        if len(messages) == 1:
            [(key, data, is_prefix)] = messages
            return [self._accept_one(key, data, is_prefix=is_prefix)]
        ids = self._accept_all(messages)
        self._dispatcher.finish()
        return ids

    @enable_ki_protection
    async def _publish_in_steps(
        self, messages: list[tuple[str, bytes, bool]], idempotency_key: str | None
    ) -> list[str]:
        """Publish checked messages in one run, and hand them on with checkpoints between."""
        # Whoever came before hands on first.
        await self._delivering.acquire()
        try:
            ids = self._begin_call(len(messages), idempotency_key)
            if ids is None:
                ids = self._accept_all(messages)
                await self._hand_on()
        finally:
            self._delivering.release()
        return ids

    async def _hand_on(self) -> None:
        """Hand on what was accepted: a cancel waits, and an interrupt hands on the rest at once."""
        dispatcher = self._dispatcher
        try:
            if dispatcher.step():
                self._set_ready(ready=False)
                with trio.CancelScope(shield=True):
                    await checkpoint()
                    while dispatcher.step():
                        await checkpoint()
        finally:
            dispatcher.finish()
            self._set_ready(ready=not self._closed)

    def _set_ready(self, *, ready: bool) -> None:
        """Say whether a message can be handed on at once: open, and nothing is left to hand on."""
        self._ready = ready
        # Of a bus that is not ready no route is known: one look there says both.
        self._routes = self._known_routes if ready else {}

    def _begin_call(self, messages: int, idempotency_key: str | None) -> list[str] | None:
        """Return the ids of a call that was made before, or None for one that is to be made now."""
        if idempotency_key is not None:
            check_key(idempotency_key, "idempotency key")
        self._check_open()
        if not messages:
            return []
        if idempotency_key is not None:
            known = self._calls.get(idempotency_key)
            if known is not None:
                return [f"{self._id_start}{number}" for number in range(known[0], known[1] + 1)]
            first = self._journal.last + 1
            self._calls.remember(idempotency_key, first, first + messages - 1)
        return None

    def _accept_all(self, messages: list[tuple[str, bytes, bool]]) -> list[str]:
        """Number and keep checked messages in one run, to be handed on in steps."""
        first = self._journal.last + 1
        accepted = now()
        ids = [f"{self._id_start}{number}" for number in range(first, first + len(messages))]
        published = [
            Message(key, data, identifier, accepted, is_prefix)
            for (key, data, is_prefix), identifier in zip(messages, ids, strict=True)
        ]
        keep = self._keep
        for message in published:
            if not message.is_prefix:
                keep(message)
        self._dispatcher.accept_in_steps(published)
        return ids

    def _accept_one(self, key: str, data: bytes, *, is_prefix: bool) -> str:
        """Number and keep a checked message, and hand it on."""
        identifier = f"{self._id_start}{self._journal.last + 1}"
        message = Message(key, data, identifier, now(), is_prefix)
        if not is_prefix:
            self._keep(message)
        self._accept(message)
        return identifier

    async def _pass_turn(self) -> None:
        """Execute a cancellation point, and now and then a schedule point."""
        if self._turn:
            self._turn -= 1
            await checkpoint_if_cancelled()
        else:
            self._turn = _PUBLISHES_A_TURN - 1
            await checkpoint()
