"""The naive model: a list of messages and `str.startswith`. What the package does must equal it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import trio
from hypothesis import strategies as st

from trio_watchbus import Message, WatchLaggedError
from trio_watchbus.abc import Watch

# Few letters, so that strings share beginnings; letters of one, two, three and four bytes; the
# composed and the decomposed form of one letter; what patterns are made of.
LETTERS = "abe/\u00e9\u0301\uffff\U0001f600*["

keys = st.text(alphabet=LETTERS, min_size=1, max_size=5)
prefixes = st.text(alphabet=LETTERS, max_size=4)


def reaches(
    keys: Collection[str], prefixes: Iterable[str], addressed: str, *, is_prefix: bool
) -> bool:
    """Whether a watch on `keys` and `prefixes` gets a message to `addressed`.

    It does where a key exists that both cover. Of two prefixes that is so where one starts with
    the other: the longer one is such a key, or what follows it is.
    """
    if is_prefix:
        return any(key.startswith(addressed) for key in keys) or any(
            prefix.startswith(addressed) or addressed.startswith(prefix) for prefix in prefixes
        )
    return addressed in keys or any(addressed.startswith(prefix) for prefix in prefixes)


def sequence(identifier: str) -> int:
    """The sequence number in a message's id or a position."""
    return int(identifier.rpartition("-")[2])


def make_message(number: int, key: str = "k", data: bytes = b"", **more: object) -> Message:
    """Message `number` of epoch `e`."""
    fields: dict[str, object] = {"time": float(number), "is_prefix": False, **more}
    return Message(key, data, f"e-{number}", **fields)  # type: ignore[arg-type]


def received_now(watch: Watch) -> list[bytes | WatchLaggedError]:
    """What a watch gives without waiting: the data of its messages, and losses in their places."""
    received: list[bytes | WatchLaggedError] = []
    while True:
        try:
            received.append(watch.receive_nowait().data)
        except WatchLaggedError as lagged:
            received.append(lagged)
        except (trio.WouldBlock, trio.EndOfChannel):
            return received
