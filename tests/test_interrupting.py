"""`interrupt_everywhere` reaches each place that Ctrl-C can, and finds what is not safe there."""

from __future__ import annotations

import gc
import signal
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.lowlevel import Abort, Task, checkpoint, enable_ki_protection, wait_task_rescheduled

from trio_watchbus.testing import interrupt_everywhere

everywhere = partial(interrupt_everywhere, code=[__file__], seconds=10)


async def nothing() -> None:
    await checkpoint()


def test_every_loop_pass_call_and_return_is_interrupted() -> None:
    """Each of three C calls, on its own and in a loop, is followed by an interrupt once."""
    seen: set[tuple[int, int]] = set()
    before: list[int] = []
    inside: list[int] = []

    async def attempt() -> None:
        before.clear()
        inside.clear()
        try:
            await checkpoint()
            before.append(0)
            before.append(0)
            for number in range(2):
                inside.append(number)  # noqa: PERF402, a call in a loop
            await checkpoint()
        finally:
            seen.add((len(before), len(inside)))

    assert everywhere(attempt, nothing) > 5
    assert seen == {(0, 0), (1, 0), (2, 0), (2, 1), (2, 2)}


def test_an_unprotected_function_is_interrupted_and_a_protected_one_is_whole() -> None:
    halves: set[tuple[str, int]] = set()
    done: list[int] = []

    def unprotected() -> None:
        done.append(1)
        done.append(2)

    @enable_ki_protection
    def protected() -> None:
        done.append(1)
        done.append(2)

    async def attempt(call: Callable[[], None]) -> None:
        done.clear()
        try:
            await checkpoint()
            call()
            await checkpoint()
        finally:
            halves.add((call.__name__, len(done)))

    everywhere(partial(attempt, unprotected), nothing)
    everywhere(partial(attempt, protected), nothing)
    assert ("unprotected", 1) in halves
    assert ("protected", 1) not in halves
    assert {("protected", 0), ("protected", 2)} <= halves


def test_a_function_that_is_called_often_is_interrupted_at_powers_of_two() -> None:
    reached: list[int] = []
    count = 0

    def loop() -> None:
        nonlocal count
        while count < 100:
            count += 1

    async def attempt() -> None:
        nonlocal count
        count = 0
        try:
            loop()
            await checkpoint()
        finally:
            reached.append(count)

    everywhere(attempt, nothing)
    assert {1, 2, 4, 8, 16, 32, 64} <= set(reached)
    assert len(reached) < 50


def test_between_steps_the_interrupt_comes_to_the_main_task() -> None:
    """Also while that waits and another task runs."""
    interrupted: list[str] = []

    async def child() -> None:
        for _ in range(3):
            await checkpoint()

    async def attempt() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            try:
                await trio.testing.wait_all_tasks_blocked()
            except KeyboardInterrupt:
                interrupted.append(trio.lowlevel.current_task().name)
                raise

    # No code, steps of the scheduler only.
    assert everywhere(attempt, nothing, code=[]) >= 8
    assert len(interrupted) >= 4
    assert len(set(interrupted)) == 1


class Mailbox:
    """A hand-made hand-over of one value, like those of watches and lines."""

    def __init__(self) -> None:
        self._values: deque[int] = deque()
        self._task: Task | None = None

    def put(self, value: int) -> None:
        self._values.append(value)
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)

    async def get(self) -> int:
        if not self._values:
            self._task = trio.lowlevel.current_task()

            def abort(_: object) -> Abort:
                self._task = None
                return Abort.SUCCEEDED

            await wait_task_rescheduled(abort)
        return self._values.popleft()

    @enable_ki_protection
    async def get_protected(self) -> int:
        return await self.get()


async def hand_over(get: Callable[[Mailbox], Awaitable[int]]) -> None:
    mailbox = Mailbox()

    async def put() -> None:
        await checkpoint()
        mailbox.put(1)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(put)
            await get(mailbox)
    finally:
        mailbox.put(2)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_park_by_hand_without_protection_is_found() -> None:
    """A task that is noted as parked, and never parks, is rescheduled: that breaks Trio."""
    with pytest.raises(trio.TrioInternalError) as caught:
        everywhere(partial(hand_over, Mailbox.get), nothing)
    assert "Mailbox.get" in caught.value.__notes__[-1]
    assert Path(__file__).name in caught.value.__notes__[-1]
    del caught
    gc.collect()


