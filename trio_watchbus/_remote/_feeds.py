"""The watches of a remote bus, over as many connections as it takes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, final

import trio
from trio.lowlevel import enable_ki_protection

from .. import _protocol as protocol
from .._core._watch import BufferedWatch
from .._errors import BusUnavailableError
from .._request import WatchRequest
from ._feed import Feed

if TYPE_CHECKING:
    from ._link import Link

FeedAnswer = (
    protocol.Watching | protocol.Bookmark | protocol.Messages | protocol.Lagged | protocol.Unwatched
)
"""What a server sends of an open watch."""

_TRANSIENT = {"unavailable", "failed"}
"""Error codes with which a server may refuse a watch now, and open it later."""


@final
class Feeds:
    """All open watches, and those that are being opened.

    Args:
        timeout: seconds within which the server must answer the request to open a watch, and send
            each part of its history.
        identifiers: numbers for watches, unique on all connections.
        ending: returns the error that is raised once the bus has ended.
    """

    def __init__(
        self, timeout: float, identifiers: count[int], ending: Callable[[], Exception | None]
    ) -> None:
        self._timeout = timeout
        self._identifiers = identifiers
        self._ending = ending
        self._feeds: dict[int, Feed] = {}
        self._link: Link | None = None
        self._max_request_size = 0

    def __len__(self) -> int:
        return len(self._feeds)

    def names(self) -> tuple[set[str], set[str]]:
        """Return the keys and the prefixes that are watched."""
        keys: set[str] = set()
        prefixes: set[str] = set()
        for feed in self._feeds.values():
            keys.update(feed.watch.request.keys)
            prefixes.update(feed.watch.request.prefixes)
        return keys, prefixes

    # Opening and closing a watch

    async def open(self, request: WatchRequest) -> BufferedWatch:
        """Open a watch; a cancel leaves nothing of it.

        Raises:
            ValueError: the server would refuse it.
            BusUnavailableError: there was no answer in time.
            Exception: what the server's bus raised, and what `ending` gives.
        """
        feed = Feed(next(self._identifiers), request, self._send, self._forget)
        try:
            self._feeds[feed.identifier] = feed
            await self._decide(feed)
        except BaseException:
            feed.watch.close()
            raise
        return feed.watch

    async def _decide(self, feed: Feed) -> None:
        """Return once the server has opened the watch; raise the reason if it does not."""
        history = feed.watch.request.history
        if history > protocol.MAX_HISTORY:
            raise ValueError(
                f"history is {history}, and a served bus gives at most {protocol.MAX_HISTORY}"
                " messages of each key"
            )
        opening = feed.opening()
        length = len(protocol.encode(opening))
        if length > self._max_request_size:
            raise ValueError(
                f"the keys and prefixes of this watch make a request of {length} characters, and"
                f" the server reads at most {self._max_request_size}: open several watches"
            )
        self._send(opening)
        heard = -1
        # A long history may take longer, as long as more of it comes.
        while feed.heard != heard and not feed.decided.is_set():
            heard = feed.heard
            with trio.move_on_after(self._timeout):
                await feed.decided.wait()
        ending = self._ending()
        if ending is not None:
            raise ending
        if feed.failure is not None:
            raise feed.failure
        if not feed.decided.is_set():
            raise BusUnavailableError(f"no answer within {self._timeout:g} seconds")

    def _send(self, request: protocol.Request) -> None:
        """Send `request`, if there is a connection: on a new one, every watch is opened again."""
        if self._link is not None:
            self._link.send(protocol.encode(request))

    def _forget(self, feed: Feed) -> None:
        if self._feeds.pop(feed.identifier, None) is not None and not feed.ended:
            self._send(protocol.Unwatch(feed.identifier))

    # The connection

    def connect(self, link: Link, max_request_size: int) -> None:
        """Open every watch on a new connection.

        Args:
            link: the connection.
            max_request_size: characters of a request that the server reads.
        """
        self._link = link
        self._max_request_size = max_request_size
        for feed in self._feeds.values():
            self._send(feed.opening())

    def disconnect(self) -> None:
        """Send nothing until there is a new connection."""
        self._link = None

    def end(self, failure: Exception | None) -> None:
        """End all watches, because of `failure` or because the bus was closed."""
        for feed in self._feeds.values():
            feed.end(failure)

    # What the server sends

    def take(self, answer: FeedAnswer) -> bool:
        """Hand an answer to its watch, if there still is one.

        Returns:
            whether it brought messages that a new connection does not have to bring again.

        Raises:
            MalformedFrameError: the answer makes no sense here.
        """
        feed = None if answer.id is None else self._feeds.get(answer.id)
        if feed is None:
            return False
        match answer:
            case protocol.Messages():
                is_open = feed.resume is not None
                feed.take_messages(answer)
                return is_open and bool(answer.messages)
            case protocol.Watching(position=position):
                feed.take_opening(position)
            case protocol.Bookmark(position=position):
                feed.take_position(position)
            case protocol.Lagged():
                feed.lose(answer.loss())
            case protocol.Unwatched():
                raise protocol.MalformedFrameError("the end of a watch that was not closed")
        return False

    def refuse(self, answer: protocol.Error) -> bool:
        """Take an error; return whether it is that of a watch.

        Raises:
            LinkError: the server cannot go on with an open watch now, but may do so later.
        """
        from ._link import LinkError  # noqa: PLC0415

        feed = None if answer.id is None else self._feeds.get(answer.id)
        if feed is None:
            return False
        error = protocol.error_of(answer)
        if feed.resume is not None and answer.code in _TRANSIENT:
            # After a pause, all watches are opened on a new connection.
            raise LinkError(str(error))
        self._abandon(feed, error)
        return True

    @enable_ki_protection
    def skip(self, identifier: int, position: str | None, reason: str) -> bool:
        """Treat what a frame carried as lost, in its watch alone.

        Args:
            identifier: that of the watch.
            position: where the watch is after the frame, if that is known.
            reason: why the frame was not read.

        Returns:
            whether there is such a watch.
        """
        feed = self._feeds.get(identifier)
        if feed is None:
            return False
        if feed.resume is None or position is None:
            self._abandon(feed, BusUnavailableError(reason))
            return True
        feed.skip_to(position)
        # The frame had an unknown number of messages, so the window is unknown too: open the watch
        # anew.
        self._send(protocol.Unwatch(feed.identifier))
        del self._feeds[feed.identifier]
        feed.identifier = next(self._identifiers)
        self._feeds[feed.identifier] = feed
        self._send(feed.opening())
        return True

    def _abandon(self, feed: Feed, error: Exception) -> None:
        """End a watch that another connection would not open either."""
        del self._feeds[feed.identifier]
        feed.end(error)
