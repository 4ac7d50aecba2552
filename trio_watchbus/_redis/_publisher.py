"""Publishing: concurrent publishes share a call of the script."""

from __future__ import annotations

from collections.abc import Callable
from secrets import token_hex
from typing import Any, NamedTuple

from .._errors import BusUnavailableError, PublishUnknownError
from .._message import Position
from ._backend_errors import RefusedError
from ._layout import Command, Names
from ._pipeline import Pipeline, Waiting
from ._worker import Worker

_REMEMBERED_SECONDS = 3600
"""How long an idempotency key is remembered: longer than anyone who retries goes on."""

BYTES_A_WEIGHT = 4096
"""Bytes of data that weigh as much as a message: a batch has up to 1,000 messages or 4 MB, which
Redis stores in some milliseconds, in which it does nothing else."""


class Publishing(NamedTuple):
    """What one caller publishes.

    Attributes:
        messages: keys or prefixes, data, and whether it is a prefix.
        idempotency_key: its name for it, or None.
    """

    messages: list[tuple[str, bytes, bool]]
    idempotency_key: str | None


class Publisher(Pipeline[Publishing, list[str]]):
    """Stores each publish once, although Redis may answer late, twice or never.

    It makes one call at a time, numbers its calls, and sends a call again under its number until
    it is answered. Redis remembers the newest number and its answer, and so answers a call that
    was done without doing it again, and does nothing for one that was given up and comes late,
    from a socket that the server had not read yet. One small entry for each process does this,
    where an idempotency key for each message would take hundreds of megabytes at a high rate.

    Before the first call on a new connection it vouches for the log, as the reader does.

    Who was told that the fate of a publish is unknown was also told a key under which it can be
    published again. What became of the call is still in Redis as long as no further one was made;
    the next call says that it was given up, and has that kept under these keys.

    Attributes:
        stored: the position of the newest message of this process that was stored, or None. The
            script sees by it whether history was rewritten since.
    """

    def __init__(
        self,
        worker: Worker,
        timeout: float,
        *,
        names: Names,
        process: str,
        vouching: Callable[[], Command],
    ) -> None:
        super().__init__(worker, timeout)
        self._vouching = vouching
        self._call = 0
        self._arguments: list[bytes | str | int] = []
        self._name = ""
        self.stored: Position | None = None
        # Whether somebody was told a key for what the call under way may have stored, and for what
        # an earlier one may have.
        self._told = False
        self._unsettled = False
        self._process = process
        self._names = names
        # A retry must find what it retries.
        self._lasting = int(max(_REMEMBERED_SECONDS, 10 * timeout) * 1000)

    async def connect(self) -> None:
        """Connect, and vouch for the log before anything is stored on the new connection."""
        await super().connect()
        [reply] = await self._worker.exchange(self._vouching())
        if isinstance(reply, RefusedError):
            # So that the next attempt begins with this too.
            self._worker.link.disconnect()
            raise reply

    def compose(self, requests: list[Publishing], *, again: bool) -> list[Command]:
        if not again:
            self._call += 1
            self._name = token_hex(6)
            self._unsettled |= self._told
            self._told = False
            arguments: list[bytes | str | int] = [
                self._name,
                self._process,
                self._call,
                str(self.stored or ""),
                int(self._unsettled),
                self._lasting,
            ]
            for messages, idempotency_key in requests:
                arguments += (idempotency_key or "", len(messages))
                for key, data, is_prefix in messages:
                    arguments += ("p" if is_prefix else "k", key, data)
            self._arguments = arguments
        # Redis may have lost what an earlier attempt stored, and number something else alike.
        return [self._names.script("publish", token_hex(4), *self._arguments)]

    def read(self, requests: list[Publishing], replies: list[Any]) -> list[list[str] | Exception]:
        [reply] = replies
        if isinstance(reply, RefusedError):
            raise reply
        self._unsettled = False
        line, _, newest = reply.decode().partition("\n")
        words = line.split()
        if newest:
            self.stored = Position.parse(newest)
        if len(words) != len(requests):
            # Somebody published one of them again, under the key for that, before this was done.
            given_up = BusUnavailableError("this publish was given up; it was not stored")
            return [given_up] * len(requests)
        # Nearly all are ids as they stand.
        return [_ids(word) if "*" in word or "!" in word else [word] for word in words]

    def unanswered(self, waiting: Waiting[Publishing, list[str]], error: Exception) -> Exception:
        if not self.may_be_done or not waiting.place:
            return error
        key = waiting.request.idempotency_key
        if key is None:
            key = f"unanswered.{self._process}.{self._name}.{waiting.place}"
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
    prefix, _, number = first.rpartition("-")
    return [f"{prefix}-{int(number) + i}" for i in range(int(count))]
