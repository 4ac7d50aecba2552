"""What stands where in Redis, and how a message is written there. No input or output.

The script says what each name holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from .._keys import check_key
from .._message import Message, Position

Command = Sequence[bytes | str | int]
"""A command of Redis's and its arguments."""

SCRIPT = "SCRIPT"
"""Stands where a command's name would, for a call of the script."""

Entry = tuple[bytes, list[bytes]] | list[Any]
"""A stream's entry as Redis gives it: its id, and its fields and values in turn."""

_IS_PREFIX = {b"k": False, b"p": True}
"""By the name of an entry's first field."""


class Names:
    """The names of one namespace's keys in Redis.

    Attributes:
        meta: the hash of facts, of which the script makes all other names.
        log: the stream of all messages.
        keys: the sorted set of keys whose newest messages are kept.
        probe: what is there only while it is tried out what is permitted.
    """

    __slots__ = ("_stream", "keys", "log", "meta", "probe")

    def __init__(self, namespace: str) -> None:
        """Check and take `namespace`, which is of the form of a key.

        Raises:
            TypeError: it is not a ``str``.
            InvalidKeyError: it is empty, too long, or has a control character.
        """
        start = check_key(namespace, "namespace").encode()
        self.meta: bytes = start + b":meta"
        self.log: bytes = start + b":log"
        self.keys: bytes = start + b":keys"
        self.probe: bytes = start + b":probe"
        self._stream = start + b":key:"

    def script(self, *arguments: bytes | str | int) -> Command:
        """Return a call of the script in this namespace."""
        return (SCRIPT, self.meta, *arguments)

    def stream(self, key: str) -> bytes:
        """Return the name of the stream of the newest messages of `key`."""
        return self._stream + key.encode()


class Facts(NamedTuple):
    """What is so in Redis at one moment.

    Attributes:
        epoch: the epoch that numbers count in.
        start: the number after which they do: what stands before in the log is of an earlier one.
        newest: the number of the newest message.
    """

    epoch: str
    start: int
    newest: int

    @classmethod
    def read(cls, epoch: bytes, start: bytes, newest: bytes) -> Facts:
        """Return what Redis gives as three values."""
        return cls(epoch.decode(), int(start), int(newest))


class Page(NamedTuple):
    """Some of the log.

    Attributes:
        runs: messages without holes, each run with the number of its first.
        cursor: the entry id after which the log goes on, or None where there was no entry.
        receipt: that of the newest message's entry, or None where there was none.
        skipped: entries that are none of ours.
    """

    runs: list[tuple[int, list[Message]]]
    cursor: bytes | None
    receipt: bytes | None
    skipped: int


def number_of(identifier: bytes) -> int:
    """Return the number of a message whose entry has the id `identifier`."""
    return int(identifier.partition(b"-")[0])


def read_log(entries: Sequence[Entry], epoch: str) -> Page:
    """Return what `entries` of the log, in their order, hold.

    Args:
        entries: of the log, all of `epoch`.
        epoch: that of the messages' ids.
    """
    runs: list[tuple[int, list[Message]]] = []
    run: list[Message] = []
    expected = -1
    skipped = 0
    last: tuple[str, list[bytes]] | None = None
    start = f"{epoch}-"
    for identifier, fields in entries:
        try:
            kind, key, _, data, _, time = fields
            number = identifier.removesuffix(b"-0").decode()
            sequence = int(number)
            message = Message(
                key.decode(), data, start + number, int(time) / 1000, _IS_PREFIX[kind]
            )
        except (ValueError, KeyError, OverflowError):
            # Other fields, an id of another form, a key that is not UTF-8, or no time.
            skipped += 1
            continue
        if sequence != expected:
            run = []
            runs.append((sequence, run))
        run.append(message)
        expected = sequence + 1
        last = number, fields
    receipt = _receipt(start, *last) if last else None
    return Page(runs, entries[-1][0] if entries else None, receipt, skipped)


def _receipt(start: str, number: str, fields: list[bytes]) -> bytes:
    """Return the receipt of an entry, as the script makes it."""
    kind, key, _, data, _, time = fields
    return b"%s%s %s %d %s %s" % (start.encode(), number.encode(), time, len(data), kind, key)


def read_stream(key: str, entries: Sequence[Entry]) -> list[Message]:
    """Return the messages that `entries` of the stream of `key` hold, in their order."""
    found = []
    for identifier, fields in entries:
        values = dict(zip(fields[::2], fields[1::2], strict=False))
        try:
            position = Position.parse(f"{values[b'e'].decode()}-{number_of(identifier)}")
            found.append(Message(key, values[b"data"], str(position), int(values[b"t"]) / 1000))
        except (KeyError, ValueError, OverflowError):
            continue
    return found


def read_names(names: Iterable[bytes]) -> list[str]:
    """Return the keys among `names`, which others may have added to."""
    found = []
    for name in names:
        try:
            found.append(check_key(name.decode()))
        except ValueError:
            continue
    return found
