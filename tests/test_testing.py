"""What is offered to test with finds what it is there to find."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from trio_watchbus import (
    BusStatistics,
    HistoryLostError,
    InMemoryWatchBus,
    Message,
    Retention,
    WatchLaggedError,
    WatchStatistics,
)
from trio_watchbus._core._watch import BufferedWatch
from trio_watchbus._request import WatchRequest
from trio_watchbus.abc import Data, Publication, Watch, WatchBus
from trio_watchbus.testing import (
    WATCHBUS_CHECKS,
    assert_nothing_left,
    cancel_everywhere,
    check_watchbus,
)

# A bus with one fault each: the suite has to fail.


class Wrapped(WatchBus):
    """A bus that leaves everything to one in memory; here to have its parts replaced."""

    def __init__(self, retention: Retention) -> None:
        self.inner = InMemoryWatchBus(retention=retention)
        self.max_message_size = self.inner.max_message_size

    async def publish(self, key: str, data: Data, *, idempotency_key: str | None = None) -> str:
        return await self.inner.publish(key, data, idempotency_key=idempotency_key)

    async def publish_prefix(
        self, prefix: str, data: Data, *, idempotency_key: str | None = None
    ) -> str:
        return await self.inner.publish_prefix(prefix, data, idempotency_key=idempotency_key)

    async def publish_many(
        self, messages: Iterable[Publication], *, idempotency_key: str | None = None
    ) -> list[str]:
        return await self.inner.publish_many(messages, idempotency_key=idempotency_key)

    async def latest(self, key: str) -> Message | None:
        return await self.inner.latest(key)

    async def watched_keys(self, prefix: str = "") -> frozenset[str]:
        return await self.inner.watched_keys(prefix)

    @property
    def position(self) -> str:
        return self.inner.position

    def statistics(self) -> BusStatistics:
        return self.inner.statistics()

    def close(self) -> None:
        self.inner.close()

    async def open_watch(self, request: WatchRequest) -> Watch:
        return await self.inner.open_watch(request)


class WrappedWatch(Watch):
    """A watch that leaves everything to another; here to have its parts replaced."""

    def __init__(self, inner: BufferedWatch) -> None:
        self.inner = inner

    async def receive(self) -> Message:
        return await self.inner.receive()

    async def __anext__(self) -> Message:
        return await self.inner.__anext__()

    def receive_nowait(self) -> Message:
        return self.inner.receive_nowait()

    async def receive_batch(self, max_messages: int | None = None) -> list[Message]:
        return await self.inner.receive_batch(max_messages)

    def close(self) -> None:
        self.inner.close()

    @property
    def position(self) -> str:
        return self.inner.position

    def statistics(self) -> WatchStatistics:
        return self.inner.statistics()


class ForgetsIdempotencyKeys(Wrapped):
    async def publish(self, key: str, data: Data, *, idempotency_key: str | None = None) -> str:
        return await self.inner.publish(key, data)


class PublishesBatchesHalf(Wrapped):
    async def publish_many(
        self, messages: Iterable[Publication], *, idempotency_key: str | None = None
    ) -> list[str]:
        ids = []
        for message in messages:
            ids += await self.inner.publish_many([message], idempotency_key=idempotency_key)
        return ids


class LosesEveryHundredth(Wrapped):
    published = 0

    async def publish(self, key: str, data: Data, *, idempotency_key: str | None = None) -> str:
        self.published += 1
        if self.published % 100 == 0:
            return self.position
        return await self.inner.publish(key, data, idempotency_key=idempotency_key)


class TakesPrefixesForPatterns(Wrapped):
    async def publish_prefix(
        self, prefix: str, data: Data, *, idempotency_key: str | None = None
    ) -> str:
        return await self.inner.publish_prefix(prefix.rstrip("*"), data)


class NeverYields(Wrapped):
    async def publish(self, key: str, data: Data, *, idempotency_key: str | None = None) -> str:
        return self.inner.publish_nowait(key, data, idempotency_key=idempotency_key)


class KeepsWatches(Wrapped):
    async def open_watch(self, request: WatchRequest) -> BufferedWatch:
        self.kept = await self.inner.open_watch(WatchRequest(request.keys, request.prefixes))
        return await self.inner.open_watch(request)


class KeepsWatchesOfTheLatest(Wrapped):
    """Only those: no check that looks at what is left by itself opens one."""

    async def open_watch(self, request: WatchRequest) -> BufferedWatch:
        if request.overflow == "latest":
            self.kept = await self.inner.open_watch(WatchRequest(["kept"], ()))
        return await self.inner.open_watch(request)


class ResumesFromTheOldest(Wrapped):
    async def open_watch(self, request: WatchRequest) -> BufferedWatch:
        oldest = self.inner._dispatcher.oldest
        if request.after is not None and request.after.sequence < oldest.sequence:
            request.after = oldest
        return await self.inner.open_watch(request)


class GivesTheLatestUnasked(Wrapped):
    async def open_watch(self, request: WatchRequest) -> BufferedWatch:
        if request.after is None:
            request.history = max(request.history, 1)
        return await self.inner.open_watch(request)


class DropsWhenFull(Wrapped):
    async def open_watch(self, request: WatchRequest) -> BufferedWatch:
        if request.overflow == "replay":
            request.overflow = "drop_newest"
        return await self.inner.open_watch(request)


class LeavesATask(Wrapped):
    """Its task belongs to Trio's own nursery, as one that was started and forgotten would."""

    async def publish(self, key: str, data: Data, *, idempotency_key: str | None = None) -> str:
        trio.lowlevel.spawn_system_task(trio.sleep, 10, name="forgotten")
        return await self.inner.publish(key, data, idempotency_key=idempotency_key)


