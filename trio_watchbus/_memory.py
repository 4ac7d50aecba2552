"""The embedded bus: everything in this process's memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from secrets import token_hex
from time import time as now
from typing import final

import trio
from trio.lowlevel import checkpoint, checkpoint_if_cancelled, enable_ki_protection

from ._core._dispatcher import Dispatcher
from ._core._journal import KeyHistory
from ._core._watch import BufferedWatch
from ._keys import check_key, check_prefix
from ._message import MAX_MESSAGE_SIZE, Message, Position, check_data, check_publication
from ._request import WatchRequest
from ._retention import Retention, check_retention
from ._statistics import BusStatistics
from .abc import Publication, WatchBus

_PUBLISHES_A_TURN = 64
"""Publishes before a task that awaits them lets others run: as many as watches receive."""

_IDEMPOTENCY_KEYS = 100_000
"""Idempotency keys remembered: minutes of retries at a high rate, in about 20 MB."""


@final
class InMemoryWatchBus(WatchBus):
    """A bus in this process's memory.

    Usable at once; as an async context manager it is closed on leaving. It belongs to one Trio
    run: from other threads, call it through `trio.from_thread`.

    Args:
        retention: how much of the past it keeps.
        max_message_size: bytes of data that one message may have, at least 1.

    The order of messages is that of the calls. Messages are lost with the process, and the epoch
    is new with each bus, so that a position from before a restart is refused instead of resumed
    wrongly.
    """

    def __init__(
        self, *, retention: Retention | None = None, max_message_size: int = MAX_MESSAGE_SIZE
    ) -> None:
        if max_message_size < 1:
            raise ValueError(f"max_message_size must be at least 1, not {max_message_size}")
        self.max_message_size = max_message_size
        retention = check_retention(retention)
        # 48 bits: no two epochs that one client could meet are the same.
        self._dispatcher = Dispatcher(Position(token_hex(6), 0), retention)
        self._journal = self._dispatcher.journal
        self._routes = self._dispatcher.routes
        self._accept = self._dispatcher.accept
        self._id_start = f"{self._dispatcher.epoch}-"
        self._history = KeyHistory(retention)
        self._keep = self._history.append
        # The first and last sequence number that each idempotency key got.
        self._published: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._closed = False
        self._turn = _PUBLISHES_A_TURN

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._dispatcher.watches)} watches"
        return f"<InMemoryWatchBus at {self.position}: {state}>"

    @enable_ki_protection
    def publish_nowait(self, key: str, data: bytes, *, idempotency_key: str | None = None) -> str:
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
        if key not in self._routes or self._closed or idempotency_key is not None:
            checked = [check_publication((key, data), self.max_message_size)]
            return self._publish_all(checked, idempotency_key)[0]
        if type(data) is not bytes or len(data) > self.max_message_size:
            data = check_data(data, self.max_message_size)
        identifier = f"{self._id_start}{self._journal.last + 1}"
        message = Message(key, data, identifier, now())
        self._keep(message)
        self._accept(message)
        return identifier

    @enable_ki_protection
    def publish_prefix_nowait(
        self, prefix: str, data: bytes, *, idempotency_key: str | None = None
    ) -> str:
        """Publish as `publish_prefix` does, but synchronously; not a checkpoint.

        Returns:
            the message's id, once the message was handed to each live watch that it touches.

        Raises:
            Exception: as `publish_nowait`.
        """
        return self._publish_all(
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
        return self._publish_all(
            [check_publication(item, self.max_message_size) for item in messages], idempotency_key
        )

    async def publish(self, key: str, data: bytes, *, idempotency_key: str | None = None) -> str:
        await self._pass_turn()
        return self.publish_nowait(key, data, idempotency_key=idempotency_key)

    async def publish_prefix(
        self, prefix: str, data: bytes, *, idempotency_key: str | None = None
    ) -> str:
        await self._pass_turn()
        return self.publish_prefix_nowait(prefix, data, idempotency_key=idempotency_key)

    async def publish_many(
        self, messages: Iterable[Publication], *, idempotency_key: str | None = None
    ) -> list[str]:
        await checkpoint()
        return self.publish_many_nowait(messages, idempotency_key=idempotency_key)

    async def latest(self, key: str) -> Message | None:
        check_key(key)
        await checkpoint()
        self._check_open()
        return self._history.latest(key)

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
            kept_keys=len(self._history),
        )

    @enable_ki_protection
    def close(self) -> None:
        self._closed = True
        self._dispatcher.close()

    @enable_ki_protection
    async def open_watch(self, request: WatchRequest) -> BufferedWatch:
        await checkpoint()
        self._check_open()
        return self._register(request)

    def _register(self, request: WatchRequest) -> BufferedWatch:
        watch = self._dispatcher.register(request, request.after)
        if request.history:
            history = self._history.select(request)
            if history:
                watch.load_history(history, self._dispatcher.before(history[0]))
        return watch

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this bus is closed")

    def _publish_all(
        self, messages: list[tuple[str, bytes, bool]], idempotency_key: str | None
    ) -> list[str]:
        """Publish checked messages in one run, or find that it was done before."""
        if idempotency_key is not None:
            check_key(idempotency_key, "idempotency key")
        self._check_open()
        if not messages:
            return []
        first = self._journal.last + 1
        last = self._journal.last + len(messages)
        if idempotency_key is not None:
            if idempotency_key in self._published:
                first, last = self._published[idempotency_key]
                messages = []
            else:
                self._published[idempotency_key] = (first, last)
                if len(self._published) > _IDEMPOTENCY_KEYS:
                    self._published.popitem(last=False)
        accepted = now()
        ids = [f"{self._id_start}{sequence}" for sequence in range(first, last + 1)]
        for (key, data, is_prefix), identifier in zip(messages, ids, strict=False):
            message = Message(key, data, identifier, accepted, is_prefix)
            if not is_prefix:
                self._keep(message)
            self._accept(message)
        return ids

    async def _pass_turn(self) -> None:
        """Execute a cancellation point, and now and then a schedule point."""
        if self._turn:
            self._turn -= 1
            await checkpoint_if_cancelled()
        else:
            self._turn = _PUBLISHES_A_TURN - 1
            await checkpoint()
