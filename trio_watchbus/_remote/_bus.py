"""The bus that is served elsewhere."""

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
from .._errors import (
    BusUnavailableError,
    MessageTooLargeError,
    broken_by,
)
from .._keys import check_key, check_prefix
from .._message import MAX_MESSAGE_SIZE, Message, Position, check_data, check_publication
from .._request import WatchRequest
from .._statistics import RemoteBusStatistics
from ..abc import Data, Publication, WatchBus
from ._calls import Calls
from ._feed import Feed, parse_position

if TYPE_CHECKING:
    from ._link import Link, LinkOptions

_log = logging.getLogger("trio_watchbus.remote")

_TRANSIENT = {"unavailable", "failed"}
"""Error codes with which a server may refuse a watch now, and open it later."""

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 3.0
"""Seconds between attempts to connect: soon back after a restart, yet a thousand clients do not
overload the server."""


@final
class RemoteWatchBus(WatchBus):
    """A bus that is served elsewhere. Made by `open_remote_watchbus`.

    `max_message_size` is the server's.

    Attributes:
        max_batch_messages: messages that one batch may have, as the server says.
    """

    def __init__(self, options: LinkOptions, timeout: float) -> None:
        self.max_message_size: int = MAX_MESSAGE_SIZE
        self.max_batch_messages: int = 0
        self._max_frame_size = self._max_request_size = 0
        self._options = options
        self._timeout = timeout
        self._identifiers = count(1)
        self._feeds: dict[int, Feed] = {}
        self._calls = Calls(timeout, self._ending)
        self._link: Link | None = None
        self._position: Position | None = None
        self._connected_since: float | None = None
        self._connections = 0
        # Whether a connection brought anything that the one before did not.
        self._progressed = False
        self._closed = False
        self._failure: Exception | None = None
        self._body = trio.CancelScope()
        self._disconnected = trio.Event()

    def __repr__(self) -> str:
        state = (
            "failed"
            if self._failure is not None
            else "closed"
            if self._closed
            else "disconnected"
            if self._link is None
            else f"{len(self._feeds)} watches"
        )
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
        key = _name_of_publish(idempotency_key)
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
        keys: set[str] = set()
        prefixes: set[str] = set()
        for feed in self._feeds.values():
            keys.update(feed.watch.request.keys)
            prefixes.update(feed.watch.request.prefixes)
        return RemoteBusStatistics(
            connected=not self._closed and self._link is not None,
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
        while not self._closed:
            link = Link(self._options)
            began = trio.current_time()
            try:
                greet = partial(self._connect, link, task_status)
                await link.run(greet, self._take, self._skip)
            except LinkError as error:
                address = self._options.address
                reason = BusUnavailableError(f"cannot use the bus at {address}: {error}")
                if not self._connections:
                    raise reason from None
                if error.permanent:
                    self._end(reason)
                elif self._link is not None and not self._closed:
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
                self._progressed = False
            if not self._closed:
                await backoff.pause()

    @enable_ki_protection
    def _connect(
        self, link: Link, task_status: trio.TaskStatus[None], hello: protocol.Hello
    ) -> None:
        self._note(hello.position)
        self.max_message_size = hello.max_message_size
        if hello.max_message_size > self._options.max_frame_size:
            _log.warning(
                "%s allows messages of %d bytes; this client tells those as lost that are longer"
                " than max_frame_size, %d",
                self._options.address,
                hello.max_message_size,
                self._options.max_frame_size,
            )
        self._max_frame_size = hello.max_frame_size
        self._max_request_size = hello.max_request_size
        self.max_batch_messages = hello.max_batch_messages
        self._link = link
        self._connected_since = time.time()
        self._connections += 1
        if self._connections == 1:
            task_status.started()
        else:
            _log.info("connected to %s again", self._options.address)
        for feed in self._feeds.values():
            self._send(feed.opening())
        self._calls.connect(link)
        if self._closed:
            link.close()

    @enable_ki_protection
    def _disconnect(self) -> None:
        self._link = None
        self._connected_since = None
        self._calls.disconnect()
        self._disconnected.set()

    def _send(self, request: protocol.Request) -> None:
        """Send `request`, if there is a connection; on a new one, feeds say all anew."""
        if self._link is not None:
            self._link.send(protocol.encode(request))

    @enable_ki_protection
    def _take(self, answer: protocol.Answer) -> None:
        """Handle an answer of the server."""
        match answer:
            case protocol.Watching(id=identifier, position=position):
                self._note(position)
                if identifier in self._feeds:
                    self._feeds[identifier].take_opening(position)
            case protocol.Bookmark(id=identifier, position=position):
                self._note(position)
                if identifier in self._feeds:
                    self._feeds[identifier].take_position(position)
            case protocol.Messages(id=identifier):
                self._note(answer.position)
                if identifier in self._feeds:
                    self._feeds[identifier].take_messages(answer)
                    self._progressed = True
            case protocol.Lagged(id=identifier):
                self._note(answer.position)
                if identifier in self._feeds:
                    self._feeds[identifier].lose(answer.loss())
            case protocol.Error(id=identifier) if identifier in self._feeds:
                self._take_refusal(self._feeds[identifier], answer)
            case protocol.Unwatched(id=identifier) if identifier in self._feeds:
                raise protocol.MalformedFrameError("the end of a watch that was not closed")
            case protocol.Published():
                self._progressed = True
                if answer.ids():
                    self._note(answer.ids()[-1])
                self._calls.take(answer)
            case protocol.LatestMessage(message=protocol.WireMessage(id=position)):
                self._progressed = True
                parse_position(position)
                self._calls.take(answer)
            case protocol.LatestMessage() | protocol.WatchedKeySet() | protocol.Error():
                self._progressed = True
                self._calls.take(answer)

    @enable_ki_protection
    def _skip(self, frame: protocol.SkippedFrame) -> None:
        """Handle a frame that was too long to be read: a loss, or an error, for its watch alone."""
        reason = (
            f"the server sent a frame of {frame.length} characters, and max_frame_size is"
            f" {self._options.max_frame_size}: open the bus with a larger one"
        )
        _log.warning("%s: %s", self._options.address, reason)
        if frame.id is None:
            return
        feed = self._feeds.get(frame.id)
        if feed is None:
            self._calls.fail(frame.id, reason)
        elif feed.resume is None or frame.position is None:
            self._abandon(feed, BusUnavailableError(reason))
        else:
            feed.skip_to(frame.position)
            self._progressed = True
            # How many messages were in it, and so how many more the server may send, is unknown.
            self._send(protocol.Unwatch(feed.identifier))
            del self._feeds[feed.identifier]
            feed.identifier = next(self._identifiers)
            self._feeds[feed.identifier] = feed
            self._send(feed.opening())

    def _take_refusal(self, feed: Feed, answer: protocol.Error) -> None:
        """End a watch that the server does not open, or not again."""
        from ._link import LinkError  # noqa: PLC0415

        error = protocol.error_of(answer)
        if feed.resume is not None and answer.code in _TRANSIENT:
            # Connect anew, after a pause, and ask for all watches again.
            raise LinkError(str(error))
        self._abandon(feed, error)

    def _abandon(self, feed: Feed, error: Exception) -> None:
        """End a watch that no other connection would open either."""
        del self._feeds[feed.identifier]
        feed.end(error)

    def _note(self, position: str) -> None:
        """Remember the newest position of the bus."""
        known = self._position
        told = parse_position(position)
        if known is None or known.epoch != told.epoch or known.sequence < told.sequence:
            self._position = told

    # Opening and ending

    def _end(self, failure: Exception | None) -> None:
        if self._closed:
            return
        self._closed = True
        self._failure = failure
        for feed in self._feeds.values():
            feed.end(failure)
        self._calls.end()
        if self._link is not None:
            self._link.close()
        if failure is not None:
            self._body.cancel()

    def _ending(self) -> Exception | None:
        """Return what is raised once the bus has ended, or None while it has not."""
        if self._failure is not None:
            return broken_by(self._failure)
        return trio.ClosedResourceError("this bus is closed") if self._closed else None

    def _check_open(self) -> None:
        ending = self._ending()
        if ending is not None:
            raise ending

    async def _leave(self) -> None:
        """Wait until the connection is closed in good order, if there is one."""
        self.close()
        if self._link is not None:
            self._disconnected = trio.Event()
            await self._disconnected.wait()

    # Publishing

    async def _publish(
        self, name: str, data: object, idempotency_key: str | None, *, is_prefix: bool
    ) -> str:
        fields = protocol.publication_fields(
            name, check_data(data, self.max_message_size), is_prefix
        )
        key = _name_of_publish(idempotency_key)
        identifier = next(self._identifiers)
        request = protocol.Publish(id=identifier, idempotency_key=key, **fields)
        frame = protocol.encode(request)
        answer = await self._calls.ask(identifier, frame, protocol.Published, key)
        return answer.ids()[0]

    # Watching

    async def open_watch(self, request: WatchRequest) -> BufferedWatch:
        await checkpoint_if_cancelled()
        self._check_open()
        feed = Feed(next(self._identifiers), request, self._send, self._forget)
        try:
            self._feeds[feed.identifier] = feed
            await self._decide(feed)
        except BaseException:
            feed.watch.close()
            raise
        return feed.watch

    async def _decide(self, feed: Feed) -> None:
        """Return once the server has opened the watch; raise why it does not."""
        history = feed.watch.request.history
        if history > protocol.MAX_HISTORY:
            raise ValueError(
                f"a served bus gives at most {protocol.MAX_HISTORY} messages of each key as"
                f" history, not {history}"
            )
        opening = feed.opening()
        length = len(protocol.encode(opening))
        if length > self._max_request_size:
            raise ValueError(
                f"the names of this watch make a request of {length} characters, and the server"
                f" reads at most {self._max_request_size}: open several watches"
            )
        self._send(opening)
        heard = -1
        # A long history may take longer, as long as more of it comes.
        while feed.heard != heard and not feed.decided.is_set():
            heard = feed.heard
            with trio.move_on_after(self._timeout):
                await feed.decided.wait()
        self._check_open()
        if feed.failure is not None:
            raise feed.failure
        if not feed.decided.is_set():
            raise BusUnavailableError(f"no answer within {self._timeout:g} seconds")

    def _forget(self, feed: Feed) -> None:
        if self._feeds.pop(feed.identifier, None) is not None and not feed.ended:
            self._send(protocol.Unwatch(feed.identifier))


def _name_of_publish(idempotency_key: str | None) -> str:
    """Return a name for a publish, as it may have to be sent twice."""
    if idempotency_key is None:
        return token_hex(16)
    return check_key(idempotency_key, "idempotency key")