def with_watches(watch: type[WrappedWatch]) -> type[Wrapped]:
    """A bus whose watches are of a class of their own."""

    class WithWatches(Wrapped):
        async def open_watch(self, request: WatchRequest) -> Watch:
            return watch(await self.inner.open_watch(request))

    return WithWatches


def hiding_losses(function: str) -> type[Wrapped]:
    """A bus whose watches have one function that goes on after a loss without a word."""

    async def receive(watch: WrappedWatch, *args: int | None) -> Any:
        while True:
            with suppress(WatchLaggedError):
                return await getattr(watch.inner, function)(*args)

    return with_watches(type("HidesLosses", (WrappedWatch,), {function: receive}))


class HidesLossesNow(WrappedWatch):
    def receive_nowait(self) -> Message:
        while True:
            with suppress(WatchLaggedError):
                return super().receive_nowait()


def without_turns(function: str) -> type[Wrapped]:
    """A bus whose watches have one function that lets nobody else run while messages wait."""

    async def receive(watch: WrappedWatch, *args: int | None) -> Any:
        await trio.lowlevel.checkpoint_if_cancelled()
        if not watch.inner.statistics().buffered:
            return await getattr(watch.inner, function)(*args)
        message = watch.inner.receive_nowait()
        return [message] if function == "receive_batch" else message

    return with_watches(type("LetsNobodyRun", (WrappedWatch,), {function: receive}))


class StaysAtItsLastMessage(WrappedWatch):
    last: str | None = None

    async def receive(self) -> Message:
        message = await self.inner.receive()
        self.last = message.id
        return message

    @property
    def position(self) -> str:
        return self.inner.position if self.last is None else self.last


class ClosesWithoutACheckpoint(WrappedWatch):
    async def aclose(self) -> None:
        self.close()


class StaysOpenWhereCancelled(WrappedWatch):
    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self.close()


class BusClosesWithoutACheckpoint(Wrapped):
    async def aclose(self) -> None:
        self.close()


class BusStaysOpenWhereCancelled(Wrapped):
    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self.close()


class LosesMostOnClosing(Wrapped):
    def close(self) -> None:
        for watch in self.inner._dispatcher.watches:
            while len(watch._buffer) > 2:
                watch._buffer.popleft()
        super().close()


