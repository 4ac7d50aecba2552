"""Reads what Redis still has of the past, for watches that begin there."""

from __future__ import annotations

from itertools import islice

from .._errors import HistoryLostError
from .._message import Message, Position
from .._request import WatchRequest
from ._layout import Command, Facts, Names, number_of, read_log, read_names, read_stream
from ._mirror import Mirror
from ._paging import PageSize
from ._queries import Queries

_PAGE = 500
"""Entries or names in one request at most: one request for each would take ten times as long, and
the answer to more would hold others up."""


class Past:
    """Reads the keys' streams and the log, a page at a time."""

    def __init__(self, queries: Queries, names: Names) -> None:
        self._queries = queries
        self._names = names

    async def history(self, request: WatchRequest, newest: int) -> list[Message]:
        """Return the newest messages, up to number `newest`, of each key that `request` covers."""
        keys = dict.fromkeys(request.keys)
        for prefix in request.prefixes:
            keys.update(dict.fromkeys(await self._kept_keys(prefix)))
        found: list[Message] = []
        page_size = PageSize(_PAGE)
        at = 0
        while at < len(keys):
            count = max(1, page_size.entries // request.history)
            page = list(islice(keys, at, at + count))
            at += len(page)
            if count == 1:
                found += await self._history_of(page[0], request.history, page_size)
            else:
                found += await self._newest_of(page, request.history, page_size)
        numbered = [(Position.parse(message.id).sequence, message) for message in found]
        return [
            message
            for number, message in sorted(numbered, key=lambda item: item[0])
            # What is newer comes from the journal.
            if number <= newest
        ]

    async def _newest_of(self, keys: list[str], history: int, page_size: PageSize) -> list[Message]:
        """Return the newest `history` messages of each key, in one request."""
        streams = await self._queries.request(
            [self._backwards(key, "+", history) for key in keys], len(keys)
        )
        found: list[Message] = []
        for key, entries in zip(keys, streams, strict=True):
            found += read_stream(key, entries)
        page_size.came(len(found), sum(len(message.data) for message in found))
        return found

    async def _history_of(self, key: str, history: int, page_size: PageSize) -> list[Message]:
        """Return the newest `history` messages of one key, in as many requests as that takes."""
        found: list[Message] = []
        end = "+"
        while history:
            count = min(history, page_size.entries)
            [entries] = await self._queries.request([self._backwards(key, end, count)])
            messages = read_stream(key, entries)
            found += messages
            page_size.came(len(entries), sum(len(message.data) for message in messages))
            if len(entries) < count:
                break
            history -= count
            end = f"({number_of(entries[-1][0])}-0"
        return found

    def _backwards(self, key: str, end: str, count: int) -> Command:
        return ("XREVRANGE", self._names.stream(key), end, "-", "COUNT", count)

    async def _kept_keys(self, prefix: str) -> list[str]:
        """Return the keys under `prefix` of which messages are kept."""
        found: list[str] = []
        start, end = b"[" + prefix.encode(), b"(" + prefix.encode() + b"\xff"
        while True:
            [page] = await self._queries.request(
                [("ZRANGEBYLEX", self._names.keys, start, end, "LIMIT", 0, _PAGE)]
            )
            found += read_names(page)
            if len(page) < _PAGE:
                return found
            start = b"(" + page[-1]

    async def older(
        self, request: WatchRequest, after: Position, facts: Facts, mirror: Mirror
    ) -> tuple[list[Message], Position]:
        """Return the matching messages after `after`, up to a position that `mirror` holds.

        Each message in the log names the one before it, so what is returned goes on exactly from
        the message at `after`.

        Args:
            request: what matches.
            after: a position that is older than what `mirror` holds.
            facts: the facts in Redis.
            mirror: the core, which goes on meanwhile.

        Raises:
            HistoryLostError: they are not all in the log, or `after` is in another history.
        """
        _check(after, facts, mirror)
        last = after
        found: list[Message] = []
        page_size = PageSize(_PAGE)
        # Into the middle of what the mirror holds, as it drops its oldest messages meanwhile.
        while 2 * last.sequence < mirror.oldest.sequence + mirror.journal.last:
            entries, then = await self._queries.request(
                [
                    (
                        *("XRANGE", self._names.log, f"{last.sequence + 1}-0", "+"),
                        *("COUNT", page_size.entries),
                    ),
                    ("HMGET", self._names.facts, "epoch", "start", "seq", "tail"),
                ]
            )
            if not all(value is not None for value in then):
                raise HistoryLostError("epoch", str(mirror.oldest))
            # Requested after the entries, so that these are of its epoch.
            _check(after, Facts.read(*then), mirror)
            runs = read_log(entries, after.epoch).runs
            if not runs or runs[0].before.sequence != last.sequence:
                raise HistoryLostError("trimmed", str(runs[0].before if runs else mirror.oldest))
            if runs[0].before != last:
                raise HistoryLostError("epoch", str(mirror.oldest))
            # What comes after the journal's newest comes from there, once it is.
            messages = runs[0].messages[: mirror.journal.last - last.sequence]
            found += request.select(messages)
            page_size.came(len(messages), sum(len(message.data) for message in messages))
            last = Position.parse(messages[-1].id)
        return found, last


def _check(after: Position, facts: Facts, mirror: Mirror) -> None:
    """Raise `HistoryLostError` if `after` is of another history than `facts` are."""
    if not after.epoch == facts.epoch == mirror.epoch:
        raise HistoryLostError("epoch", str(mirror.oldest))
    if after.sequence < facts.start.sequence:
        raise HistoryLostError("trimmed", str(facts.start))