def test_a_park_by_hand_with_protection_passes() -> None:
    assert everywhere(partial(hand_over, Mailbox.get_protected), nothing) > 5


class Registry:
    """What an operation holds, and gives back by two ways."""

    def __init__(self) -> None:
        self.held: list[int] = []

    @enable_ki_protection
    def take(self) -> None:
        self.held = [1, 2]

    def let_go(self) -> None:
        self.held.pop()
        self.held.pop()

    @enable_ki_protection
    def let_go_protected(self) -> None:
        self.held.pop()
        self.held.pop()


def fail_and_clean_up(let_go: Callable[[Registry], None]) -> None:
    """Interrupt everywhere an operation that fails, and cleans up before it tells so."""
    registry = Registry()

    @enable_ki_protection
    def fail() -> None:
        raise ZeroDivisionError

    async def attempt() -> None:
        try:
            registry.take()
            fail()
        except ZeroDivisionError:
            let_go(registry)
        await checkpoint()

    async def then() -> None:
        assert registry.held == []
        await checkpoint()

    everywhere(attempt, then)


def test_an_except_with_an_unprotected_cleanup_is_found() -> None:
    with pytest.raises(AssertionError) as caught:
        fail_and_clean_up(Registry.let_go)
    assert "Registry.let_go" in caught.value.__notes__[-1]


def test_an_except_with_a_protected_cleanup_passes() -> None:
    fail_and_clean_up(Registry.let_go_protected)


def test_a_swallowed_interrupt_is_found() -> None:
    async def attempt() -> None:
        with suppress(KeyboardInterrupt):
            await checkpoint()

    with pytest.raises(AssertionError, match="swallowed"):
        everywhere(attempt, nothing)


def test_an_operation_that_hangs_once_interrupted_is_found() -> None:
    async def attempt() -> None:
        try:
            await checkpoint()
        except KeyboardInterrupt:
            await trio.sleep_forever()

    with pytest.raises(AssertionError, match=r"hangs: it is not done within 0.05 seconds"):
        interrupt_everywhere(attempt, nothing, code=[__file__], seconds=0.05)


def test_another_error_comes_out_as_it_is() -> None:
    async def attempt() -> None:
        try:
            await checkpoint()
        except KeyboardInterrupt:
            raise ZeroDivisionError from None

    with pytest.raises(ZeroDivisionError):
        everywhere(attempt, nothing)


def test_an_error_beside_an_interrupt_comes_out_in_its_group() -> None:
    async def attempt() -> None:
        try:
            await checkpoint()
        except KeyboardInterrupt as interrupt:
            raise BaseExceptionGroup("both", [interrupt, ZeroDivisionError()]) from None

    with pytest.raises(BaseExceptionGroup, match="both"):
        everywhere(attempt, nothing)


def test_an_interrupt_in_a_group_is_one() -> None:
    async def attempt() -> None:
        try:
            await checkpoint()
        except KeyboardInterrupt as interrupt:
            raise BaseExceptionGroup("alone", [interrupt]) from None

    assert everywhere(attempt, nothing) > 0


def test_the_handler_and_the_tracer_from_before_are_back() -> None:
    handler: Any = lambda *_: None  # noqa: E731
    before = signal.signal(signal.SIGINT, handler)
    tracer = sys.gettrace()
    try:
        everywhere(nothing, nothing)
        assert signal.getsignal(signal.SIGINT) is handler
        assert sys.gettrace() is tracer
        assert gc.isenabled()
    finally:
        signal.signal(signal.SIGINT, before)


def test_it_needs_the_main_thread_as_signals_do() -> None:
    errors: list[RuntimeError] = []

    def call() -> None:
        try:
            everywhere(nothing, nothing)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert "main thread" in str(errors[0])
