"""The interface of every bus and every watch. What it promises is written here, once.

The promises, for all buses alike:

1. Once ``async with bus.watch(...)`` has been entered, every matching message accepted from then
   on is received, or its loss is raised. None accepted before is, unless `after` or `history`
   asked for it.
2. There is one order for all: every watch sees messages of increasing position, each at most once.
3. Resuming is exact or refused: `after` gives every matching message that follows, or raises
   `HistoryLostError`; never only a part of them.
4. However the ``async with`` is left, even by cancellation, nothing of the watch remains. Closing
   is synchronous and cannot fail.
5. A slow watcher delays nobody, and holds bounded memory.
6. A publish that returned is never silently undone by this library; one whose fate is unknown
   raises `PublishUnknownError`. Retries under one idempotency key store it once.
7. A bus that loses its backend reconnects and goes on without loss, or says what was lost; a
   failure that cannot heal ends its watches with `trio.BrokenResourceError`, and is raised where
   the bus was opened.
8. Every async function is a cancellation point on every call, and yields to the scheduler at
   least once per 64 messages received (a batch counts as one call). Cancelling one has no half
   effect.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import NoReturn, Self, TypedDict, Unpack, final

import trio

from ._errors import check_trio_runs
from ._message import Message
from ._request import Overflow, WatchRequest
from ._statistics import BusStatistics, WatchStatistics

__all__ = ["Data", "Overflow", "Publication", "Watch", "WatchBus", "WatchOptions", "WatchRequest"]

# Tracebacks and reprs show the name that users import.
WatchRequest.__module__ = __name__

Data = bytes | bytearray | memoryview
"""What may be published; anything but bytes is copied."""

Publication = tuple[str, Data] | tuple[str, Data, bool]
"""One item of a batch, ``(key, data)``, or ``(prefix, data, True)`` for one sent to a prefix."""


class WatchOptions(TypedDict, total=False):
    """How a watch starts, and what it does when its consumer is slow.

    Attributes:
        after: a position (a message's ``id``, or a ``position``): first everything after it.
        history: first up to this many of the newest kept messages of each matching key, oldest
            first; 0 unless given. The bus's retention says how many are kept, one unless told.
            Not together with `after`.
        buffer_size: messages that may wait in the watch's own buffer, at least 1; 1024 unless
            given. Buffers are limited in bytes as well: 16 MiB for one watch and 256 MiB for all
            watches of a bus by default. Beyond that, a watch reads from the journal or drops.
        overflow: what happens when that buffer is full. ``"replay"``, the default, drops nothing:
            the watch falls behind and catches up from the bus's journal as its consumer drains;
            only what has left the journal by then is lost, and raises `WatchLaggedError` once.
            ``"latest"`` keeps the newest message of each key (of at most as many keys as the bus
            keeps). ``"drop_oldest"`` and ``"drop_newest"`` drop, and count in ``statistics()``.
    """

    after: str | None
    history: int
    buffer_size: int
    overflow: Overflow


class Watch(trio.abc.ReceiveChannel[Message]):
    """The receiving end of a watch: a channel of messages, in order.

    ``async for`` over it receives until the bus closes. One task receives at a time. Losing
    messages raises `WatchLaggedError` from whichever of the receiving functions comes to that
    place; the watch stays open, and receiving again goes on after the loss.
    """

    __slots__ = ()

    @abstractmethod
    async def receive(self) -> Message:
        """Return the next message, waiting for it if there is none.

        A cancel loses nothing: the message is received by the next call.

        Raises:
            WatchLaggedError: messages were lost at this place in the order.
            trio.ClosedResourceError: this watch is closed.
            trio.EndOfChannel: the bus was closed, and everything before that was received.
            trio.BrokenResourceError: the bus failed for good; ``__cause__`` says why.
            trio.BusyResourceError: another task is waiting in a receiving function of this watch.
        """

    @abstractmethod
    def receive_nowait(self) -> Message:
        """Return the next message if there is one; not a checkpoint.

        Raises:
            trio.WouldBlock: there is none now.
            Exception: otherwise as `receive`.
        """

    @abstractmethod
    async def receive_batch(self, max_messages: int | None = None) -> list[Message]:
        """Return all messages that wait in the buffer, waiting until there is at least one.

        Yields to the scheduler on every call. A cancel loses nothing.

        Args:
            max_messages: return at most so many, at least 1; None for no such limit.

        Raises:
            TypeError: `max_messages` is not an ``int``.
            ValueError: it is less than 1.
            Exception: otherwise as `receive`. Messages from before a loss are returned first.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop watching, at once and for good; never fails. Closing again does nothing.

        What waited is discarded; `position` tells where to resume. A task that waits in a
        receiving function gets `trio.ClosedResourceError`.
        """

    @trio.lowlevel.enable_ki_protection
    async def aclose(self) -> None:
        """Close as `close` does, then execute a checkpoint; a cancel leaves it closed."""
        self.close()
        await trio.lowlevel.checkpoint()

    @property
    @abstractmethod
    def position(self) -> str:
        """Where to resume from. Passed as `after`, it gives exactly what was not received yet.

        Advances with each message received, and past messages that do not match. Still there
        after closing. While messages of the history wait, it is before the oldest of them: they
        stand apart in the order, so that resuming there may give more than the history had, or
        be refused.
        """

    @abstractmethod
    def statistics(self) -> WatchStatistics:
        """Return what this watch holds now, and what it lost."""


class WatchBus(ABC):
    """Carries messages from publishers to whoever watches the key.

    An async context manager: leaving it closes the bus, which ends every watch once its consumer
    has received what was accepted before.
    """

    max_message_size: int
    """Bytes of data that one message may have."""

    def watch(self, key: str, **how: Unpack[WatchOptions]) -> AbstractAsyncContextManager[Watch]:
        """Watch one key: ``async with bus.watch("orders/42") as watch: ...``.

        Args:
            key: 1 to 512 bytes as UTF-8, without control characters.
            **how: see `WatchOptions`.

        Raises:
            InvalidKeyError: `key` is not a valid key.
            InvalidPositionError: `after` is not a position.
            TypeError: an argument is of the wrong type, or there is no such option.
            ValueError: an option is out of range.
            HistoryLostError: on entering: `after` cannot be resumed from exactly.
            BusUnavailableError: on entering: the backend did not answer, or the watches' buffers
                have no room for the history.
            trio.ClosedResourceError: on entering: the bus is closed.
            trio.BrokenResourceError: on entering: the bus failed for good; ``__cause__`` says why.

        A cancel while entering leaves no watch; later, leaving closes it.
        """
        return self.watch_any([key], **how)

    def subscribe_prefix(
        self, prefix: str, **how: Unpack[WatchOptions]
    ) -> AbstractAsyncContextManager[Watch]:
        """Watch every key that starts with `prefix`; the empty prefix covers every key.

        Arguments, errors and cancelling otherwise as `watch`.
        """
        return self.watch_any((), [prefix], **how)

    def watch_any(
        self,
        keys: Iterable[str] = (),
        prefixes: Iterable[str] = (),
        **how: Unpack[WatchOptions],
    ) -> AbstractAsyncContextManager[Watch]:
        """Watch the union of some keys and prefixes: each message once, in order.

        At least one key or prefix is needed. Arguments, errors and cancelling otherwise as `watch`.
        """
        for name in how.keys() - WatchOptions.__annotations__.keys():
            raise TypeError(
                f"watch() takes no option {name!r}; its options are"
                f" {', '.join(WatchOptions.__annotations__)}"
            )
        return _Opening(self, WatchRequest(keys, prefixes, **how))

    @abstractmethod
    async def open_watch(self, request: WatchRequest) -> Watch:
        """Register a watch and return it: what a bus of your own has to implement.

        Users call `watch`, `subscribe_prefix` or `watch_any` instead, which close it on leaving.

        Args:
            request: what the watch covers, and how: checked already.

        Errors as `watch` raises them on entering. A cancel leaves no watch.
        """

    @abstractmethod
    async def publish(self, key: str, data: Data, *, idempotency_key: str | None = None) -> str:
        """Publish one message to `key`, and return its id once it is accepted.

        Accepted means, in memory, handed to each live watch; on Redis, stored. Never waits for a
        watcher.

        Args:
            key: 1 to 512 bytes as UTF-8, without control characters.
            data: at most `max_message_size` bytes; a bytearray or memoryview is copied.
            idempotency_key: a name for this publish, of the form of a key: a second publish with
                the same one does nothing and returns the first one's id. Remembered for a bounded
                number of publishes or time.

        Raises:
            InvalidKeyError: `key` or `idempotency_key` is not a valid key.
            MessageTooLargeError: `data` is too long.
            TypeError: an argument is of the wrong type.
            BusUnavailableError: the backend did not take it; nothing was stored.
            PublishUnknownError: the backend may have taken it.
            trio.ClosedResourceError: the bus is closed.
            trio.BrokenResourceError: the bus failed for good; ``__cause__`` says why.

        A cancel either comes before it is accepted, or leaves it accepted whole.
        """

    @abstractmethod
    async def publish_prefix(
        self, prefix: str, data: Data, *, idempotency_key: str | None = None
    ) -> str:
        """Publish one message to every key under `prefix`: each watch that it touches gets it once.

        It reaches watches on keys that start with `prefix`, and on prefixes that share a key with
        it. Arguments, errors and cancelling otherwise as `publish`.
        """

    @abstractmethod
    async def publish_many(
        self, messages: Iterable[Publication], *, idempotency_key: str | None = None
    ) -> list[str]:
        """Publish a batch: one contiguous run of the order, all or nothing; return the ids.

        Args:
            messages: ``(key, data)`` pairs, or ``(prefix, data, True)`` for one to a prefix. An
                empty batch does nothing and returns ``[]``.
            idempotency_key: a name for the batch as a whole, as in `publish`.

        Errors and cancelling as `publish`; what is wrong with one item refuses them all.
        """

    @abstractmethod
    async def latest(self, key: str) -> Message | None:
        """Return the newest kept message that was published to `key`, or None.

        A cancel leaves nothing: asking changes nothing.

        Args:
            key: 1 to 512 bytes as UTF-8, without control characters.

        Returns:
            the message; None where none of that key is kept.

        Raises:
            InvalidKeyError: `key` is not a valid key.
            TypeError: `key` is not a ``str``.
            BusUnavailableError: the backend cannot be asked.
            trio.ClosedResourceError: the bus is closed.
            trio.BrokenResourceError: the bus failed for good; ``__cause__`` says why.
        """

    @abstractmethod
    async def watched_keys(self, prefix: str = "") -> frozenset[str]:
        """Return the keys under `prefix` that someone watches now, by their names.

        Keys that are only covered by a watched prefix are not among them. Over Redis, and
        remote, the watches of all processes count. Errors and cancelling as `latest`.

        Args:
            prefix: what the keys start with; empty for all of them.
        """

    @property
    @abstractmethod
    def position(self) -> str:
        """Where the bus is, as far as this process knows. That is its newest message's position."""

    @abstractmethod
    def statistics(self) -> BusStatistics:
        """Return what this bus holds in this process now."""

    @abstractmethod
    def close(self) -> None:
        """Close the bus; closing again does nothing.

        Watches still give what was accepted before, and then `trio.EndOfChannel`.
        """

    @trio.lowlevel.enable_ki_protection
    async def aclose(self) -> None:
        """Close as `close` does, then execute a checkpoint; a cancel leaves it closed."""
        self.close()
        await trio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        """Return the bus itself."""
        check_trio_runs()
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the bus."""
        self.close()


_HOW_TO_ENTER = "enter it first, as in: async with bus.watch(...) as watch"


@final
class _Opening(AbstractAsyncContextManager[Watch, None]):
    """A watch that is opened on entering and closed on leaving.

    A class, as a generator would stay alive, at half a kilobyte, for as long as the watch.
    """

    __slots__ = ("_bus", "_request", "_watch")

    def __init__(self, bus: WatchBus, request: WatchRequest) -> None:
        self._bus = bus
        self._request = request
        self._watch: Watch | None = None

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"no watch yet, and so no {name!r}: {_HOW_TO_ENTER}")

    def __aiter__(self) -> NoReturn:
        raise TypeError(_HOW_TO_ENTER)

    __await__ = __aiter__

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Watch:
        check_trio_runs()
        if self._watch is not None:
            raise RuntimeError("this watch was entered already; call watch() again for another")
        self._watch = await self._bus.open_watch(self._request)
        return self._watch

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._watch is not None:
            self._watch.close()
