"""Counts, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchStatistics:
    """What one watch holds now, and what it lost.

    Attributes:
        state: ``"synced"``, fed as messages come in; ``"behind"``, catching up from the journal.
        buffered: messages in its buffer.
        unread: matching messages, beyond its buffer, that it has yet to read from the journal.
        dropped: messages that its overflow kind dropped since it was opened.
    """

    state: Literal["synced", "behind"]
    buffered: int
    unread: int
    dropped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BusStatistics:
    """What a bus holds in this process now.

    Attributes:
        connected: whether the bus reaches its backend; always true in memory.
        watches: open watches.
        watched_keys: different keys that they name.
        watched_prefixes: different prefixes that they name.
        trie_nodes: nodes that hold those keys and prefixes; 0 when nothing is watched.
        journal_messages: messages in the journal.
        journal_bytes: bytes of their data and characters of their keys.
        kept_keys: keys of which the newest messages are kept.
    """

    connected: bool
    watches: int
    watched_keys: int
    watched_prefixes: int
    trie_nodes: int
    journal_messages: int
    journal_bytes: int
    kept_keys: int