class DropsWhenTheDefaultIsFull(Wrapped):
    async def open_watch(self, request: WatchRequest) -> Watch:
        if request.overflow == "replay" and request.buffer_size == 1024:
            request.overflow = "drop_newest"
        return await self.inner.open_watch(request)


class GivesTheLatestByKey(WrappedWatch):
    sorted: list[Message] | None = None

    async def receive(self) -> Message:
        if self.inner.request.overflow != "latest":
            return await self.inner.receive()
        if not self.sorted:
            batch = await self.inner.receive_batch()
            self.sorted = sorted(batch, key=lambda message: message.key)
        return self.sorted.pop(0)


def with_oldest_wrong_for(reason: str) -> type[Wrapped]:
    """A bus that tells no position to go on from where it refuses one for this reason."""

    class TellsNoOldest(Wrapped):
        async def open_watch(self, request: WatchRequest) -> Watch:
            try:
                return await self.inner.open_watch(request)
            except HistoryLostError as error:
                wrong = request.after if error.reason == reason else error.position
                raise HistoryLostError(error.reason, str(wrong)) from None

    return TellsNoOldest


def factory(bus: Callable[[Retention], WatchBus]) -> Any:
    def make(*, retention: Retention) -> AbstractAsyncContextManager[WatchBus]:
        return bus(retention)

    return make


async def test_the_suite_passes_a_bus_without_a_fault() -> None:
    await check_watchbus(factory(Wrapped))
    await check_watchbus(factory(with_watches(WrappedWatch)))


@pytest.mark.parametrize(
    "faulty",
    [
        ForgetsIdempotencyKeys,
        PublishesBatchesHalf,
        LosesEveryHundredth,
        TakesPrefixesForPatterns,
        NeverYields,
        KeepsWatches,
        KeepsWatchesOfTheLatest,
        ResumesFromTheOldest,
        GivesTheLatestUnasked,
        DropsWhenFull,
    ],
)
async def test_the_suite_fails_a_bus_with_a_fault(
    faulty: type[Wrapped], autojump_clock: object
) -> None:
    """A check that would wait for a lost message gives up, at once on this clock."""
    with pytest.raises(AssertionError) as raised:
        await check_watchbus(factory(faulty))
    notes = getattr(raised.value, "__notes__", [])
    assert "while checking: " in "".join([str(raised.value), *notes])


LOSS = "what_a_slow_watch_lost_is_told_once"
TURNS = "receiving_lets_others_run"
CLOSING = "closing_asynchronously_is_a_checkpoint"
REFUSED = "another_epoch_and_the_future_are_refused"


FAULTS: dict[str, tuple[type[Wrapped], str]] = {
    "receive hides losses": (hiding_losses("receive"), LOSS),
    "async for hides losses": (hiding_losses("__anext__"), LOSS),
    "receive_batch hides losses": (hiding_losses("receive_batch"), LOSS),
    "receive_nowait hides losses": (with_watches(HidesLossesNow), LOSS),
    "receive lets nobody run": (without_turns("receive"), TURNS),
    "async for lets nobody run": (without_turns("__anext__"), TURNS),
    "receive_batch lets nobody run": (without_turns("receive_batch"), TURNS),
    "position stays": (
        with_watches(StaysAtItsLastMessage),
        "a_position_passes_what_does_not_match",
    ),
    "aclose is no checkpoint": (with_watches(ClosesWithoutACheckpoint), CLOSING),
    "aclose leaves it open": (with_watches(StaysOpenWhereCancelled), CLOSING),
    "aclose of the bus is no checkpoint": (BusClosesWithoutACheckpoint, CLOSING),
    "aclose of the bus leaves it open": (BusStaysOpenWhereCancelled, CLOSING),
    "closing loses messages": (LosesMostOnClosing, "a_closed_bus_ends_its_watches"),
    "the default buffer drops": (DropsWhenTheDefaultIsFull, "replay_drops_nothing"),
    "latest is out of order": (
        with_watches(GivesTheLatestByKey),
        "latest_keeps_the_newest_of_each_key",
    ),
    "no oldest for another epoch": (with_oldest_wrong_for("epoch"), REFUSED),
    "no oldest for the future": (with_oldest_wrong_for("future"), REFUSED),
}


