"""The one reader of a process: mirrors the log into the core."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import trio
from trio.lowlevel import checkpoint

from .._backoff import Backoff
from .._core._dispatcher import Dispatcher
from .._message import Position
from .._retention import Retention
from ._layout import Command, Facts, Names, Page, read_log
from ._line import PAUSES
from ._trouble import BusyError, HopelessError, RefusedError, TroubleError

if TYPE_CHECKING:
    from ._connection import Link

_log = logging.getLogger("trio_watchbus.redis")

D = TypeVar("D", bound=Dispatcher)

_QUIET_SECONDS = 0.5
"""How long Redis lets a read wait, and how long the reader rests. After that it looks whether the
log is still the one that it knows, so that a flush is noticed within this time."""

_PAGE_BYTES = 1024 * 1024
"""Bytes of data that one read is to give: much for one trip, little to hold beside the journal."""

_PAGE_ENTRIES = 2000
"""Entries in one read at most: some milliseconds of parsing, in which no other thread runs."""

_MESSAGES_A_TURN = 64
"""Messages handed on before other tasks run: as many as a watch receives."""


class _State(NamedTuple):
    """What the script says of the log.

    Attributes:
        facts: the facts.
        receipt: that of the newest entry.
    """

    facts: Facts
    receipt: bytes


class Reader(Generic[D]):
    """Reads the log with one blocking XREAD at a time, always from an explicit id.

    Numbers are dense, so that a jump is a loss of that many. With each read, and before the first
    one of a connection, it gives back the receipts of the entries that it and the publisher know:
    if one of these differs, or is gone while older ones are there, or the numbering is behind it,
    history was rewritten (by a flush, or a failover to a replica that lacked something, even one
    that no connection noticed). Then the script has replaced the epoch, and each process tells its
    watches.

    Where a server was started again, or another took over, somebody has to know that the log is
    still the one that was: so at the beginning of each connection it vouches for what it read on
    those before. Who has nothing to vouch with has the epoch replaced, unless another vouched.

    While nobody watches it rests: a process that only publishes, one of hundreds maybe, would read
    what all of them publish for nothing. It only asks where the log is then. When somebody comes
    it reads on from where it was, or from as far back as it would begin.

    Attributes:
        dispatcher: where messages go; there once `start` is through.
        connected_since: the time, in seconds since 1970, or None while it is not connected.
        reconnects: how often it lost its connection and has one again.
        skipped: entries of the log that were none of ours.
        runs: set once it reads, or will not as the bus has ended.
    """

    dispatcher: D

    def __init__(
        self,
        link: Link,
        limiter: trio.CapacityLimiter,
        *,
        names: Names,
        retention: Retention,
        make_dispatcher: Callable[[Position, Retention], D],
        receipt_of_publisher: Callable[[], bytes],
    ) -> None:
        self._link = link
        self._limiter = limiter
        self._names = names
        self._retention = retention
        self._make_dispatcher = make_dispatcher
        self._receipt_of_publisher = receipt_of_publisher
        self.connected_since: float | None = None
        self.reconnects = 0
        self.skipped = 0
        self._cursor = b"0-0"
        # The newest number that Redis is known to have given, in the dispatcher's epoch.
        self._newest = 0
        # Of the entry that was handed on last, and of the newest that Redis is known to have had.
        # One would not do: history may be rewritten between a read and what is asked after it.
        self._handed_on = b""
        self._heard_of = b""
        self._entries = _PAGE_ENTRIES
        self._progress = trio.Event()
        # How many need what is in the log, beside the watches.
        self._needed = 0
        self._wake = trio.Event()
        self.runs = trio.Event()

    @property
    def newest(self) -> Position:
        """The newest position that Redis is known to have given, handed on or not."""
        position = self.dispatcher.position
        return position._replace(sequence=max(position.sequence, self._newest))

    async def start(self) -> Facts:
        """Connect, and find where to begin: far enough back to fill the journal.

        Raises:
            TroubleError: it failed; what is refused for good is told here already.
        """
        state = await trio.to_thread.run_sync(self._begin, limiter=self._limiter)
        facts = state.facts
        self.dispatcher = self._make_dispatcher(Position(facts.epoch, facts.start), self._retention)
        self._cursor = b"%d-0" % facts.start
        self._take_state(state)
        self.connected_since = time.time()
        return facts

    async def run(self) -> None:
        """Read until cancelled; raises what is hopeless."""
        backoff = Backoff(*PAUSES)
        while True:
            try:
                await trio.to_thread.run_sync(self._follow, backoff, limiter=self._limiter)
            except HopelessError:
                raise
            except TroubleError as trouble:
                if not self._link.ended:
                    self._note_loss(trouble)
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
            False where they are of another epoch than the log is now, and so are out of date.
        """
        waited = False
        while not self.dispatcher.ended:
            if self.dispatcher.epoch == facts.epoch:
                if self.dispatcher.journal.last >= facts.newest:
                    return True
            elif waited:
                return False
            await self._progress.wait()
            waited = True
        return True

    def release(self) -> None:
        """Let go who waits for what will not come, as the bus has ended."""
        self.runs.set()
        self._advance()

    def _rests(self) -> bool:
        return not (self.dispatcher.watches or self._needed)

    def _note_loss(self, trouble: TroubleError) -> None:
        if self.connected_since is not None:
            _log.warning("lost the connection to %s: %s", self._link.address, trouble)
        else:
            _log.debug("no connection to %s: %s", self._link.address, trouble)

    # In Trio, for the thread

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

    def _take_state(self, state: _State) -> None:
        """Go on in the log as it is now."""
        epoch, start, newest = state.facts
        if epoch != self.dispatcher.epoch:
            self._lose(epoch, start, None)
        # At first, and after a long rest, what the journal would not hold is not read for it.
        tail = newest - self._retention.filled().messages
        if tail > self.dispatcher.journal.last and not self.dispatcher.watches:
            self._lose(epoch, tail, 0)
        self._note_newest(state)
        self._advance()

    def _note_newest(self, state: _State) -> None:
        self._newest = state.facts.newest
        self._heard_of = state.receipt

    async def _take_page(self, page: Page, state: _State) -> None:
        """Hand on what came.

        Args:
            page: what was read.
            state: what was so after that.
        """
        dispatcher = self.dispatcher
        if state.facts.epoch != dispatcher.epoch:
            # Of which epoch these entries are, nobody can say.
            self._take_state(state)
            return
        if page.cursor is not None:
            await self._hand_on(page, page.cursor)
        elif self._newest > dispatcher.journal.last:
            # They were there before this read, and it did not find them.
            self._lose(dispatcher.epoch, self._newest, self._newest - dispatcher.journal.last)
        self._note_newest(state)
        self._advance()

    async def _hand_on(self, page: Page, cursor: bytes) -> None:
        dispatcher = self.dispatcher
        accept = dispatcher.accept
        size = 0
        self.skipped += page.skipped
        for first, messages in page.runs:
            expected = dispatcher.journal.last + 1
            if first > expected:
                dispatcher.lose(Position(dispatcher.epoch, first - 1), first - expected)
            for at in range(0, len(messages), _MESSAGES_A_TURN):
                for message in messages[at : at + _MESSAGES_A_TURN]:
                    accept(message)
                    size += len(message.data)
                await checkpoint()
        self._cursor = cursor
        self._handed_on = page.receipt or self._handed_on
        count = sum(len(messages) for _, messages in page.runs)
        if size * 2 > _PAGE_BYTES:
            self._entries = max(16, min(_PAGE_ENTRIES, _PAGE_BYTES * count // size))
        else:
            self._entries = min(_PAGE_ENTRIES, self._entries * 2)

    def _lose(self, epoch: str, last: int, missed: int | None) -> None:
        rewritten = epoch != self.dispatcher.epoch
        self.dispatcher.lose(Position(epoch, last), missed, rewritten=rewritten)
        self._cursor = b"%d-0" % last

    def _advance(self) -> None:
        self._progress.set()
        self._progress = trio.Event()

    # In the thread

    def _begin(self) -> _State:
        """Connect, and see that all that the bus does is permitted, and all names are its own."""
        try:
            self._ask(self._names.script("probe"))
            self._ask(("XREAD", "STREAMS", self._names.probe, "0-0"))
        except RefusedError as refusal:
            # What it cannot write now, for want of memory say, it may later.
            if isinstance(refusal, (HopelessError, BusyError)):
                raise
        return _state(self._ask(self._what_is_so(connecting=True)))

    def _follow(self, backoff: Backoff) -> None:
        """Read for as long as the connection holds."""
        self._agree(connecting=True)
        trio.from_thread.run_sync(self._connected)
        backoff.reset()
        while True:
            if self._rests():
                trio.from_thread.run(self._rest)
                if self._rests():
                    self._agree()
            else:
                trio.from_thread.run(self._take_page, *self._read())

    def _agree(self, *, connecting: bool = False) -> None:
        """See whether the log is the one that was read so far; if not, start with the new one."""
        state = _state(self._ask(self._what_is_so(connecting=connecting)))
        trio.from_thread.run_sync(self._take_state, state)

    def _what_is_so(self, *, connecting: bool = False) -> Command:
        """Return what asks for the state, and replaces the epoch if history was rewritten.

        Args:
            connecting: whether the connection is new, so that the log is to be vouched for.
        """
        # Mostly they are one: each costs a look at an entry.
        own = dict.fromkeys((self._handed_on, self._heard_of))
        # This one does not vouch: the publisher may have got it after it came back alone.
        receipts = own | {self._receipt_of_publisher(): None}
        vouching = len(own) if connecting else ""
        return self._names.script("state", token_hex(6), vouching, *receipts)

    def _ask(self, command: Command) -> Any:
        [reply] = self._link.exchange(command)
        if isinstance(reply, RefusedError):
            raise reply
        return reply

    def _read(self) -> tuple[Page, _State]:
        """Read a page, waiting for it if nothing is known to be there, and the state after it."""
        block = (
            ()
            if self._newest > self.dispatcher.journal.last
            else ("BLOCK", int(_QUIET_SECONDS * 1000))
        )
        streams, state = replies = self._link.exchange(
            ("XREAD", "COUNT", self._entries, *block, "STREAMS", self._names.log, self._cursor),
            self._what_is_so(),
        )
        for reply in replies:
            if isinstance(reply, RefusedError):
                raise reply
        return read_log(streams[0][1] if streams else (), self.dispatcher.epoch), _state(state)


def _state(answer: list[bytes]) -> _State:
    *facts, receipt = answer
    return _State(Facts.read(*facts), receipt)
