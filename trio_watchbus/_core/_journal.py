"""The recent past: a bounded tail of all messages, in blocks that are indexed when needed."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate, islice
from math import inf

from .._message import Message, Position
from .._retention import Retention
from ._selection import Selection

_BLOCK = 256
"""Messages in a block. An index pays where it is smaller than what it stands for: looking for a
key in so many takes 15 µs without one, and 0.1 µs with."""


class Journal:
    """A bounded tail of all messages, without holes, by sequence number.

    Messages stand in blocks of 256. Only the newest block changes, so that the index of each other
    one is made once, when a reader first comes by, and publishing pays nothing for it.

    Positions are the texts of messages' ids: a number alone does not say which message it was,
    where a backend's data can be replaced by an older copy.

    Args:
        retention: its bounds.
        position: where it begins.
        clock: seconds by a clock that never goes back; only needed for a bound on age.

    Attributes:
        first: the sequence number of the oldest message held, or `last` + 1 when there is none.
        last: the sequence number of the newest message, held or not.
        base: the oldest position from which everything is held: the id of the newest message that
            was dropped, or where the journal began.
        bytes: bytes of data and characters of keys held.
        scanned: messages and index entries looked at so far; tests count the cost of reading by it.
    """

    __slots__ = (
        "_blocks",
        "_bytes_bound",
        "_clock",
        "_look_above",
        "_messages_bound",
        "_oldest",
        "_seconds",
        "_tail",
        "_times",
        "base",
        "bytes",
        "first",
        "last",
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
        self.scanned = 0
        self.restart(position)

    def __len__(self) -> int:
        return self.last - self.first + 1

    @property
    def newest(self) -> str:
        """The position of the newest message, held or not."""
        return self.base if self.first > self.last else self.message_at(self.last).id

    def position_at(self, number: int) -> str:
        """Return the position after message `number`, from `first` - 1 to `last`."""
        return self.base if number < self.first else self.message_at(number).id

    def message_at(self, number: int) -> Message:
        """Return message `number`, from `first` to `last`."""
        # Here alone it matters that there are no holes.
        at = number - self._start
        block = at // _BLOCK
        if block < len(self._blocks):
            return self._blocks[block][at % _BLOCK]
        return self._tail[number - self._tail_first]

    def restart(self, position: Position) -> None:
        """Hold nothing; the next message is the one after `position`."""
        self._blocks: deque[_Block] = deque()
        # The first block's messages, oldest last.
        self._oldest: list[Message] = []
        self._tail: list[Message] = []
        self._times: deque[float] = deque()
        self.base = str(position)
        self.last = position.sequence
        self.first = self.last + 1
        self.bytes = 0

    def append(self, message: Message) -> None:
        """Add the next message, and drop from the other end what exceeds the bounds."""
        tail = self._tail
        tail.append(message)
        self.last = last = self.last + 1
        size = self.bytes + len(message.key) + len(message.data)
        if last - self.first >= self._messages_bound:
            dropped = self._oldest.pop() if self._oldest else self._pop()
            self.first += 1
            self.base = dropped.id
            size -= len(dropped.key) + len(dropped.data)
        self.bytes = size
        if len(tail) == _BLOCK:
            self._blocks.append(_Block(last - _BLOCK + 1, tail))
            self._tail = []
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
            self._times.extend([self._clock()] * len(self))
        while len(self) > bounds.messages:
            self._drop_oldest()
        if self.bytes > bounds.bytes:
            self._drop()

    def since(self, number: int) -> list[Message]:
        """Return the messages after `number`, which is from `first` - 1 to `last`."""
        return [self.message_at(at) for at in range(number + 1, self.last + 1)]

    def count(self, selection: Selection, after: int) -> int:
        """Return how many messages after number `after` match."""
        total = 0
        for block in self._blocks:
            if block.first > after and block.first >= self.first:
                total += block.count(selection)
                self.scanned += len(selection.keys) + len(selection.ranges) + block.to_prefixes
            elif block.first + _BLOCK > after:
                numbers = block.find(selection)
                self.scanned += len(numbers)
                total += sum(number > after and number >= self.first for number in numbers)
        start = max(0, after + 1 - self._tail_first)
        self.scanned += len(self._tail) - start
        return total + sum(map(selection.matches, self._tail[start:]))

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
            block = self._blocks[(after + 1 - self._start) // _BLOCK]
            found = block.find(selection)
            self.scanned += len(found) + len(selection.keys) + len(selection.ranges)
            return found[bisect_right(found, after) :], block.first + _BLOCK - 1
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
        at = (numbers[0] - self._start) // _BLOCK
        if at < len(self._blocks):
            return self._blocks[at].messages_at(numbers)
        start, tail = self._tail_first, self._tail
        return [tail[number - start] for number in numbers]

    @property
    def _start(self) -> int:
        """The number of the first place of the first block, whose message may be dropped."""
        return self._blocks[0].first if self._blocks else self._tail_first

    @property
    def _tail_first(self) -> int:
        """The number of the first message that is in no full block."""
        return self.last - len(self._tail) + 1

    def _pop(self) -> Message:
        """Take away the oldest message, where the first block has none left or there is none."""
        if self._blocks and self._blocks[0].reversed:
            self._blocks.popleft()
        if not self._blocks:
            # At most a block long, as the bounds are lower than that.
            return self._tail.pop(0)
        self._oldest = self._blocks[0].reverse()
        return self._oldest.pop()

    def _drop(self) -> None:
        """Drop what exceeds the bounds on bytes and age."""
        oldest = -inf
        times = self._times
        if self._seconds is not None:
            assert self._clock is not None
            now = self._clock()
            oldest = now - self._seconds
            times.append(now)
            while len(times) > len(self):
                times.popleft()
        while self.first <= self.last and (
            self.bytes > self._bytes_bound or (times and times[0] < oldest)
        ):
            self._drop_oldest()
            if times:
                times.popleft()

    def _drop_oldest(self) -> None:
        dropped = self._oldest.pop() if self._oldest else self._pop()
        self.first += 1
        self.base = dropped.id
        self.bytes -= len(dropped.key) + len(dropped.data)


class Reading:
    """A place in a journal, and what was found from there on and not read yet.

    What a block has is found once, however few messages are read at a time.

    Attributes:
        cursor: the number of the message up to which was read.
    """

    __slots__ = ("_found", "_next", "_until", "cursor", "selection")

    def __init__(self, selection: Selection, cursor: int) -> None:
        self.selection = selection
        self.cursor = cursor
        self._found: list[int] = []
        # How many of those were read.
        self._next = 0
        self._until = cursor

    def read(self, journal: Journal, limit: int, size: float) -> list[Message]:
        """Return the next matching messages, at most `limit` of them.

        Args:
            journal: where `cursor` is held, or the next message's.
            limit: at least 1.
            size: bytes of data that they may have together; one is read even so.
        """
        taken: list[Message] = []
        while len(taken) < limit:
            if self._next < len(self._found):
                numbers = self._found[self._next : self._next + limit - len(taken)]
                messages = journal.messages_at(numbers)
                sizes = list(accumulate([len(message.data) for message in messages]))
                fit = bisect_right(sizes, size) if sizes[-1] > size else len(sizes)
                if not taken:
                    fit = max(1, fit)
                if fit:
                    self._next += fit
                    self.cursor = numbers[fit - 1]
                    size -= sizes[fit - 1]
                    taken += messages[:fit]
                if fit < len(numbers):
                    break
            elif self._until < journal.last:
                self._found, self._until = journal.find(
                    self.selection, self._until, limit - len(taken)
                )
                self._next = 0
            else:
                break
        return taken


class _Block:
    """A full block, and its index once it has one.

    Attributes:
        first: the number of its first message.
        reversed: whether messages stand oldest last, so that dropping them is quick.
    """

    __slots__ = (
        "_by_key",
        "_messages",
        "_names",
        "_prefixed",
        "_totals",
        "_was_read",
        "first",
        "reversed",
    )

    def __init__(self, first: int, messages: list[Message]) -> None:
        self.first = first
        self.reversed = False
        self._messages = messages
        self._was_read = False
        self._by_key: dict[str, list[int]] | None = None

    def __getitem__(self, offset: int) -> Message:
        return self._messages[_BLOCK - 1 - offset if self.reversed else offset]

    def messages_at(self, numbers: Sequence[int]) -> list[Message]:
        """Return messages by their numbers."""
        messages = self._messages
        if self.reversed:
            end = self.first + _BLOCK - 1
            return [messages[end - number] for number in numbers]
        first = self.first
        return [messages[number - first] for number in numbers]

    def reverse(self) -> list[Message]:
        """Turn the messages round, and return them to be taken from the end."""
        self._messages.reverse()
        self.reversed = True
        return self._messages

    @property
    def to_prefixes(self) -> int:
        """How many messages to a prefix there are in the index."""
        return len(self._prefixed)

    def count(self, selection: Selection) -> int:
        """Return how many messages match; none may be dropped yet."""
        by_key, names = self._index()
        totals = self._totals
        count = sum(len(by_key[key]) for key in selection.keys if key in by_key)
        for start, end in selection.ranges:
            low = bisect_left(names, start)
            count += totals[len(names) if end is None else bisect_left(names, end, low)]
            count -= totals[low]
        return count + sum(selection.matches(message) for _, message in self._prefixed)

    def find(self, selection: Selection) -> list[int]:
        """Return the numbers of matching messages, in order; some may be dropped already."""
        if self._by_key is None and not self._was_read and selection.only_key is not None:
            # Made at once, an index for one reader would take longer than reading.
            self._was_read = True
            key = selection.only_key
            return [
                number
                for number, message in self._numbered()
                if message.key == key or (message.is_prefix and key.startswith(message.key))
            ]
        by_key, names = self._index()
        found: list[int] = []
        for key in selection.keys:
            if key in by_key:
                found += by_key[key]
        for start, end in selection.ranges:
            low = bisect_left(names, start)
            high = len(names) if end is None else bisect_left(names, end, low)
            for name in names[low:high]:
                found += by_key[name]
        found += [number for number, message in self._prefixed if selection.matches(message)]
        # Quick where that is so already, as for one key.
        found.sort()
        return found

    def _numbered(self) -> enumerate[Message]:
        in_order = self._messages[::-1] if self.reversed else self._messages
        return enumerate(in_order, self.first + _BLOCK - len(in_order))

    def _index(self) -> tuple[dict[str, list[int]], list[str]]:
        if self._by_key is None:
            by_key: dict[str, list[int]] = {}
            # Of messages to a prefix, what they address and no data, which may be dropped.
            self._prefixed: list[tuple[int, Message]] = []
            for number, message in self._numbered():
                if message.is_prefix:
                    bare = Message(message.key, b"", "", 0, is_prefix=True)
                    self._prefixed.append((number, bare))
                else:
                    by_key.setdefault(message.key, []).append(number)
            self._names = sorted(by_key)
            self._totals = [0, *accumulate(len(by_key[name]) for name in self._names)]
            self._by_key = by_key
        return self._by_key, self._names
