"""What a watch covers, and how: checked once, the same for every bus."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Literal, get_args

from ._keys import check_key, check_prefix
from ._message import Position

if TYPE_CHECKING:
    from ._message import Message

Overflow = Literal["replay", "latest", "drop_oldest", "drop_newest"]

BUFFER_SIZE = 1024
"""Messages in a watch's buffer unless told otherwise: a burst of a millisecond or so at the
highest rate that one process publishes; what exceeds it is replayed from the journal."""


class WatchRequest:
    """What one watch covers and how it starts. Immutable by convention; one for each watch.

    Arguments as `WatchBus.watch_any` takes them; they are checked here, once for every bus.

    Attributes:
        keys: the keys that it names, each once.
        prefixes: the prefixes that it names, each once.
        after: the position to resume from, or None; its ``str`` is what was given.
        history: how many of the newest kept messages of each matching key come first.
        buffer_size: messages in its buffer.
        overflow: what happens when that is full.
    """

    __slots__ = ("after", "buffer_size", "history", "keys", "overflow", "prefixes")

    def __init__(
        self,
        keys: Iterable[str],
        prefixes: Iterable[str],
        *,
        after: str | None = None,
        history: int = 0,
        buffer_size: int = BUFFER_SIZE,
        overflow: Overflow = "replay",
    ) -> None:
        """Check everything that can be checked without the bus.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: `buffer_size`, `history` or `overflow` is out of range, `after` and
                `history` are both given, or there is neither a key nor a prefix.
            InvalidKeyError: a key or prefix is not valid.
            InvalidPositionError: `after` is not a position.
        """
        for name, given in (("keys", keys), ("prefixes", prefixes)):
            if isinstance(given, (str, bytes)):
                raise TypeError(f"{name} must be an iterable of str; put the one into a list")
        named = tuple(dict.fromkeys(check_key(key) for key in keys))
        # One key, by far the most common, takes a sixth of a set's memory as a tuple.
        self.keys: Collection[str] = frozenset(named) if len(named) > 1 else named
        self.prefixes: tuple[str, ...] = tuple(
            dict.fromkeys(check_prefix(prefix) for prefix in prefixes)
        )
        if not self.keys and not self.prefixes:
            raise ValueError("a watch needs at least one key or prefix")
        self.after: Position | None = None if after is None else Position.parse(after)
        self.history: int = check_count("history", history, least=0)
        if after is not None and history:
            raise ValueError("give after or history, not both: after already says where to start")
        self.buffer_size: int = check_count("buffer_size", buffer_size, least=1)
        if overflow not in get_args(Overflow):
            raise ValueError(
                f"overflow must be one of {', '.join(get_args(Overflow))}, not {overflow!r}"
            )
        self.overflow: Overflow = overflow

    def matches(self, message: Message) -> bool:
        """Whether what this covers and what `message` addresses share a key."""
        key = message.key
        if not message.is_prefix:
            return key in self.keys or key.startswith(self.prefixes)
        return (
            key.startswith(self.prefixes)
            or any(name.startswith(key) for name in self.keys)
            or any(name.startswith(key) for name in self.prefixes)
        )

    def select(self, messages: list[Message]) -> list[Message]:
        """Return those of `messages` that match, in their order."""
        if len(self.keys) == 1 and not self.prefixes:
            # The common case, at a fifth of the cost.
            (key,) = self.keys
            return [
                message
                for message in messages
                if message.key == key or (message.is_prefix and key.startswith(message.key))
            ]
        return [message for message in messages if self.matches(message)]

    def covers(self, key: str) -> bool:
        """Whether `key` is one of the keys that this covers."""
        return key in self.keys or key.startswith(self.prefixes)


def check_count(name: str, value: object, *, least: int) -> int:
    """Return `value`, the argument called `name`.

    Raises:
        TypeError: it is not an ``int``.
        ValueError: it is less than `least`.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    return value
