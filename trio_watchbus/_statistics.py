"""Counts, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchStatistics:
    """What one watch holds now, and what it lost.

    Attributes:
        state: ``"synced"``, fed as messages come in; ``"behind"``, catching up from the journal;
            ``"ended"``, its bus has closed or failed, and nothing follows what is in the buffer;
            ``"closed"``, by its consumer.
        buffered: messages in its buffer.
        unread: matching messages, beyond its buffer, that it has yet to read from the journal.
        dropped: messages that its overflow kind dropped since it was opened.
    """

    state: Literal["synced", "behind", "ended", "closed"]
    buffered: int
    unread: int
    dropped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BusStatistics:
    """What a bus holds in this process now.

    Attributes:
        connected: whether the bus reaches its backend; in memory, whether it is open.
        watches: open watches.
        watched_keys: different keys that they name.
        watched_prefixes: different prefixes that they name.
        trie_nodes: nodes that hold those keys and prefixes; 0 when nothing is watched.
        journal_messages: messages in the journal.
        journal_bytes: bytes of their data and characters of their keys.
        kept_keys: keys of which the newest messages are kept.
        kept_bytes: bytes of data and characters of keys of those messages.
        kept_evicted: keys that were given up since, as there was no room for all.
        buffers_bytes: bytes in the buffers of watches, with what is set aside for more.
        buffers_reserved: how many of those are set aside for messages of at most 1 KiB, 1.5 KiB
            each, whether or not they have come. A watch keeps that until another needs it.
        buffers_full: how often a watch fell behind or dropped a message as the bytes in its
            buffer, or in all, reached their bound.
        routes_dropped: how often the routes remembered reached their bound and were dropped.
    """

    connected: bool
    watches: int
    watched_keys: int
    watched_prefixes: int
    trie_nodes: int
    journal_messages: int
    journal_bytes: int
    kept_keys: int
    kept_bytes: int = 0
    kept_evicted: int = 0
    buffers_bytes: int = 0
    buffers_reserved: int = 0
    buffers_full: int = 0
    routes_dropped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisBusStatistics(BusStatistics):
    """What a bus over Redis holds in this process now, and how it is connected.

    What it keeps of each key is in Redis, so that `kept_keys` is 0.

    Attributes:
        connected_since: when the reader last connected, in seconds since 1970, UTC; None while it
            is not connected.
        reconnects: how often the reader has connected again since the bus was opened.
        behind: messages that Redis is known to have and that were not handed on to the watches yet,
            as of the last read; 0 while nobody watches, when nothing is read.
        skipped_entries: entries in the log that were none of a bus's, and were passed over.
    """

    connected_since: float | None
    reconnects: int
    behind: int
    skipped_entries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteBusStatistics(BusStatistics):
    """What a remote bus holds in this process now, and how it is connected.

    What is kept is at the server: of journal, keys and trie there is nothing here.

    Attributes:
        connected_since: when it last connected, in seconds since 1970, UTC; None while it is not
            connected.
        reconnects: how often it has connected again since it was opened.
    """

    connected_since: float | None
    reconnects: int
