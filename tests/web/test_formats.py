"""Messages are encoded once for all that get them alike."""

from __future__ import annotations

from trio_watchbus import Message
from trio_watchbus.web._formats import Cached


def message(number: int, size: int = 1) -> Message:
    return Message("a", bytes(size), f"e-{number}", 0.0)


def counting() -> tuple[Cached[int], list[str]]:
    """An encoder, and what it encoded."""
    encoded: list[str] = []

    def encode(message: Message) -> int:
        encoded.append(message.id)
        return len(encoded)

    return Cached(encode), encoded


def test_a_message_is_encoded_once() -> None:
    cached, encoded = counting()
    assert [cached(message(1)), cached(message(2)), cached(message(1))] == [1, 2, 1]
    assert encoded == ["e-1", "e-2"]


def test_as_many_messages_are_kept_as_wait_for_a_slow_stream() -> None:
    """And no more: memory is bounded."""
    cached, encoded = counting()
    for number in range(1024):
        cached(message(number))
    for number in range(1024):
        cached(message(number))
    assert len(encoded) == 1024
    cached(message(1024))
    cached(message(0))
    assert len(encoded) == 1026


def test_large_messages_are_kept_up_to_a_size() -> None:
    """Eight of a megabyte; the oldest goes first."""
    cached, encoded = counting()
    for number in range(9):
        cached(message(number, 2**20))
    cached(message(8, 2**20))
    cached(message(1, 2**20))
    assert len(encoded) == 9
    cached(message(0, 2**20))
    assert len(encoded) == 10


def test_a_message_that_is_larger_than_what_is_kept() -> None:
    cached, encoded = counting()
    assert cached(message(1, 2**24)) == 1
    assert cached(message(1, 2**24)) == 2
    assert encoded == ["e-1", "e-1"]
