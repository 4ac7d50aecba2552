"""The recent past: a bounded tail of all messages, in blocks that are indexed when needed."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate, islice
from math import inf

from .._message import Message, Position
from .._retention import Retention
from ._block import Block
from ._buffers import LARGE, size_of
from ._selection import Selection

_LEAST_BLOCK, _BLOCK, _BLOCKS = 16, 256, 128
"""A block has 256 messages; fewer in a journal of less than 8192, which holds what it dropped for
up to two blocks longer; more in one of more than 32,768, so that it has no more than 128 blocks to
look into. An index pays where it is smaller than what it stands for: looking for a key in 256
messages takes 15 µs without one, and 0.1 µs with."""

STEP = 16_384
"""Messages and index entries to look at before other tasks run: about 2 ms."""


class Journal:
    """A bounded tail of all messages, without holes, by sequence number.

    Messages stand in blocks. Only the newest block grows, so that the index of each other one is
    made once, when a reader first comes by. Messages beyond the bound in number are dropped a block
    at a time. So publishing pays for neither.

    Positions are the texts of messages' ids: a number alone does not say which message it was,
    where a backend's data can be replaced by an older copy.

    Args:
        retention: its bounds.
        position: where it begins.
        clock: seconds by a clock that never goes back; only needed for a bound on age.

    Attributes:
        last: the sequence number of the newest message, held or not.
        last_large: that of the newest message with more than `LARGE` bytes of data, as noted by
            whoever appends; 0 where there was none.
        scanned: messages and index entries looked at so far; tests count the cost of reading by it.
    """

    __slots__ = (
        "_base",
        "_block",
        "_blocks",
        "_bytes_bound",
        "_clock",
        "_held_bytes",
        "_held_first",
        "_look_above",
        "_messages_bound",
        "_oldest",
        "_seconds",
        "_tail",
        "_times",
        "last",
        "last_large",
        "scanned",
    )

    def __init__(
        self,
        retention: Retention,
        position: Position,
        clock: Callable[[], float] | None = None,
    ) -> None:
        bounds = retention.filled()
        self._messages_bound = bounds.messages
        self._bytes_bound = bounds.bytes
        self._seconds = bounds.seconds
        # The bytes above which something may have to be dropped, for age or for bytes.
        self._look_above = bounds.bytes if bounds.seconds is None else -1
        self._clock = clock
        self._block = max(
            _LEAST_BLOCK, min(_BLOCK, bounds.messages // 32), bounds.messages // _BLOCKS
        )
        self.scanned = 0
        self.restart(position)

    def __len__(self) -> int:
        return self.last - self.first + 1

    @property
    def first(self) -> int:
        """The sequence number of the oldest message held, or `last` + 1 when there is none."""
        return max(self._held_first, self.last - self._messages_bound + 1)

    @property
    def base(self) -> str:
        """The oldest position from which everything is held.

        That is the id of the newest message that was dropped, or where the journal began.
        """
        number = self.first - 1
        return self._base if number < self._held_first else self.message_at(number).id

    @property
    def bytes(self) -> int:
        """Bytes of data and characters of keys held."""
        dropped = map(self.message_at, range(self._held_first, self.first))
        return self._held_bytes - sum(map(size_of, dropped))

    @property
    def newest(self) -> str:
        """The position of the newest message, held or not."""
        return self._tail[-1].id if self._tail else self.position_at(self.last)

    def position_at(self, number: int) -> str:
        """Return the position after message `number`, from `first` - 1 to `last`."""
        return self._base if number < self._held_first else self.message_at(number).id

    def message_at(self, number: int) -> Message:
        """Return message `number`, from `first` to `last`."""
        # Here alone it matters that there are no holes.
        at = number - self._start
        block = at // self._block
        if block < len(self._blocks):
            return self._blocks[block][at % self._block]
        return self._tail[number - self._tail_first]

    def restart(self, position: Position) -> None:
        """Hold nothing; the next message is the one after `position`."""
        self._blocks: deque[Block] = deque()
        # The first block's messages, oldest last, once some of them are dropped.
        self._oldest: list[Message] = []
        self._tail: list[Message] = []
        self._times: deque[float] = deque()
        self._base = str(position)
        self.last = position.sequence
        self.last_large = 0
        # What is beyond the bound in number is held until its block is dropped.
        self._held_first = self.last + 1
        self._held_bytes = 0

    def append(self, message: Message) -> None:
        """Add the next message, and drop from the other end what exceeds the bounds."""
        tail = self._tail
        tail.append(message)
        self.last += 1
        self._held_bytes = size = self._held_bytes + len(message.key) + len(message.data)
        if len(tail) == self._block:
            self._end_block()
        if size > self._look_above:
            self._drop()

    def set_bounds(self, retention: Retention) -> None:
        """Hold that much from now on; the age of what is held counts from now."""
        bounds = retention.filled()
        self._messages_bound = bounds.messages
        self._bytes_bound = bounds.bytes
        self._seconds = bounds.seconds
        self._look_above = bounds.bytes if bounds.seconds is None else -1
        self._times.clear()
        if bounds.seconds is not None:
            assert self._clock is not None
            self._times.extend([self._clock()] * (self.last - self._held_first + 1))
        self._drop_blocks()
        self._drop_older(-inf)

    def since(self, number: int) -> list[Message]:
        """Return the messages after `number`, which is from `first` - 1 to `last`."""
        return [self.message_at(at) for at in range(number + 1, self.last + 1)]

    def count(self, selection: Selection, after: int) -> int:
        """Return how many messages after number `after` match."""
        total = 0
        after = max(after, self.first - 1)
        for block in self._blocks:
            if block.first > after:
                self.scanned += block.make_index()
                total += block.count(selection)
                self.scanned += len(selection.keys) + len(selection.ranges) + block.to_prefixes
            elif block.end > after:
                self.scanned += block.make_index()
                numbers = block.find(selection)
                self.scanned += len(numbers)
                total += len(numbers) - bisect_right(numbers, after)
        start = max(0, after + 1 - self._tail_first)
        self.scanned += len(self._tail) - start
        return total + sum(map(selection.matches, self._tail[start:]))

    def make_indexes(self, after: int) -> bool:
        """Make some of the indexes that `count` needs; return whether there are more to make."""
        looked_at = 0
        for block in self._blocks:
            if block.end > after:
                looked_at += block.make_index()
                if looked_at >= STEP:
                    break
        self.scanned += looked_at
        return looked_at >= STEP

    def find(self, selection: Selection, after: int, limit: int) -> tuple[list[int], int]:
        """Return the numbers of the next matching messages in one block.

        Args:
            selection: what matches.
            after: the number after which they are, from `first` - 1 to `last` - 1.
            limit: how many are enough, where the block is not full yet and so has no index.

        Returns:
            the numbers, and the number up to which was looked.
        """
        tail_first = self._tail_first
        if after + 1 < tail_first:
            block = self._blocks[(after + 1 - self._start) // self._block]
            if block.indexed or block.was_read or selection.only_key is None:
                self.scanned += block.make_index()
                found = block.find(selection)
                self.scanned += len(found) + len(selection.keys) + len(selection.ranges)
            else:
                # An index for one reader would take longer than reading.
                found = block.scan(selection)
                self.scanned += self._block
            return found[bisect_right(found, after) :], block.end
        found = []
        number = after
        for message in islice(self._tail, after + 1 - tail_first, None):
            number += 1
            self.scanned += 1
            if selection.matches(message):
                found.append(number)
                if len(found) == limit:
                    break
        return found, number

    def messages_at(self, numbers: Sequence[int]) -> list[Message]:
        """Return messages of one block, by their numbers."""
        first, last = numbers[0], numbers[-1]
        at = (first - self._start) // self._block
        if at < len(self._blocks):
            return self._blocks[at].messages_at(numbers)
        start, tail = self._tail_first, self._tail
        if last - first < len(numbers):
            return tail[first - start : last + 1 - start]
        return [tail[number - start] for number in numbers]

    @property
    def _start(self) -> int:
        """The number of the first place of the first block, whose message may be dropped."""
        return self._blocks[0].first if self._blocks else self._tail_first

    @property
    def _tail_first(self) -> int:
        """The number of the first message that is in no full block."""
        return self.last - len(self._tail) + 1

    def _end_block(self) -> None:
        """Begin a new block, and drop those that are beyond the bound in number."""
        self._blocks.append(Block(self.last - self._block + 1, self._tail))
        self._tail = []
        self._drop_blocks()

    def _drop_blocks(self) -> None:
        """Drop the full blocks that are beyond the bound in number."""
        first = self.first
        while self._blocks and self._held_first < first and self._blocks[0].end < first:
            self._drop_block()

    def _drop_block(self) -> None:
        block = self._blocks.popleft()
        # Of one that is dropped message by message, those that are left.
        messages = block.messages
        if messages:
            self._base = block[self._block - 1].id
        self._held_bytes -= sum(map(size_of, messages))
        self._held_first = block.end + 1
        if self._times:
            for _ in messages:
                self._times.popleft()
        if block.reversed:
            self._oldest = []

    def _drop(self) -> None:
        """Drop what exceeds the bounds on bytes and age."""
        oldest = -inf
        times = self._times
        if self._seconds is not None:
            assert self._clock is not None
            now = self._clock()
            oldest = now - self._seconds
            times.append(now)
        self._drop_older(oldest)

    def _drop_older(self, oldest: float) -> None:
        """Drop what exceeds the bound on bytes, and what came before the time `oldest`."""
        times = self._times
        while self._held_first <= self.last and (
            self._held_bytes > self._bytes_bound or (times and times[0] < oldest)
        ):
            dropped = self._oldest.pop() if self._oldest else self._pop()
            self._held_first += 1
            self._base = dropped.id
            self._held_bytes -= size_of(dropped)
            if times:
                times.popleft()

    def _pop(self) -> Message:
        """Take away the oldest message, where the first block has none left or there is none."""
        if self._blocks and self._blocks[0].reversed:
            self._blocks.popleft()
        if not self._blocks:
            # At most a block long, as the bounds are lower than that.
            return self._tail.pop(0)
        self._oldest = self._blocks[0].reverse()
        return self._oldest.pop()


class Reading:
    """A place in a journal, and what was found from there on and not read yet.

    What a block has is found once, however few messages are read at a time.

    Attributes:
        selection: what matches.
        cursor: the number of the message up to which was read.
        largest: bytes of data that a message that was read last has at most.
    """

    __slots__ = ("_found", "_next", "_until", "cursor", "largest", "selection")

    def __init__(self, selection: Selection, cursor: int) -> None:
        self.selection = selection
        self.cursor = cursor
        self.largest = 0
        self._found: list[int] = []
        # How many of those were read.
        self._next = 0
        self._until = cursor

    def look(self, journal: Journal, limit: int) -> bool:
        """Look for the next matching messages, a step's worth.

        Args:
            journal: where `cursor` is held, or the next message's.
            limit: how many are enough.

        Returns:
            whether there may be some after what was looked at, and none was found yet.
        """
        enough = journal.scanned + STEP
        while self._next == len(self._found) and self._until < journal.last:
            if journal.scanned > enough:
                return True
            self._found, self._until = journal.find(self.selection, self._until, limit)
            self._next = 0
        return False

    def read(self, journal: Journal, limit: int, size: float) -> list[Message]:
        """Return the next matching messages, at most `limit` of them; at least one if there is any.

        Args:
            journal: where `cursor` is held, or the next message's.
            limit: at least 1. What takes more than a step to find is left for the next time.
            size: bytes of data that they may have together; one is read even so.
        """
        taken: list[Message] = []
        # Where sizes need not be looked at, that saves a third of the time.
        small = self.cursor >= journal.last_large and limit * LARGE <= size
        self.largest = LARGE if small else 0
        enough = journal.scanned + STEP
        while len(taken) < limit and not (taken and journal.scanned > enough):
            if self._next == len(self._found):
                while self.look(journal, limit - len(taken)) and not taken:
                    pass
                if self._next == len(self._found):
                    break
            numbers = self._found[self._next : self._next + limit - len(taken)]
            messages = journal.messages_at(numbers)
            fit = len(messages)
            if not small:
                sizes = [len(message.data) for message in messages]
                fit = bisect_right(list(accumulate(sizes)), size)
                if not taken:
                    fit = max(1, fit)
                messages = messages[:fit]
                size -= sum(sizes[:fit])
                self.largest = max([self.largest, *sizes[:fit]])
            if fit:
                self._next += fit
                self.cursor = numbers[fit - 1]
                taken += messages
            if fit < len(numbers):
                break
        return taken
