"""The layout in Redis: names, and how messages are written. No input or output.

docs/reference/redis-keys.md says what each name holds.
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
        namespace: its name.
        meta: holds the number of the layout; the script makes all other names from it.
        facts: the hash of facts.
        log: the stream of all messages.
        keys: the sorted set of keys whose newest messages are kept.
        index: the set of watched keys.
        probe: what is there only while it is tried out what is permitted.
    """

    __slots__ = ("_stream", "facts", "index", "keys", "log", "meta", "namespace", "probe")

    def __init__(self, namespace: str) -> None:
        """Check and take `namespace`, which is of the form of a key.

        Raises:
            TypeError: it is not a ``str``.
            InvalidKeyError: it is empty, too long, or has a control character.
        """
        self.namespace: str = check_key(namespace, "namespace")
        start = namespace.encode()
        self.meta: bytes = start + b":meta"
        self.facts: bytes = start + b":facts"
        self.log: bytes = start + b":log"
        self.keys: bytes = start + b":keys"
        self.index: bytes = start + b":index"
        self.probe: bytes = start + b":probe"
        self._stream = start + b":key:"

    def script(self, *arguments: bytes | str | int) -> Command:
        """Return a call of the script in this namespace."""
        return (SCRIPT, self.meta, *arguments)

    def stream(self, key: str) -> bytes:
        """Return the name of the stream of the newest messages of `key`."""
        return self._stream + key.encode()


class Facts(NamedTuple):
    """The state of the log at one moment.

    Attributes:
        start: the position at which the epoch began: entries before it are of earlier epochs.
        newest: the position of the newest message.
    """

    start: Position
    newest: Position

    @property
    def epoch(self) -> str:
        """The epoch of both."""
        return self.newest.epoch

    @classmethod
    def read(cls, epoch: bytes, start: bytes, newest: bytes, tail: bytes) -> Facts:
        """Return the facts, from the values that Redis gives."""
        name = epoch.decode()
        return cls(Position(name, int(start)), Position(name, int(newest), tail.decode()))


class Run(NamedTuple):
    """Messages of which each follows the one before.

    Attributes:
        before: the position after which the first one came.
        messages: at least one.
    """

    before: Position
    messages: list[Message]


class Page(NamedTuple):
    """A part of the log.

    Attributes:
        runs: its messages, in as few runs as possible.
        cursor: the entry id after which the log goes on, or None where there was no entry.
        skipped: how many entries are not messages.
    """

    runs: list[Run]
    cursor: bytes | None
    skipped: int


def number_of(identifier: bytes) -> int:
    """Return the number of a message whose entry has the id `identifier`."""
    return int(identifier.partition(b"-")[0])


def read_log(entries: Sequence[Entry], epoch: str) -> Page:
    """Return what `entries` of the log hold.

    Fields after those that this version writes are ignored.

    Args:
        entries: consecutive ones.
        epoch: their epoch.
    """
    runs: list[Run] = []
    run: list[Message] = []
    expected = -1
    skipped = 0
    # The nonce of the message before, and what its id has before the number.
    nonce: bytes | None = None
    prefix = ""
    for identifier, fields in entries:
        try:
            kind, key, _, data, _, time, _, new_nonce, _, before, *_ = fields
            number = identifier.removesuffix(b"-0").decode()
            sequence = int(number)
            follows = sequence == expected and before == nonce
            if new_nonce != nonce:
                prefix = _prefix(epoch, new_nonce)
                nonce = new_nonce
            message = Message(
                key.decode(), data, prefix + number, int(time) / 1000, _IS_PREFIX[kind]
            )
            if not follows:
                run = []
                runs.append(Run(Position(epoch, sequence - 1, _nonce(before)), run))
        except (ValueError, KeyError, OverflowError):
            # Other fields, an id or a nonce of another form, a key that is not UTF-8, or no time.
            skipped += 1
            continue
        run.append(message)
        expected = sequence + 1
    return Page(runs, entries[-1][0] if entries else None, skipped)


def _nonce(text: bytes) -> str:
    """Return a nonce as positions have it, or an empty one."""
    if text and not (len(text) <= 32 and text.isalnum()):
        raise ValueError("not a nonce")
    return text.decode()


def _prefix(epoch: str, nonce: bytes) -> str:
    """Return what stands before the number in ids of messages with this nonce."""
    if not nonce:
        raise ValueError("a message has a nonce")
    return f"{epoch}_{_nonce(nonce)}-"


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
