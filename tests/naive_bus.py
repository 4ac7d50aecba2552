"""A naive model of a whole bus: a list of messages, and what each watch would give of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from naive import reaches

from trio_watchbus._request import Overflow
from trio_watchbus._retention import FilledRetention


class Sent(NamedTuple):
    """A message, as the model knows it."""

    sequence: int
    name: str
    data: bytes
    is_prefix: bool


class Lag(NamedTuple):
    """That messages were lost: how many, and after which number it goes on."""

    missed: int
    sequence: int


@dataclass
class NaiveBus:
    """Every message ever sent, and from it whatever is asked for."""

    retention: FilledRetention
    log: list[Sent] = field(default_factory=list)
    kept: dict[str, list[Sent]] = field(default_factory=dict)
    watches: list[NaiveWatch] = field(default_factory=list)

    @property
    def last(self) -> int:
        return len(self.log)

    @property
    def first(self) -> int:
        """The number of the first message of the longest tail within the bounds."""
        size = 0
        for count, message in enumerate(reversed(self.log), 1):
            size += len(message.name) + len(message.data)
            if count > self.retention.messages or size > self.retention.bytes:
                return message.sequence + 1
        return 1

    def send(self, name: str, data: bytes, *, is_prefix: bool) -> None:
        message = Sent(self.last + 1, name, data, is_prefix)
        self.log.append(message)
        if not is_prefix and self.retention.per_key:
            # Put in anew: a dict is in the order of the latest publish.
            tail = [*self.kept.pop(name, []), message][-self.retention.per_key :]
            self.kept[name] = tail
            if len(self.kept) > self.retention.keys:
                del self.kept[next(iter(self.kept))]
        for watch in self.watches:
            if watch.matches(message):
                watch.put(message)

    def history(self, watch: NaiveWatch, count: int) -> list[Sent]:
        covered = [
            message
            for name, tail in self.kept.items()
            if reaches(watch.keys, watch.prefixes, name, is_prefix=False)
            for message in tail[-count:]
        ]
        return sorted(covered)


@dataclass(eq=False)
class NaiveWatch:
    """A watch: a list of what it would give, or where in the log it goes on."""

    bus: NaiveBus
    keys: Collection[str]
    prefixes: Collection[str]
    overflow: Overflow
    buffer_size: int
    buffer: list[Sent] = field(default_factory=list)
    behind: bool = False
    cursor: int = 0
    dropped: int = 0
    history_left: int = 0

    def matches(self, message: Sent) -> bool:
        return reaches(self.keys, self.prefixes, message.name, is_prefix=message.is_prefix)

    def after(self, sequence: int) -> list[Sent]:
        """What it matches of the log after a number."""
        return [message for message in self.bus.log[sequence:] if self.matches(message)]

    @property
    def pending(self) -> list[Sent]:
        """What it has yet to receive, where nothing is dropped or lost."""
        return self.buffer + (self.after(self.cursor) if self.behind else [])

    def start(self, *, after: int | None, history: int) -> None:
        self.bus.watches.append(self)
        if after is not None:
            self.behind = True
            self.cursor = after
            self.refill()
        elif history:
            self.load(self.bus.history(self, history))
            self.history_left = len(self.buffer)

    def put(self, message: Sent) -> None:
        if self.behind:
            return
        if self.overflow == "latest":
            self.load([message])
            if len(self.buffer) > max(1, self.bus.retention.keys):
                self.drop(1)
        elif len(self.buffer) < self.buffer_size:
            self.buffer.append(message)
        elif self.overflow == "replay":
            self.behind = True
            self.cursor = message.sequence - 1
        elif self.overflow == "drop_newest":
            self.dropped += 1
        else:
            self.buffer.append(message)
            self.drop(1)

    def receive(self) -> Sent | Lag | None:
        """The next message, or loss; None if there is neither."""
        lag = None
        if not self.buffer and self.behind:
            lag = self.refill()
        if lag is not None or not self.buffer:
            return lag
        self.history_left = max(0, self.history_left - 1)
        return self.buffer.pop(0)

    def refill(self) -> Lag | None:
        """Put into the buffer what comes next; return the loss before it, if there is one."""
        lag = None
        pending = self.after(self.cursor)
        held = [message for message in pending if message.sequence >= self.bus.first]
        if len(held) < len(pending):
            self.cursor = self.bus.first - 1
            if self.overflow == "replay":
                lag = Lag(len(pending) - len(held), self.cursor)
            else:
                self.dropped += len(pending) - len(held)
        taken = held if self.overflow == "latest" else held[: self.buffer_size]
        self.load(taken)
        self.behind = len(taken) < len(held)
        if taken:
            self.cursor = taken[-1].sequence
        return lag

    def load(self, messages: Iterable[Sent]) -> None:
        for message in messages:
            if self.overflow == "latest":
                place = (message.name, message.is_prefix)
                self.buffer = [m for m in self.buffer if (m.name, m.is_prefix) != place]
            self.buffer.append(message)

    def drop(self, count: int) -> None:
        del self.buffer[:count]
        self.dropped += count