@pytest.mark.parametrize(("faulty", "name"), FAULTS.values(), ids=FAULTS.keys())
async def test_a_check_fails_a_bus_with_the_fault_that_it_is_for(
    faulty: type[Wrapped], name: str, autojump_clock: object
) -> None:
    [check] = [check for check in WATCHBUS_CHECKS if check.name == name]
    await check(factory(Wrapped))
    with pytest.raises(AssertionError):
        await check(factory(faulty))


async def test_a_lost_message_is_an_assertion_that_names_the_promise(
    autojump_clock: object,
) -> None:
    class LosesAll(Wrapped):
        async def publish(self, key: str, data: Data, *, idempotency_key: str | None = None) -> str:
            await trio.lowlevel.checkpoint()
            return self.position

    [check] = [check for check in WATCHBUS_CHECKS if check.name == "data_may_be_any_bytes"]
    with pytest.raises(AssertionError, match=check.promise) as raised:
        await check(factory(LosesAll))
    assert isinstance(raised.value.__cause__, trio.TooSlowError)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left is known to stay: do not wait for it to end."""
    monkeypatch.setattr("trio_watchbus.testing._left._PATIENCE", 0.02)


async def test_the_suite_fails_a_bus_that_leaves_a_task(impatient: None) -> None:
    with pytest.raises(AssertionError, match="tasks: "):
        await check_watchbus(factory(LeavesATask))


async def test_several_handles_onto_one_log_are_the_publisher_and_the_watcher() -> None:
    def make(*, retention: Retention) -> AbstractAsyncContextManager[Any]:
        return Pair(InMemoryWatchBus(retention=retention))

    class Pair(AbstractAsyncContextManager[Any]):
        def __init__(self, bus: InMemoryWatchBus) -> None:
            self.bus = bus

        async def __aenter__(self) -> tuple[WatchBus, WatchBus]:
            return self.bus, self.bus

        async def __aexit__(self, *_: object) -> None:
            self.bus.close()

    await check_watchbus(make)


# What is left


async def test_it_says_which_watches_are_left() -> None:
    bus = InMemoryWatchBus()
    opening = bus.watch("k")
    with pytest.raises(AssertionError, match="'watches': 1, 'watched keys': 1"):
        async with assert_nothing_left(bus):
            await opening.__aenter__()
    await opening.__aexit__(None, None, None)
    async with assert_nothing_left(bus), bus.watch("k"):
        pass


@pytest.mark.parametrize(
    ("count", "said"),
    [
        ("watches", "'watches': 1"),
        ("watched_keys", "'watched keys': 1"),
        ("watched_prefixes", "'watched prefixes': 1"),
        ("trie_nodes", "'trie nodes': 1"),
    ],
)
async def test_it_finds_what_is_left_in_one_structure_alone(count: str, said: str) -> None:
    class Leaks(Wrapped):
        left = 0

        def statistics(self) -> BusStatistics:
            counts: dict[str, Any] = {count: self.left}
            return replace(super().statistics(), **counts)

    bus = Leaks(Retention())
    with pytest.raises(AssertionError, match=said):
        async with assert_nothing_left(bus):
            bus.left = 1


async def test_it_says_that_a_descriptor_is_left(impatient: None) -> None:
    with pytest.raises(AssertionError, match="descriptors: "):
        async with assert_nothing_left():
            reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(
    ("limiter", "said"),
    [(None, r"threads: .*limiter_tokens: "), (trio.CapacityLimiter(1), "threads: ")],
)
async def test_it_says_that_a_busy_thread_and_its_token_are_left(
    impatient: None, limiter: trio.CapacityLimiter | None, said: str
) -> None:
    """A token of a limiter of a bus's own is found by the thread that holds it."""
    released = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def wait() -> None:
        trio.from_thread.run(released.wait, trio_token=token)

    async with trio.open_nursery() as nursery:
        with pytest.raises(AssertionError, match=said):
            async with assert_nothing_left():
                nursery.start_soon(partial(trio.to_thread.run_sync, wait, limiter=limiter))
                await trio.testing.wait_all_tasks_blocked(0.01)
        released.set()
    # The thread that Trio keeps for the next call is nothing that was left.
    async with assert_nothing_left():
        await trio.to_thread.run_sync(int)


