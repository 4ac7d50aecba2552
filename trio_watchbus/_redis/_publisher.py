"""Publishing: concurrent publishes share a call of the script."""

from __future__ import annotations

from secrets import token_hex
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from .._errors import BusUnavailableError, PublishUnknownError
from .._message import Position
from .._retention import Retention
from ._layout import Command, Names
from ._line import Job, Line
from ._trouble import RefusedError

if TYPE_CHECKING:
    from ._connection import Link

_REMEMBERED_SECONDS = 3600
"""How long an idempotency key is remembered: longer than anyone who retries goes on."""

BYTES_A_WEIGHT = 4096
"""Bytes of data that weigh as much as a message: a group has up to 1,000 messages or 4 MB, which
Redis stores in some milliseconds, in which it does nothing else."""


class Publishing(NamedTuple):
    """What one caller publishes.

    Attributes:
        messages: keys or prefixes, data, and whether it is a prefix.
        idempotency_key: its name for it, or None.
    """

    messages: list[tuple[str, bytes, bool]]
    idempotency_key: str | None


class Publisher(Line[Publishing, list[str]]):
    """Stores each publish once, although Redis may answer late, twice or never.

    It makes one call at a time, numbers its calls, and sends a call again under its number until
    it is answered. Redis remembers the newest number and its answer, and so answers a call that
    was done without doing it again, and does nothing for one that was given up and comes late,
    from a socket that the server had not read yet. One small entry for each process does this,
    where an idempotency key for each message would take hundreds of megabytes at a high rate.

    Who was told that the fate of a publish is unknown was also told a key under which it can be
    published again. What became of the call is still in Redis as long as no further one was made;
    the next call says that it was given up, and has that kept under these keys.

    Attributes:
        stored: the position of the newest message of this process that was stored.
        receipt: what the script gave for it; it sees by that if history was rewritten since.
    """

    def __init__(
        self,
        link: Link,
        limiter: trio.CapacityLimiter,
        timeout: float,
        *,
        names: Names,
        retention: Retention,
        process: str,
    ) -> None:
        super().__init__(link, limiter, timeout)
        self._call = 0
        self._command: Command = ()
        self._name = ""
        self.stored = Position("", 0)
        self.receipt = b""
        # Whether somebody was told a key for what the call under way may have stored, and for what
        # an earlier one may have.
        self._told = False
        self._unsettled = False
        self._process = process
        self._names = names
        kept = retention.filled()
        self._settings = (
            kept.per_key if kept.keys else 0,
            kept.keys,
            kept.messages,
            kept.bytes,
            int((kept.seconds or 0) * 1000),
            # A retry must find what it retries.
            int(max(_REMEMBERED_SECONDS, 10 * timeout) * 1000),
        )

    def begin(self) -> None:
        self._call += 1
        self._name = token_hex(6)
        self._unsettled |= self._told
        self._told = False

    def compose(self, asks: list[Publishing], *, again: bool) -> list[Command]:
        if not again:
            command: list[bytes | str | int] = [
                *self._names.script("publish", self._name, self._process),
                self._call,
                self.receipt,
                int(self._unsettled),
                *self._settings,
            ]
            for messages, idempotency_key in asks:
                command += (idempotency_key or "", len(messages))
                for key, data, is_prefix in messages:
                    command += ("p" if is_prefix else "k", key, data)
            self._command = command
        return [self._command]

    def read(self, asks: list[Publishing], replies: list[Any]) -> list[list[str] | Exception]:
        [reply] = replies
        if isinstance(reply, RefusedError):
            raise reply
        self._unsettled = False
        line, _, receipt = reply.partition(b"\n")
        words = line.decode().split()
        if receipt:
            self.receipt = receipt
            self.stored = Position.parse(receipt.partition(b" ")[0].decode())
        if len(words) != len(asks):
            # Somebody published one of them again, under the key for that, before this was done.
            return [BusUnavailableError("this publish was given up; it was not stored")] * len(asks)
        # Nearly all are ids as they stand.
        return [_ids(word) if "*" in word or "!" in word else [word] for word in words]

    def unanswered(self, job: Job[Publishing, list[str]], error: Exception) -> Exception:
        if not self.sent or not job.place:
            return error
        key = job.ask.idempotency_key
        if key is None:
            key = f"unanswered.{self._process}.{self._name}.{job.place}"
            self._told = True
        unknown = PublishUnknownError(
            f"{error}; it may have been stored, or not", idempotency_key=key
        )
        unknown.__cause__ = error
        return unknown


def _ids(word: str) -> list[str] | Exception:
    """Return the ids that a word of the script's answer stands for."""
    if word.startswith("!"):
        return BusUnavailableError(
            f"Redis refused: {word[1:]}: what it has of one of the keys, or of the idempotency key,"
            " is something else; delete it"
        )
    first, _, count = word.partition("*")
    epoch, _, number = first.rpartition("-")
    return [f"{epoch}-{int(number) + i}" for i in range(int(count))]
