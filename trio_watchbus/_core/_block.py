"""Some messages of the journal in a row, and an index of them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from .._message import Message
from ._selection import Selection


class Block:
    """A full block, and its index once it has one.

    Attributes:
        first: the number of its first message.
        end: that of its last.
        messages: those that are not dropped.
        reversed: whether they stand oldest last, so that dropping them one by one is quick.
        was_read: whether one key was looked for without an index.
    """

    __slots__ = (
        "_names",
        "_numbers",
        "_places",
        "_prefixed",
        "_starts",
        "end",
        "first",
        "messages",
        "reversed",
        "was_read",
    )

    def __init__(self, first: int, messages: list[Message]) -> None:
        self.first = first
        self.end = first + len(messages) - 1
        self.messages = messages
        self.reversed = False
        self.was_read = False
        self._places: dict[str, int] | None = None

    def __getitem__(self, offset: int) -> Message:
        return self.messages[self.end - self.first - offset if self.reversed else offset]

    def messages_at(self, numbers: Sequence[int]) -> list[Message]:
        """Return messages by their numbers."""
        messages = self.messages
        if self.reversed:
            end = self.end
            return [messages[end - number] for number in numbers]
        first = self.first
        if numbers[-1] - numbers[0] < len(numbers):
            # All between are among them, as where there is one key.
            return messages[numbers[0] - first : numbers[-1] + 1 - first]
        return [messages[number - first] for number in numbers]

    def reverse(self) -> list[Message]:
        """Turn the messages round, and return them to be taken from the end."""
        self.messages.reverse()
        self.reversed = True
        return self.messages

    @property
    def indexed(self) -> bool:
        """Whether there is an index."""
        return self._places is not None

    @property
    def to_prefixes(self) -> int:
        """How many messages to a prefix there are in the index."""
        return len(self._prefixed)

    def make_index(self) -> int:
        """Make the index if there is none; return how many messages were looked at for it."""
        if self._places is not None:
            return 0
        by_key: dict[str, list[int]] = {}
        # Of messages to a prefix, what they address and no data, which may be dropped.
        self._prefixed: list[tuple[int, Message]] = []
        for number, message in self._numbered():
            if message.is_prefix:
                bare = Message(message.key, b"", "", 0, is_prefix=True)
                self._prefixed.append((number, bare))
            else:
                by_key.setdefault(message.key, []).append(number)
        # A list for each key would be much for Python's garbage collector to go through.
        self._names = sorted(by_key)
        self._numbers = [number for name in self._names for number in by_key[name]]
        self._starts = [0, *accumulate(len(by_key[name]) for name in self._names)]
        self._places = {name: place for place, name in enumerate(self._names)}
        return len(self.messages)

    def count(self, selection: Selection) -> int:
        """Return how many messages match, by the index; none may be dropped yet."""
        starts = self._starts
        count = sum([starts[place + 1] - starts[place] for place in self._places_of(selection)])
        count += sum(starts[high] - starts[low] for low, high in self._ranges_of(selection))
        return count + sum(selection.matches(message) for _, message in self._prefixed)

    def find(self, selection: Selection) -> list[int]:
        """Return the numbers of matching messages, in order, by the index.

        Some may be dropped already.
        """
        numbers, starts = self._numbers, self._starts
        found: list[int] = []
        for place in self._places_of(selection):
            found += numbers[starts[place] : starts[place + 1]]
        for low, high in self._ranges_of(selection):
            found += numbers[starts[low] : starts[high]]
        found += [number for number, message in self._prefixed if selection.matches(message)]
        # Quick where that is so already, as for one key.
        found.sort()
        return found

    def _places_of(self, selection: Selection) -> list[int]:
        """Return the places among the names of the keys that `selection` has."""
        places = self._places
        assert places is not None
        return [places[key] for key in places.keys() & selection.keys]

    def _ranges_of(self, selection: Selection) -> Iterator[tuple[int, int]]:
        """Yield from where to where names start with a prefix that `selection` has."""
        names = self._names
        for prefix, above in selection.ranges:
            low = bisect_left(names, prefix)
            yield low, len(names) if above is None else bisect_left(names, above, low)

    def scan(self, selection: Selection) -> list[int]:
        """Return the numbers of messages that match a selection of one key, without an index."""
        key = selection.only_key
        assert key is not None
        self.was_read = True
        return [
            number
            for number, message in self._numbered()
            if message.key == key or (message.is_prefix and key.startswith(message.key))
        ]

    def _numbered(self) -> enumerate[Message]:
        in_order = self.messages[::-1] if self.reversed else self.messages
        return enumerate(in_order, self.end + 1 - len(in_order))