async def test_what_takes_the_place_of_what_has_ended_is_nothing_that_is_left(
    impatient: None,
) -> None:
    """As a new connection of a bus from before, and the thread that reads from it."""
    before = os.pipe()
    first, second = threading.Event(), threading.Event()
    threads = [threading.Thread(target=event.wait, daemon=True) for event in (first, second)]
    threads[0].start()
    async with assert_nothing_left():
        after = os.pipe()
        for descriptor in before:
            os.close(descriptor)
        threads[1].start()
        first.set()
        threads[0].join()
    for descriptor in after:
        os.close(descriptor)
    second.set()
    threads[1].join()


async def test_a_thread_is_found_that_is_named_nearly_as_trios_idle_ones(impatient: None) -> None:
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait, daemon=True, name="Trio thread 1 of mine")
    with pytest.raises(AssertionError, match="threads: "):
        async with assert_nothing_left():
            thread.start()
    ended.set()
    thread.join()


STANDING = trio.testing.MockClock
JUMPING = partial(trio.testing.MockClock, autojump_threshold=0)


@pytest.mark.parametrize("clock", [STANDING, JUMPING])
def test_it_waits_in_real_time_whatever_the_clock(clock: Callable[[], Any]) -> None:
    """What a thread closes in real time is closed in time; and what stays open is told."""
    reading, writing = os.pipe()

    def close_late(descriptor: int) -> None:
        timer = threading.Timer(0.05, os.close, [descriptor])
        timer.daemon = True
        timer.start()

    async def main() -> None:
        async with assert_nothing_left():
            close_late(os.dup(reading))
        started, real = trio.current_time(), time.monotonic()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("trio_watchbus.testing._left._PATIENCE", 0.02)
            with pytest.raises(AssertionError, match="descriptors: "):
                async with assert_nothing_left():
                    os.close(os.dup(writing))
                    left.append(os.dup(writing))
        # It does not run the test's clock far ahead, as into a deadline around it.
        assert trio.current_time() - started <= time.monotonic() - real

    left: list[int] = []
    trio.run(main, clock=clock())
    for descriptor in (reading, writing, *left):
        os.close(descriptor)


def test_it_waits_for_what_ends_in_the_time_of_a_clock_that_jumps() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery, assert_nothing_left():
            nursery.start_soon(trio.sleep, 0.1)

    trio.run(main, clock=JUMPING())


async def test_an_error_of_the_body_comes_out_as_it_is() -> None:
    bus = InMemoryWatchBus()
    with pytest.raises(ZeroDivisionError):
        async with assert_nothing_left(bus):
            watching = await bus.watch("k").__aenter__()
            raise ZeroDivisionError
    watching.close()


# Cancelling everywhere


async def test_every_step_is_cancelled_once_before_and_once_after() -> None:
    reached: list[int] = []

    async def attempt() -> None:
        step = 0
        try:
            while step < 3:
                await trio.lowlevel.checkpoint()
                step += 1
        finally:
            reached.append(step)

    async def then() -> None:
        await trio.lowlevel.checkpoint()

    assert await cancel_everywhere(attempt, then) >= 6
    assert set(reached) == {0, 1, 2, 3}


async def test_a_quick_attempt_now_and_then_does_not_end_it_early() -> None:
    attempts = 0

    async def attempt() -> None:
        nonlocal attempts
        attempts += 1
        # Those are the two of one step, when that is reached.
        for _ in range(2 if attempts in (9, 10) else 10):
            await trio.lowlevel.checkpoint()

    assert await cancel_everywhere(attempt, trio.lowlevel.checkpoint) >= 18


