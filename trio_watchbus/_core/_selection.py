"""What a watch covers, sorted, so that a look-up costs the logarithm of what it names."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from .._message import Message
from .._request import WatchRequest


class Selection:
    """The keys and prefixes of a request, with nothing that another of its prefixes covers.

    Attributes:
        keys: the keys that none of the prefixes covers.
        ranges: for each prefix, itself and the least string above all that start with it, or
            None where there is no such string.
        only_key: the key, where there is one and no prefix; else None.
    """

    __slots__ = ("_names", "_prefixes", "keys", "only_key", "ranges")

    def __init__(self, request: WatchRequest) -> None:
        self._prefixes: list[str] = []
        for prefix in sorted(request.prefixes):
            # In order, a prefix comes right before what it covers.
            if not self._prefixes or not prefix.startswith(self._prefixes[-1]):
                self._prefixes.append(prefix)
        self.keys = frozenset(key for key in request.keys if not self._covers(key))
        self.ranges = [(prefix, end_of(prefix)) for prefix in self._prefixes]
        # One key and nothing else, as most watches have.
        self.only_key = next(iter(self.keys)) if len(self.keys) == 1 and not self.ranges else None
        self._names = sorted([*self.keys, *self._prefixes])

    def matches(self, message: Message) -> bool:
        """Whether what this covers and what `message` addresses share a key."""
        key = message.key
        if key in self.keys or self._covers(key):
            return True
        if not message.is_prefix:
            return False
        at = bisect_left(self._names, key)
        return at < len(self._names) and self._names[at].startswith(key)

    def _covers(self, name: str) -> bool:
        # The greatest that is not above `name` is the only one that can start it.
        at = bisect_right(self._prefixes, name) - 1
        return at >= 0 and name.startswith(self._prefixes[at])


def end_of(prefix: str) -> str | None:
    """Return the least string above all that start with `prefix`; None if there is none."""
    stem = prefix.rstrip("\U0010ffff")
    return stem[:-1] + chr(ord(stem[-1]) + 1) if stem else None
