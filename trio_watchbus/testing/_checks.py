"""Checks of the conformance suite, and helpers to write them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import trio

from .._message import Message, Position
from .._retention import Retention
from ..abc import Watch, WatchBus
from ._left import assert_nothing_left

_SECONDS = 60
"""Seconds after which a check counts as hanging; the slowest takes a few over a network."""

E = TypeVar("E", bound=BaseException)


class WatchBusFactory(Protocol):
    """Makes fresh buses for checks: an empty log of its own for each."""

    def __call__(
        self, *, retention: Retention
    ) -> AbstractAsyncContextManager[WatchBus | Sequence[WatchBus]]:
        """Open a bus that keeps at least what `retention` says, and on leaving close it.

        It may give several handles onto one log instead, as processes of their own would have
        them: a check publishes through the first and watches through the last.
        """


@dataclass(frozen=True, slots=True)
class WatchBusCheck:
    """One check of the conformance suite: ``await check(factory)``.

    Attributes:
        name: what it checks, as an identifier.
        promise: what it checks, as a sentence.
        retention: what it asks of the factory.
    """

    name: str
    promise: str
    retention: Retention
    _run: Callable[[WatchBus, WatchBus], Awaitable[None]]

    async def __call__(self, factory: WatchBusFactory) -> None:
        """Run it on a fresh bus of `factory`, and assert that nothing is left of that.

        Raises:
            AssertionError: the bus breaks the promise, or hangs.
            Exception: an error that the bus should not have raised, as it came; a group of errors
                where it came from a task of the check or of `factory`.
        """
        try:
            with trio.fail_after(_SECONDS):
                async with (
                    assert_nothing_left(),
                    factory(retention=self.retention) as made,
                ):
                    handles = [made] if isinstance(made, WatchBus) else list(made)
                    await self._run(handles[0], handles[-1])
                    assert_no_watches(handles)
        except trio.TooSlowError as error:
            # As where a message is lost: the check waits for it.
            raise AssertionError(
                f"not done within {_SECONDS} s, while checking: {self.promise}"
            ) from error
        except BaseException as error:
            error.add_note(f"while checking: {self.promise}")
            raise


def assert_no_watches(handles: Iterable[WatchBus]) -> None:
    """Assert that these buses have no watches, and hold nothing of earlier ones."""
    for bus in handles:
        statistics = bus.statistics()
        equal(statistics.watches, 0, "watches left")
        equal(statistics.watched_keys, 0, "watched keys left")
        equal(statistics.watched_prefixes, 0, "watched prefixes left")
        equal(statistics.trie_nodes, 0, "trie nodes left")


CHECKS: list[WatchBusCheck] = []
"""All checks, in the order of the modules that hold them."""

Run = Callable[[WatchBus, WatchBus], Awaitable[None]]


def check(
    *,
    messages: int = 10_000,
    per_key: int = 4,
) -> Callable[[Run], Run]:
    """Make a check of a function that takes the bus to publish through and the one to watch.

    Args:
        messages: of the journal.
        per_key: newest messages kept of each key.
    """

    def add(run: Run) -> Run:
        name = getattr(run, "__name__", "")
        promise = (run.__doc__ or "").partition("\n")[0]
        CHECKS.append(
            WatchBusCheck(name, promise, Retention(messages=messages, per_key=per_key), run)
        )
        return run

    return add


def equal(got: object, wanted: object, what: str) -> None:
    """Assert that two things are equal."""
    if got != wanted:
        raise AssertionError(f"{what}: expected {wanted!r}, got {got!r}")


def holds(condition: object, what: str) -> None:
    """Assert that a condition holds."""
    if not condition:
        raise AssertionError(what)


async def raises(
    expected: type[E], function: Callable[..., Awaitable[object]], *args: object, **more: object
) -> E:
    """Assert that a function raises an error of one type for these arguments; return that."""
    try:
        result = await function(*args, **more)
    except expected as error:
        return error
    raise AssertionError(f"expected {expected.__name__}, got {result!r}")


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait until a condition holds."""
    with trio.move_on_after(_SECONDS / 2):
        while True:
            if condition():
                return
            await trio.sleep(0.001)
    raise AssertionError(f"this never became true: {what}")


async def received(watch: Watch, last: str) -> list[Message]:
    """Receive until the message whose id is `last` has come, that one included."""
    messages = [await watch.receive()]
    while messages[-1].id != last:
        messages.append(await watch.receive())
    return messages


async def receive_one(watch: Watch) -> list[Message]:
    """Receive one message, as `Watch.receive_batch` receives several."""
    return [await watch.receive()]


async def receive_next(watch: Watch) -> list[Message]:
    """Receive one message as ``async for`` does."""
    return [await anext(watch)]


async def receive_batch(watch: Watch) -> list[Message]:
    """Receive what waits."""
    return await watch.receive_batch()


async def receive_now(watch: Watch) -> list[Message]:
    """Receive one message by `Watch.receive_nowait`, asking again until it is there."""
    while True:
        try:
            return [watch.receive_nowait()]
        except trio.WouldBlock:
            await trio.sleep(0.001)


WAYS_TO_RECEIVE: tuple[Callable[[Watch], Awaitable[list[Message]]], ...] = (
    receive_one,
    receive_next,
    receive_batch,
    receive_now,
)
"""Each function that receives, as one that gives a list."""


def data_of(messages: Iterable[Message]) -> list[bytes]:
    """The data of messages, by which checks tell them apart."""
    return [message.data for message in messages]


def sequence(position: str) -> int:
    """The number in a position."""
    return Position.parse(position).sequence


def assert_order(messages: Sequence[Message], what: str) -> None:
    """Assert that positions increase, and so that no message is there twice."""
    numbers = [sequence(message.id) for message in messages]
    equal(numbers, sorted(set(numbers)), f"order of {what}")
