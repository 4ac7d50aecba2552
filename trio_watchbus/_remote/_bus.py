"""A bus that a server serves over the network."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from functools import partial
from itertools import count
from secrets import token_hex
from typing import TYPE_CHECKING, final

import trio
from trio.lowlevel import checkpoint, checkpoint_if_cancelled, enable_ki_protection

from .. import _protocol as protocol
from .._backoff import Backoff
from .._core._watch import BufferedWatch
from .._errors import BusUnavailableError, MessageTooLargeError, broken_by
from .._keys import check_key, check_prefix
from .._message import MAX_MESSAGE_SIZE, Message, Position, check_data, check_publication
from .._request import WatchRequest
from .._statistics import RemoteBusStatistics
from ..abc import Data, Publication, WatchBus
from ._calls import Calls
from ._feed import parse_position
from ._feeds import Feeds
from ._state import TRANSITIONS, Event, State

if TYPE_CHECKING:
    from ._link import Link, LinkOptions

_log = logging.getLogger("trio_watchbus.remote")

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 3.0
"""Seconds between attempts to connect: clients are back soon after a restart, and a thousand of
them do not overload the server."""


@final
class RemoteWatchBus(WatchBus):
    """A bus that a server serves over the network. Made by `open_remote_watchbus`.

    `max_message_size` is the server's.

    Attributes:
        max_batch_messages: the server's limit for messages in one batch.
    """

    def __init__(self, options: LinkOptions, timeout: float) -> None:
        self.max_message_size: int = MAX_MESSAGE_SIZE
        self.max_batch_messages: int = 0
        # Characters of a frame that publishes, as the server allows.
        self._max_frame_size = 0
        self._options = options
        self._identifiers = count(1)
        self._feeds = Feeds(timeout, self._identifiers, self._ending)
        self._calls = Calls(timeout, self._ending)
        self._state = State.OPENING
        self._link: Link | None = None
        self._position: Position | None = None
        self._connected_since: float | None = None
        self._connections = 0
        # Whether something new came over this connection.
        self._progressed = False
        self._failure: Exception | None = None
        self._body = trio.CancelScope()
        self._disconnected = trio.Event()

    def __repr__(self) -> str:
        state = self._state.name.lower()
        if self._state is State.CONNECTED:
            state = f"{len(self._feeds)} watches"
        return f"<RemoteWatchBus {self._options.address} at {self.position}: {state}>"

    async def publish(self, key: str, data: Data, *, idempotency_key: str | None = None) -> str:
        check_key(key)
        return await self._publish(key, data, idempotency_key, is_prefix=False)

    async def publish_prefix(
        self, prefix: str, data: Data, *, idempotency_key: str | None = None
    ) -> str:
        check_prefix(prefix)
        return await self._publish(prefix, data, idempotency_key, is_prefix=True)

    async def publish_many(
        self, messages: Iterable[Publication], *, idempotency_key: str | None = None
    ) -> list[str]:
        """As in `WatchBus`; one that the server cannot read at once is a `MessageTooLargeError`."""
        batch = [check_publication(item, self.max_message_size) for item in messages]
        key = _key_of_publish(idempotency_key)
        if not batch:
            await checkpoint()
            self._check_open()
            return []
        identifier = next(self._identifiers)
        publications = tuple(
            protocol.Publication(**protocol.publication_fields(*item)) for item in batch
        )
        frame = protocol.encode(protocol.PublishMany(identifier, publications, key))
        if len(frame) > self._max_frame_size:
            raise MessageTooLargeError(
                f"this batch has {len(frame)} characters as it is sent, and the server takes at"
                f" most {self._max_frame_size} at once: publish it in parts"
            )
        answer = await self._calls.ask(identifier, frame, protocol.Published, key, len(batch))
        return list(answer.ids())

    async def latest(self, key: str) -> Message | None:
        check_key(key)
        identifier = next(self._identifiers)
        frame = protocol.encode(protocol.Latest(identifier, key))
        answer = await self._calls.ask(identifier, frame, protocol.LatestMessage)
        if answer.message is None:
            return None
        message = answer.message.message()
        if message is None:
            raise BusUnavailableError(
                f"the newest message of {key!r} is in an encoding that this version does not know"
            )
        return message

    async def watched_keys(self, prefix: str = "") -> frozenset[str]:
        check_prefix(prefix)
        identifier = next(self._identifiers)
        frame = protocol.encode(protocol.WatchedKeys(identifier, prefix))
        answer = await self._calls.ask(identifier, frame, protocol.WatchedKeySet)
        return frozenset(answer.keys)

    @property
    def position(self) -> str:
        return str(self._position)

    def statistics(self) -> RemoteBusStatistics:
        keys, prefixes = self._feeds.names()
        return RemoteBusStatistics(
            connected=self._state is State.CONNECTED,
            watches=len(self._feeds),
            watched_keys=len(keys),
            watched_prefixes=len(prefixes),
            trie_nodes=0,
            journal_messages=0,
            journal_bytes=0,
            kept_keys=0,
            connected_since=self._connected_since,
            reconnects=max(0, self._connections - 1),
        )

    @enable_ki_protection
    def close(self) -> None:
        self._end(None)

    # The connection

    # Background tasks are protected: an interrupt is for the task that has the bus open.
    @enable_ki_protection
    async def _run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Stay connected until the bus is closed, or fails for good.

        Raises:
            BusUnavailableError: the first connection could not be made.
        """
        from ._link import Link, LinkError  # noqa: PLC0415

        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while not self._state.ended:
            link = Link(self._options)
            began = trio.current_time()
            try:
                greet = partial(self._connect, link, task_status)
                await link.run(greet, self._take, self._skip)
            except LinkError as error:
                address = self._options.address
                reason = BusUnavailableError(f"cannot use the bus at {address}: {error}")
                if self._state is State.OPENING:
                    raise reason from None
                if error.permanent:
                    self._end(reason)
                elif self._state is State.CONNECTED:
                    _log.warning("lost the connection to %s: %s", address, error)
                else:
                    _log.debug("no connection to %s: %s", address, error)
            except Exception as error:
                self._end(error)
                raise
            finally:
                self._disconnect()
            if self._progressed or trio.current_time() - began > _LONGEST_PAUSE:
                backoff.reset()
            if not self._state.ended:
                await backoff.pause()

    @enable_ki_protection
    def _connect(
        self, link: Link, task_status: trio.TaskStatus[None], hello: protocol.Hello
    ) -> None:
        self._note(hello.position)
        self._take_limits(hello)
        opening = self._state is State.OPENING
        self._move(Event.CONNECT)
        self._link = link
        self._connected_since = time.time()
        self._connections += 1
        self._progressed = False
        self._disconnected = trio.Event()
        if opening:
            task_status.started()
        else:
            _log.info("connected to %s again", self._options.address)
        self._feeds.connect(link, hello.max_request_size)
        self._calls.connect(link)
        if self._state is State.CLOSING:
            link.close()

    def _take_limits(self, hello: protocol.Hello) -> None:
        if hello.max_message_size > self._options.max_frame_size:
            _log.warning(
                "%s allows messages of %d bytes; those longer than this client's max_frame_size,"
                " %d, will be lost here",
                self._options.address,
                hello.max_message_size,
                self._options.max_frame_size,
            )
        self.max_message_size = hello.max_message_size
        self.max_batch_messages = hello.max_batch_messages
        self._max_frame_size = hello.max_frame_size

    @enable_ki_protection
    def _disconnect(self) -> None:
        self._move(Event.DISCONNECT)
        self._link = None
        self._connected_since = None
        self._feeds.disconnect()
        self._calls.disconnect()
        self._disconnected.set()

    @enable_ki_protection
    def _take(self, answer: protocol.Answer) -> None:
        """Handle an answer of the server."""
        match answer:
            case (
                protocol.Messages() | protocol.Watching() | protocol.Bookmark() | protocol.Lagged()
            ):
                self._note(answer.position)
                self._progressed |= self._feeds.take(answer)
            case protocol.Unwatched():
                self._feeds.take(answer)
            case protocol.Error():
                if not self._feeds.refuse(answer):
                    self._progressed |= self._calls.take(answer)
            case protocol.Published():
                if answer.ids():
                    self._note(answer.ids()[-1])
                self._progressed |= self._calls.take(answer)
            case protocol.LatestMessage():
                if answer.message is not None:
                    parse_position(answer.message.id)
                self._progressed |= self._calls.take(answer)
            case protocol.WatchedKeySet():
                self._progressed |= self._calls.take(answer)

    @enable_ki_protection
    def _skip(self, frame: protocol.SkippedFrame) -> None:
        """Handle a frame that was not read: a loss or an error, in its watch or call alone."""
        address = self._options.address
        _log.warning("%s: %s", address, frame.reason)
        if frame.id is None:
            # The next connection would bring it again.
            self._end(
                BusUnavailableError(
                    f"cannot use the bus at {address}: {frame.reason}; it does not begin with op"
                    " and id, so it is unknown which watch or request it was for"
                )
            )
        elif not self._feeds.skip(frame.id, frame.position, frame.reason):
            self._calls.fail(frame.id, frame.reason)

    def _note(self, position: str) -> None:
        """Remember the newest position of the bus."""
        known = self._position
        new = parse_position(position)
        if known is None or known.epoch != new.epoch or known.sequence < new.sequence:
            self._position = new

    def _move(self, event: Event) -> None:
        self._state = TRANSITIONS[self._state][event]

    # Opening and ending

    def _end(self, failure: Exception | None) -> None:
        """Close the bus, or let it fail."""
        if self._state.ended:
            return
        self._move(Event.CLOSE if failure is None else Event.FAIL)
        self._failure = failure
        self._feeds.end(failure)
        self._calls.end()
        if self._link is not None:
            self._link.close()
        if failure is not None:
            self._body.cancel()

    def _ending(self) -> Exception | None:
        """Return what calls raise once the bus has ended, or None while it has not."""
        if self._failure is not None:
            return broken_by(self._failure)
        return trio.ClosedResourceError("this bus is closed") if self._state.ended else None

    def _check_open(self) -> None:
        ending = self._ending()
        if ending is not None:
            raise ending

    async def _leave(self) -> None:
        """Close the bus, and wait until its connection is closed."""
        self.close()
        if self._state is State.CLOSING:
            await self._disconnected.wait()

    # Publishing

    async def _publish(
        self, name: str, data: object, idempotency_key: str | None, *, is_prefix: bool
    ) -> str:
        fields = protocol.publication_fields(
            name, check_data(data, self.max_message_size), is_prefix
        )
        key = _key_of_publish(idempotency_key)
        identifier = next(self._identifiers)
        request = protocol.Publish(id=identifier, idempotency_key=key, **fields)
        frame = protocol.encode(request)
        answer = await self._calls.ask(identifier, frame, protocol.Published, key)
        return answer.ids()[0]

    # Watching

    async def open_watch(self, request: WatchRequest) -> BufferedWatch:
        await checkpoint_if_cancelled()
        self._check_open()
        return await self._feeds.open(request)


def _key_of_publish(idempotency_key: str | None) -> str:
    """Return the idempotency key of a publish, which may have to be sent twice."""
    if idempotency_key is None:
        return token_hex(16)
    return check_key(idempotency_key, "idempotency key")
