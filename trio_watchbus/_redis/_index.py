"""Who watches which keys, told to Redis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from itertools import islice
from secrets import token_hex
from typing import Any

import trio
from trio.lowlevel import enable_ki_protection

from .._errors import BusUnavailableError
from ._backend_errors import BusyError, PermanentError, RefusedError, UnfinishedError, refusal
from ._layout import Command, Facts, Names
from ._pipeline import Pipeline
from ._worker import Worker

LEASE_SECONDS = 20
"""How long Redis believes that a process is there which says nothing: what a killed process
watched leaves the index when this and another process's pause are over, so within 25 s."""

_BEAT_SECONDS = 5

_KEYS_A_CALL = 500
"""Keys in one call: Redis does nothing else for some milliseconds."""

_SWEEP_PAUSE = 0.01
"""Seconds between calls while there is more to sweep away, so that others get their turns."""


class Index(Pipeline[None, Facts]):
    """Keeps in Redis the set of the keys that this process watches, and with it everyone's.

    A request brings Redis up to date, in as many calls as that takes, and is answered with the
    facts of the last one. A call that is sent again changes nothing. If Redis lost something of
    what it was told, it is told everything again under another name, and what it was told under
    the old one is swept away.
    """

    def __init__(
        self,
        worker: Worker,
        timeout: float,
        *,
        names: Names,
    ) -> None:
        super().__init__(worker, timeout)
        self._names = names
        # Watches of each key, those that are being opened included.
        self._watches: Counter[str] = Counter()
        self._noted: set[str] = set()
        # What Redis is to be told, in this order; keys are there until it has answered.
        self._changed: dict[str, None] = {}
        # Keys added and removed by the newest call.
        self._telling: tuple[list[str], list[str]] = ([], [])
        # The name under which it tells all that it watches, and the generation of the index.
        self._name = token_hex(8)
        self._generation = ""
        # The name and generation that it told under before, until Redis knows of that.
        self._abandoned = ""
        # Whether something of processes that are gone is left in Redis.
        self._sweeping = False
        self._stir = trio.Event()

    @enable_ki_protection
    async def enter(self, keys: Collection[str]) -> Facts:
        """Note one more watch of `keys`, and return the facts once Redis knows.

        A cancel or an error leaves it as it was.
        """
        for key in keys:
            self._watches[key] += 1
            self._changed[key] = None
        try:
            return await self.request(None)
        except BaseException:
            self.leave(keys)
            raise

    @enable_ki_protection
    def leave(self, keys: Collection[str]) -> None:
        """Note one watch less of `keys`; Redis is told soon."""
        for key in keys:
            if self._watches[key] > 1:
                self._watches[key] -= 1
            else:
                del self._watches[key]
            self._changed[key] = None
        self._stir.set()

    @property
    def up_to_date(self) -> bool:
        """Whether Redis was told all changes."""
        return not self._changed

    async def keep(self) -> None:
        """Tell Redis of watches that were left, and renew the lease, until cancelled."""
        while True:
            self._stir = trio.Event()
            if not self._changed:
                with trio.move_on_after(_SWEEP_PAUSE if self._sweeping else _BEAT_SECONDS):
                    await self._stir.wait()
            try:
                await self.request(None)
            except BusUnavailableError:
                await trio.sleep(1)

    async def say_farewell(self) -> None:
        """Tell Redis, for a closed bus, that this process watches nothing any more."""
        self._changed.update(dict.fromkeys(self._watches))
        self._watches.clear()
        await self._wait_for(None, 1)

    def compose(self, requests: list[None], *, again: bool) -> list[Command]:  # noqa: ARG002
        # Those of a call that was not answered are in the next one too, as Redis may know of them
        # or not; they are the first ones.
        telling = list(islice(self._changed, _KEYS_A_CALL))
        added = [key for key in telling if key in self._watches]
        removed = [key for key in telling if key not in self._watches]
        self._telling = added, removed
        noted = self._noted
        size = len(noted) + sum(key not in noted for key in added)
        size -= sum(key in noted for key in removed)
        lease = LEASE_SECONDS * 1000
        settings = (token_hex(6), self._name, self._generation, lease, self._abandoned, size)
        return [self._names.script("index", *settings, len(added), *added, *removed)]

    def read(self, requests: list[None], replies: list[Any]) -> list[Facts]:
        [reply] = replies
        if isinstance(reply, RefusedError):
            raise reply
        *facts, generation, outcome = reply
        if outcome == b"unknown":
            self._tell_all_again()
            raise BusyError("Redis no longer knows what this process watches")
        if outcome in (b"done", b"more"):
            self._generation = generation.decode()
            self._abandoned = ""
            self._sweeping = outcome == b"more"
            self._note_told()
            if self._changed:
                raise UnfinishedError
        else:
            # It cannot be noted, for want of memory say: no reason not to watch.
            problem = refusal(outcome.decode())
            if isinstance(problem, PermanentError):
                raise problem
        return [Facts.read(*facts)] * len(requests)

    def _note_told(self) -> None:
        added, removed = self._telling
        self._noted.update(added)
        self._noted.difference_update(removed)
        for key in (*added, *removed):
            # Otherwise it changed while the call was under way.
            if (key in self._watches) == (key in self._noted):
                self._changed.pop(key, None)

    def _tell_all_again(self) -> None:
        self._abandoned = f"{self._generation}.{self._name}"
        self._name = token_hex(8)
        self._generation = ""
        self._noted.clear()
        self._changed = dict.fromkeys(self._watches)
