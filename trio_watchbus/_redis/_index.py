"""Who watches which keys, told to Redis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import trio

from .._errors import BusUnavailableError
from ._layout import Command, Facts, Names
from ._line import Line
from ._trouble import BusyError, HopelessError, RefusedError, refusal

if TYPE_CHECKING:
    from ._connection import Link

LEASE_SECONDS = 20
"""How long Redis believes that a process is there which says nothing: what a killed process
watched leaves the index when this and another process's pause are over, so within 25 s."""

_BEAT_SECONDS = 5


class Index(Line[None, Facts]):
    """Keeps in Redis the set of the keys that this process watches, and with it everyone's.

    An ask brings Redis up to date, and is answered with the facts of the same moment.
    """

    def __init__(
        self,
        link: Link,
        limiter: trio.CapacityLimiter,
        timeout: float,
        *,
        names: Names,
        process: str,
    ) -> None:
        super().__init__(link, limiter, timeout)
        self._names = names
        self._process = process
        # Watches of each key, those that are being opened included.
        self._watches: Counter[str] = Counter()
        self._noted: set[str] = set()
        self._changed: set[str] = set()
        # Whether Redis is to be told everything, as it may know something else.
        self._doubtful = True
        self._stir = trio.Event()

    async def enter(self, keys: Collection[str]) -> Facts:
        """Note one more watch of `keys`, and return the facts once Redis knows.

        A cancel or an error leaves it as it was.
        """
        for key in keys:
            self._watches[key] += 1
            self._changed.add(key)
        try:
            return await self.ask(None)
        except BaseException:
            self.leave(keys)
            raise

    def leave(self, keys: Collection[str]) -> None:
        """Note one watch less of `keys`; Redis is told soon."""
        for key in keys:
            if self._watches[key] > 1:
                self._watches[key] -= 1
            else:
                del self._watches[key]
            self._changed.add(key)
        self._stir.set()

    @property
    def up_to_date(self) -> bool:
        """Whether Redis was told all changes."""
        return not self._changed and not self._doubtful

    async def keep(self) -> None:
        """Tell Redis of watches that were left, and renew the lease, until cancelled."""
        while True:
            self._stir = trio.Event()
            if not self._changed:
                with trio.move_on_after(_BEAT_SECONDS):
                    await self._stir.wait()
            try:
                await self.ask(None)
            except BusUnavailableError:
                await trio.sleep(1)

    async def say_farewell(self) -> None:
        """Tell Redis, for a closed bus, that this process watches nothing any more."""
        self._watches.clear()
        self._doubtful = True
        await self._wait_for(None, 1)

    def compose(self, asks: list[None], *, again: bool) -> list[Command]:  # noqa: ARG002
        return [trio.from_thread.run_sync(self._news)]

    def _news(self) -> Command:
        if self._doubtful:
            noted: str | int = "all"
            added, removed = list(self._watches), []
        else:
            noted = len(self._noted)
            added = [key for key in self._changed if key in self._watches]
            removed = [key for key in self._changed if key not in self._watches]
        self._changed.clear()
        # Until the answer says otherwise.
        self._doubtful = True
        self._telling = added, removed, noted == "all"
        lease = LEASE_SECONDS * 1000
        settings = (token_hex(6), self._process, lease, noted, len(added))
        return self._names.script("index", *settings, *added, *removed)

    def read(self, asks: list[None], replies: list[Any]) -> list[Facts]:
        [reply] = replies
        if isinstance(reply, RefusedError):
            raise reply
        *facts, outcome = reply
        if outcome == b"unknown":
            raise BusyError("Redis no longer knows what this process watches")
        if outcome == b"done":
            added, removed, everything = self._telling
            if everything:
                self._noted.clear()
            self._noted.update(added)
            self._noted.difference_update(removed)
            self._doubtful = False
        else:
            # It cannot be noted, for want of memory say: no reason not to watch.
            problem = refusal(outcome.decode())
            if isinstance(problem, HopelessError):
                raise problem
        return [Facts.read(*facts)] * len(asks)