async def test_what_is_done_by_halves_is_found() -> None:
    balance = 0

    async def attempt() -> None:
        nonlocal balance
        balance += 1
        await trio.lowlevel.checkpoint()
        balance -= 1

    async def then() -> None:
        await trio.lowlevel.checkpoint()
        assert balance == 0

    with pytest.raises(AssertionError):
        await cancel_everywhere(attempt, then)


async def test_a_cancel_strikes_while_the_task_waits_too() -> None:
    waited: list[str] = []

    async def attempt() -> None:
        try:
            await trio.testing.wait_all_tasks_blocked()
            waited.append("to the end")
        except trio.Cancelled:
            waited.append("until cancelled")
            raise

    await cancel_everywhere(attempt, trio.lowlevel.checkpoint)
    assert set(waited) == {"to the end", "until cancelled"}


# The fixture

USES_THE_FIXTURE = """
import trio

async def test_it_is_a_bus(watchbus):
    async with watchbus.watch("k") as watch:
        await watchbus.publish("k", b"1")
        assert (await watch.receive()).data == b"1"

async def test_under_an_autojump_clock(watchbus, autojump_clock):
    async with watchbus.watch("k") as watch, trio.open_nursery() as nursery:
        async def publish_late():
            await trio.sleep(100_000)
            await watchbus.publish("k", b"1")
        nursery.start_soon(publish_late)
        assert (await watch.receive()).data == b"1"

def test_it_is_the_tests_own(watchbus):
    assert watchbus.statistics().journal_messages == 0

async def test_leaving_a_watch_open(watchbus):
    await watchbus.watch("k").__aenter__()
"""


KEEPS_WHAT_THE_FIXTURE_GAVE = """
kept = []

def test_before(watchbus):
    kept.append(watchbus)

async def test_leaving_a_watch_open(watchbus):
    kept.append(watchbus)
    await watchbus.watch("k").__aenter__()

def test_after():
    assert [bus.statistics().connected for bus in kept] == [False, False]
"""


def run_tests(folder: Path, tests: str) -> str:
    """Run tests of a program that uses the plugin; return what pytest says."""
    (folder / "conftest.py").write_text('pytest_plugins = ["trio_watchbus.testing.plugin"]')
    (folder / "test_it.py").write_text(tests)
    (folder / "pytest.ini").write_text("[pytest]\ntrio_mode = true\n")
    # The settings of this project are not those of the programs that use it.
    options = ["-p", "no:cacheprovider", f"--rootdir={folder}"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, folder],
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout + run.stderr


def test_the_fixture_gives_a_bus_and_finds_watches_left(tmp_path: Path) -> None:
    said = run_tests(tmp_path, USES_THE_FIXTURE)
    assert "4 passed, 1 error" in said, said
    assert "ERROR" in said
    assert "watches left: expected 0, got 1" in said


DO_NOT_PASS_WITH_A_WATCH_OPEN = """
import pytest
import trio

async def fails(bus):
    await bus.watch("k").__aenter__()
    assert "the only" == "error"

@pytest.fixture
def broken(watchbus):
    trio.run(fails, watchbus)

async def test_fails(watchbus):
    await fails(watchbus)

async def test_is_skipped(watchbus):
    await watchbus.watch("k").__aenter__()
    pytest.skip("no")

async def test_is_expected_to_fail(watchbus):
    await watchbus.watch("k").__aenter__()
    pytest.xfail("yes")

async def test_whose_setup_fails(broken): ...
"""


def test_a_test_that_does_not_pass_with_a_watch_open_has_no_second_error(tmp_path: Path) -> None:
    said = run_tests(tmp_path, DO_NOT_PASS_WITH_A_WATCH_OPEN)
    assert "1 failed, 1 skipped, 1 xfailed, 1 error in" in said, said
    assert "watches left" not in said


def test_the_bus_of_the_fixture_is_closed_afterwards(tmp_path: Path) -> None:
    """Who kept it, a task that outlives the test say, is told; where a watch was left, too."""
    said = run_tests(tmp_path, KEEPS_WHAT_THE_FIXTURE_GAVE)
    assert "3 passed, 1 error" in said, said
