"""What Redis still has of the past, for watches that begin there."""

from __future__ import annotations

from itertools import islice

from .._errors import HistoryLostError
from .._message import Message, Position
from .._request import WatchRequest
from ._layout import Facts, Names, read_log, read_names, read_stream
from ._mirror import Mirror
from ._queries import Queries

_PAGE = 500
"""Entries or names that are asked for at once: a trip for each would take ten times as long, and
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
        # As many as Redis counts.
        most = min(request.history, 2**31)
        streams_a_page = max(1, _PAGE // most)
        for at in range(0, len(keys), streams_a_page):
            page = list(islice(keys, at, at + streams_a_page))
            streams = await self._queries.ask(
                [("XREVRANGE", self._names.stream(key), "+", "-", "COUNT", most) for key in page],
                len(page),
            )
            for key, entries in zip(page, streams, strict=True):
                found += read_stream(key, entries)
        numbered = [(Position.parse(message.id).sequence, message) for message in found]
        return [
            message
            for number, message in sorted(numbered, key=lambda item: item[0])
            # What is newer comes from the journal.
            if number <= newest
        ]

    async def _kept_keys(self, prefix: str) -> list[str]:
        """Return the keys under `prefix` of which messages are kept."""
        found: list[str] = []
        start, end = b"[" + prefix.encode(), b"(" + prefix.encode() + b"\xff"
        while True:
            [page] = await self._queries.ask(
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

        Args:
            request: what matches.
            after: a position that is older than what `mirror` holds.
            facts: what is so in Redis.
            mirror: the core, which goes on meanwhile.

        Raises:
            HistoryLostError: they are not all in the log.
        """
        _check(after, facts, mirror)
        found: list[Message] = []
        number = after.sequence
        while number < mirror.oldest.sequence:
            entries, then = await self._queries.ask(
                [
                    ("XRANGE", self._names.log, f"{number + 1}-0", "+", "COUNT", _PAGE),
                    ("HMGET", self._names.meta, "epoch", "start", "seq"),
                ]
            )
            if not all(then):
                raise HistoryLostError("epoch", str(mirror.oldest))
            # Asked for after the entries, so that these are of its epoch.
            _check(after, Facts.read(*then), mirror)
            runs = read_log(entries, after.epoch).runs
            if not runs or runs[0][0] != number + 1:
                oldest = Position(after.epoch, runs[0][0] - 1) if runs else mirror.oldest
                raise HistoryLostError("trimmed", str(oldest))
            # What comes after the journal's newest comes from there, once it is.
            messages = runs[0][1][: mirror.journal.last - number]
            found += request.select(messages)
            number += len(messages)
        return found, Position(after.epoch, number)


def _check(after: Position, facts: Facts, mirror: Mirror) -> None:
    """Raise `HistoryLostError` if `after` is of another history than `facts` are."""
    if not after.epoch == facts.epoch == mirror.epoch:
        raise HistoryLostError("epoch", str(mirror.oldest))
    if after.sequence < facts.start:
        raise HistoryLostError("trimmed", str(Position(facts.epoch, facts.start)))
