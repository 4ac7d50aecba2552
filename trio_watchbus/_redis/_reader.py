"""Mirrors the log into the core: one reader for each bus."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio
from trio.lowlevel import checkpoint

from .._backoff import Backoff
from .._core._dispatcher import Dispatcher
from .._core._routes import STEP
from .._message import Message, Position
from .._retention import Retention
from ._backend_errors import BackendError, PermanentError, RefusedError
from ._layout import Command, Facts, Names, Page, Run
from ._paging import PageSize
from ._pipeline import PAUSES
from ._reading import ask, ask_facts, probe, read_page
from ._settings import Settings

if TYPE_CHECKING:
    from ._connection import Link

_log = logging.getLogger("trio_watchbus.redis")

D = TypeVar("D", bound=Dispatcher)

_QUIET_SECONDS = 0.5
"""How long Redis lets a read wait, and how long the reader rests. After that the reader checks that
the log is the one it knows, so a flush is noticed within this time."""

_PAGE_ENTRIES = 2000
"""Entries in one read at most: some milliseconds of parsing, in which no other thread runs."""

_MESSAGES_A_TURN = 64
"""Messages handed on before other tasks run: as many as a watch receives."""

_PAST_EPOCHS = 1000
"""Epochs that are known to be over: each is some bytes, and one ends when Redis loses data."""


class Reader(Generic[D]):
    """Reads the log with one blocking XREAD at a time, always from an explicit id.

    Numbers have no holes, so a jump is a loss, and its size is known. Each message names the one
    before it by its nonce. If that is not the message that was handed on last, history was
    rewritten: by a flush, say, a failover to a replica that lacked something, or an older copy of
    the data that was put back, with or without a lost connection. Then a new epoch begins, and
    each process tells its watches. So that this is noticed also where nothing is published, each
    read is followed by a check that the newest messages known are still there.

    After a restart or a failover somebody has to know that the log is still the same. So on each
    new connection the reader vouches for the log with the newest messages that this process knows.
    The publisher does so too, before it stores anything there: so nothing that a process knows was
    stored on a run of the server for which nobody had vouched. If it knows nothing, and nobody else
    vouched, a new epoch begins.

    Without watches it rests: it only checks where the log is. Otherwise each of a hundred processes
    that only publish would read what all of them publish. When a watch is opened it reads on from
    where it was, or from as far back as the journal reaches.

    Everything here runs in Trio's thread. The connection's thread sends, receives and parses.

    Attributes:
        dispatcher: where messages go; set by `start`.
        connected_since: seconds since 1970, or None while it is not connected.
        reconnects: how often it lost its connection and has one again.
        skipped: entries of the log that are not messages.
        runs: set once it reads, or will not as the bus has ended.
    """

    dispatcher: D
    _start: Position

    def __init__(
        self,
        link: Link,
        limiter: trio.CapacityLimiter,
        *,
        names: Names,
        settings: Settings,
        adopted: Callable[[], None],
        make_dispatcher: Callable[[Position, Retention], D],
        last_stored: Callable[[], Position | None],
    ) -> None:
        self._link = link
        self._limiter = limiter
        self._names = names
        self._settings = settings
        self._adopted = adopted
        # Whether what is stored with the log was looked at since the connection or log is new.
        self._has_settings = False
        self._make_dispatcher = make_dispatcher
        self._last_stored = last_stored
        self.connected_since: float | None = None
        self.reconnects = 0
        self.skipped = 0
        self._cursor = b"0-0"
        # The newest position that Redis is known to have had. It is checked beside that of what was
        # handed on last, as history may be rewritten between a read and the check after it.
        self._heard_of: Position | None = None
        self._past_epochs: deque[str] = deque(maxlen=_PAST_EPOCHS)
        self._page_size = PageSize(_PAGE_ENTRIES)
        self._progress = trio.Event()
        # How many need what is in the log, beside the watches.
        self._needed = 0
        self._wake = trio.Event()
        self.runs = trio.Event()
        self._logged_refusal = ""

    @property
    def newest(self) -> Position:
        """The newest position that Redis is known to have given, handed on or not."""
        heard, handed_on = self._heard_of, self.dispatcher.position
        if heard is not None and heard.epoch == handed_on.epoch:
            return max(handed_on, heard, key=lambda position: position.sequence)
        return handed_on

    async def start(self) -> Facts:
        """Connect, and find where to begin: far enough back to fill the journal.

        Raises:
            BackendError: it failed. What Redis will always refuse is raised here already.
            ValueError: other settings are stored with the log.
        """
        await self._call(probe, self._link, self._names)
        [settings] = await self._call(ask, self._link, self._settings.opening())
        self._settings.opened(settings)
        self._adopted()
        facts = await self._check(connecting=True)
        start = facts.start
        self.dispatcher = self._make_dispatcher(start, self._settings.retention)
        self._start = start
        self._cursor = b"%d-0" % start.sequence
        self._take_facts(facts)
        self.connected_since = time.time()
        return facts

    async def run(self) -> None:
        """Read until cancelled.

        Raises:
            PermanentError: Redis refuses, and will go on to.
        """
        backoff = Backoff(*PAUSES)
        while True:
            try:
                await self._follow(backoff)
            except PermanentError:
                raise
            except BackendError as error:
                if not self._link.ended:
                    self._log_loss(error)
                self.connected_since = None
                self._link.disconnect()
            await backoff.pause()

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let it read during this block, although nobody watches yet."""
        self._needed += 1
        self._wake.set()
        try:
            yield
        finally:
            self._needed -= 1

    async def reach(self, facts: Facts) -> bool:
        """Wait until everything up to `facts` was handed on, or the bus has ended.

        Only while it is kept `awake`.

        Returns:
            False where the log has another epoch now, so that `facts` are out of date.
        """
        waited = False
        while not self.dispatcher.ended:
            if self.dispatcher.epoch == facts.epoch:
                if self.dispatcher.journal.last >= facts.newest.sequence:
                    return True
            elif waited:
                return False
            await self._progress.wait()
            waited = True
        return True

    def release(self) -> None:
        """Let those go on who wait for what will not come, as the bus has ended."""
        self.runs.set()
        self._advance()

    def _rests(self) -> bool:
        return not (self.dispatcher.watches or self._needed)

    def _log_loss(self, error: BackendError) -> None:
        if self.connected_since is not None:
            self._logged_refusal = ""
            _log.warning("lost the connection to %s: %s", self._link.address, error)
        elif isinstance(error, RefusedError) and str(error) != self._logged_refusal:
            # Redis's own reason, once: someone may have to do something about it.
            self._logged_refusal = str(error)
            _log.warning("%s refuses a connection: %s", self._link.address, error)
        else:
            _log.debug("no connection to %s: %s", self._link.address, error)

    async def _follow(self, backoff: Backoff) -> None:
        """Read for as long as the connection holds."""
        await self._agree(connecting=True)
        self._has_settings = False
        self._connected()
        while True:
            if not self._has_settings:
                await self._adopt_settings()
            if self._rests():
                await self._rest()
                if self._rests():
                    await self._agree()
            else:
                await self._read()
            # Not on connecting: what fails then is the first read, again and again.
            backoff.reset()

    async def _adopt_settings(self) -> None:
        """Take what is stored with the log; store what was given if that is lost."""
        [settings] = await self._call(ask, self._link, self._settings.keeping())
        self._has_settings = True
        changes = self._settings.adopt(settings)
        if changes:
            _log.warning("the log is now used with %s", ", ".join(changes))
            self.dispatcher.set_retention(self._settings.retention)
            self._adopted()

    async def _rest(self) -> None:
        """Wait until somebody needs what is in the log, but not for long."""
        self._wake = trio.Event()
        if self._rests():
            with trio.move_on_after(_QUIET_SECONDS):
                await self._wake.wait()

    def _connected(self) -> None:
        self.runs.set()
        if self.connected_since is None:
            self.connected_since = time.time()
            self.reconnects += 1
            _log.info("connected to %s again", self._link.address)

    async def _read(self) -> None:
        """Read a page, waiting for it if nothing is known to be there, and hand it on."""
        newest, last = self.newest.sequence, self.dispatcher.journal.last
        block = () if newest > last else ("BLOCK", int(_QUIET_SECONDS * 1000))
        count = self._page_size.entries
        commands = (
            ("XREAD", "COUNT", count, *block, "STREAMS", self._names.log, self._cursor),
            self.state_command(),
        )
        try:
            page, facts = await self._call(read_page, self._link, self.dispatcher.epoch, *commands)
        except BackendError:
            if newest > last:
                self._page_size.failed()
            raise
        await self._take_page(page, facts)

    async def _take_page(self, page: Page, facts: Facts) -> None:
        """Hand on a page.

        Args:
            page: what was read.
            facts: the facts after that.
        """
        dispatcher = self.dispatcher
        if facts.epoch != dispatcher.epoch:
            # These entries may be of either epoch.
            await self._settle(facts)
            return
        if page.cursor is not None:
            self.skipped += page.skipped
            for run in page.runs:
                if not self._follows(run):
                    await self._settle(await self._check(rewritten=dispatcher.epoch))
                    return
                await self._hand_on(run)
            self._cursor = page.cursor
            sizes = [len(message.data) for run in page.runs for message in run.messages]
            self._page_size.came(len(sizes), sum(sizes))
        elif (heard := self._heard_of) is not None and heard.sequence > dispatcher.journal.last:
            # They were there before this read, and it did not find them.
            self._lose(heard, heard.sequence - dispatcher.journal.last)
        self._heard_of = facts.newest
        self._advance()

    def _follows(self, run: Run) -> bool:
        """Whether a run goes on from what was handed on; tells a loss before it, if there is one.

        It does not if history was rewritten.
        """
        last = self.dispatcher.position
        missed = run.before.sequence - last.sequence
        # The nonce of a message that was passed over unread becomes known only here.
        unread = not last.branch and last != self._start
        if missed > 0 or (missed == 0 and unread):
            self._lose(run.before, missed)
            return True
        return last == run.before

    async def _hand_on(self, run: Run) -> None:
        dispatcher = self.dispatcher
        for at in range(0, len(run.messages), _MESSAGES_A_TURN):
            messages = run.messages[at : at + _MESSAGES_A_TURN]
            if len(messages) * len(dispatcher.watches) <= STEP:
                for message in messages:
                    dispatcher.accept(message)
            else:
                await self._hand_on_in_steps(messages)
            await checkpoint()

    async def _hand_on_in_steps(self, messages: Sequence[Message]) -> None:
        """Hand on what may reach very many watches; what is accepted is handed on to all."""
        self.dispatcher.accept_in_steps(messages)
        try:
            with trio.CancelScope(shield=True):
                while self.dispatcher.step():
                    await checkpoint()
        finally:
            self.dispatcher.finish()

    async def _agree(self, *, connecting: bool = False) -> None:
        """Check that the log is the one that was read so far; if not, go on in the new one."""
        await self._settle(await self._check(connecting=connecting))

    async def _settle(self, facts: Facts) -> None:
        """Go on in the log as `facts` say that it is now."""
        while facts.epoch in self._past_epochs:
            # An older copy of the data was put back: its messages were handed on before.
            facts = await self._check(rewritten=facts.epoch)
        self._take_facts(facts)

    def _take_facts(self, facts: Facts) -> None:
        if facts.epoch != self.dispatcher.epoch:
            self._past_epochs.append(self.dispatcher.epoch)
            self._has_settings = False
            self._start = facts.start
            self._lose(facts.start, None)
        # At first, and after a long rest, nothing is read that the journal would not hold.
        tail = facts.newest.sequence - self._settings.retention.filled().messages
        if tail > self.dispatcher.journal.last and not self.dispatcher.watches:
            self._lose(Position(facts.epoch, tail), 0)
        self._heard_of = facts.newest
        self._advance()

    def _lose(self, position: Position, missed: int | None) -> None:
        rewritten = position.epoch != self.dispatcher.epoch
        self.dispatcher.lose(position, missed, rewritten=rewritten)
        self._cursor = b"%d-0" % position.sequence

    def _advance(self) -> None:
        self._progress.set()
        self._progress = trio.Event()

    async def _check(self, *, connecting: bool = False, rewritten: str = "") -> Facts:
        """Ask for the facts; a new epoch begins if history was rewritten.

        Args:
            connecting: whether the connection is new, so that the log is to be vouched for.
            rewritten: an epoch that must not go on.
        """
        command = self.state_command(connecting=connecting, rewritten=rewritten)
        facts: Facts = await self._call(ask_facts, self._link, command)
        return facts

    def state_command(self, *, connecting: bool = False, rewritten: str = "") -> Command:
        """Return a call of the script for the facts.

        Args:
            connecting: whether it is the first call on its connection, so that the log is to be
                vouched for.
            rewritten: an epoch that must not go on.
        """
        # Mostly they are one: each may cost a look at an entry.
        handed_on = self.dispatcher.position if self._heard_of is not None else None
        positions = dict.fromkeys(_texts(handed_on, self._heard_of, self._last_stored()))
        return self._names.script("state", token_hex(6), int(connecting), rewritten, *positions)

    async def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in the connection's thread."""
        return await trio.to_thread.run_sync(function, *arguments, limiter=self._limiter)


def _texts(*positions: Position | None) -> list[str]:
    """Return the positions by which history can be recognized: those of messages."""
    return [str(position) for position in positions if position is not None and position.branch]
