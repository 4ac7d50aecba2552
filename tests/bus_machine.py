"""A machine that does to a bus and to the naive model whatever Hypothesis makes up.

A bus is asynchronous and Hypothesis is not: the bus lives in a thread of its own, where Trio runs.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Protocol

import pytest
import trio
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)
from naive import keys, prefixes, sequence
from naive_bus import Lag, NaiveBus, NaiveWatch, Sent
from served import caught_up

from trio_watchbus import HistoryLostError, Message, Retention, WatchLaggedError
from trio_watchbus._message import Position
from trio_watchbus.abc import Watch, WatchBus

small_retentions = st.builds(
    Retention,
    messages=st.integers(1, 8),
    bytes=st.sampled_from([1, 12, 30, 10_000]),
    per_key=st.integers(0, 3),
    keys=st.integers(0, 4),
)
datas = st.integers(0, 12).map(lambda size: b"." * size)
publications = st.tuples(keys, datas) | st.tuples(prefixes, datas, st.just(value=True))
starts = st.one_of(
    st.just(("now", 0)),
    st.tuples(st.just("history"), st.integers(1, 4)),
    # How far back, from one that the bus has not reached.
    st.tuples(st.just("after"), st.integers(-1, 12)),
)


class TrioThread:
    """A thread in which Trio runs, and a bus in it."""

    def __init__(self) -> None:
        self._started = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,), daemon=True)
        self._thread.start()
        self._started.wait()

    def run(self, function: Callable[..., Awaitable[Any]], *args: object) -> Any:
        """Run an async function there, and return what it returns."""
        return trio.from_thread.run(function, *args, trio_token=self._token)

    def open(self, opening: AbstractAsyncContextManager[WatchBus]) -> WatchBus:
        """Open a bus, which is closed by `close`, in the same task."""
        bus: WatchBus = self.run(self._nursery.start, self._hold, opening)
        return bus

    def close(self) -> None:
        self.run(self._stop)
        self._thread.join()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stopping = trio.Event()
        async with trio.open_nursery() as self._nursery:
            self._started.set()
            await self._stopping.wait()

    async def _stop(self) -> None:
        self._stopping.set()

    async def _hold(
        self,
        opening: AbstractAsyncContextManager[WatchBus],
        task_status: trio.TaskStatus[WatchBus],
    ) -> None:
        async with opening as bus:
            task_status.started(bus)
            await self._stopping.wait()


class Factory(Protocol):
    """Opens a fresh bus."""

    def __call__(self, *, retention: Retention) -> AbstractAsyncContextManager[WatchBus]: ...


class Both:
    """A watch, and its model."""

    def __init__(self, opening: AbstractAsyncContextManager[Watch], model: NaiveWatch) -> None:
        self.opening = opening
        self.model = model
        self.watch: Watch

    def __repr__(self) -> str:
        return f"watch on {self.model.keys} and {self.model.prefixes}"


class BusMachine(RuleBasedStateMachine):
    """Drives a bus and its model alike. Subclasses say which bus.

    Attributes:
        factory: opens a fresh bus.
        retentions: what the bus is asked to keep. A bus that may keep more than it is asked to
            has to be asked for more than one example sends.
        patience: seconds until what was published has come back, and what is watched is known.
    """

    factory: ClassVar[Factory]
    retentions: ClassVar[st.SearchStrategy[Retention]] = small_retentions
    patience: ClassVar[float] = 0

    watches: Bundle[Both] = Bundle("watches")

    def __init__(self) -> None:
        super().__init__()
        self.trio = TrioThread()
        self.open: list[Both] = []
        self.retries: dict[str, list[str]] = {}

    @initialize(data=st.data())
    def open_bus(self, data: st.DataObject) -> None:
        retention = data.draw(self.retentions, label="retention")
        self.model = NaiveBus(retention.filled())
        self.bus = self.trio.open(type(self).factory(retention=retention))
        start = Position.parse(self.bus.position)
        self.epoch = start.epoch
        assert start.sequence == 0
        # By number, as a bus may name more of a message than its number.
        self.positions = {0: self.bus.position}

    def teardown(self) -> None:
        if hasattr(self, "bus"):
            self.trio.run(self._leave_all)
        self.trio.close()

    # Publishing

    @rule(key=keys, data=datas)
    def publish(self, key: str, data: bytes) -> None:
        self._publish(lambda: self.bus.publish(key, data), [(key, data)])

    @rule(prefix=prefixes, data=datas)
    def publish_prefix(self, prefix: str, data: bytes) -> None:
        self._publish(lambda: self.bus.publish_prefix(prefix, data), [(prefix, data, True)])

    @rule(batch=st.lists(publications, max_size=6))
    def publish_many(self, batch: list[Any]) -> None:
        self._publish(lambda: self.bus.publish_many(batch), batch)

    @rule(name=st.sampled_from("xy"), key=keys, data=datas)
    def publish_once(self, name: str, key: str, data: bytes) -> None:
        retried = self.retries.get(name)
        ids = self._publish(
            lambda: self.bus.publish(key, data, idempotency_key=name),
            [] if retried else [(key, data)],
        )
        assert self.retries.setdefault(name, ids) == ids

    def _publish(self, publish: Callable[[], Awaitable[Any]], batch: list[Any]) -> list[str]:
        async def has_come_back() -> bool:
            return sequence(self.bus.position) >= self.model.last and caught_up(self.bus)

        async def settle() -> list[str]:
            answer = await publish()
            await self._until(has_come_back)
            return [answer] if isinstance(answer, str) else answer

        first = self.model.last + 1
        for name, data, *prefix in batch:
            self.model.send(name, data, is_prefix=bool(prefix))
        ids: list[str] = self.trio.run(settle)
        if batch:
            numbers = range(first, self.model.last + 1)
            assert list(map(self._numbered, ids)) == list(numbers)
            self.positions.update(zip(numbers, ids, strict=True))
        return ids

    def _numbered(self, position: str) -> int:
        parsed = Position.parse(position)
        assert parsed.epoch == self.epoch
        return parsed.sequence

    async def _until(self, ask: Callable[[], Awaitable[bool]]) -> None:
        """Assert that the answer is yes, in the time that the bus has for it."""
        deadline = trio.current_time() + self.patience
        while not await ask():
            assert trio.current_time() < deadline
            # What a bus does in the background it tells nobody.
            await trio.sleep(0.001)

    # Watching

    @rule(
        target=watches,
        names=st.sets(keys, max_size=2),
        beginnings=st.sets(prefixes, max_size=2),
        overflow=st.sampled_from(["replay", "replay", "latest", "drop_oldest", "drop_newest"]),
        buffer_size=st.integers(1, 4),
        start=starts,
    )
    def watch(
        self,
        names: set[str],
        beginnings: set[str],
        overflow: Any,
        buffer_size: int,
        start: tuple[str, int],
    ) -> Any:
        if not names and not beginnings:
            beginnings = {""}
        how: dict[str, Any] = {"overflow": overflow, "buffer_size": buffer_size}
        after, history = None, 0
        if start[0] == "history":
            history = how["history"] = start[1]
        elif start[0] == "after":
            after = max(0, self.model.last - start[1])
            # One that has not come yet has no more than a number.
            how["after"] = self.positions.get(after, f"{self.epoch}-{after}")
        if (len(names), len(beginnings)) == (1, 0):
            opening = self.bus.watch(*names, **how)
        elif (len(names), len(beginnings)) == (0, 1):
            opening = self.bus.subscribe_prefix(*beginnings, **how)
        else:
            opening = self.bus.watch_any(names, beginnings, **how)
        model = NaiveWatch(self.model, names, beginnings, overflow, buffer_size)
        return self._open(Both(opening, model), after, history)

    @rule(target=watches, resumed=watches)
    def resume(self, resumed: Both) -> Any:
        """Open another watch where one is now."""
        if resumed not in self.open:
            return multiple()
        position = resumed.watch.position
        model = NaiveWatch(
            self.model, resumed.model.keys, resumed.model.prefixes, "replay", buffer_size=2
        )
        opening = self.bus.watch_any(model.keys, model.prefixes, after=position, buffer_size=2)
        return self._open(Both(opening, model), sequence(position), 0)

    def _open(self, both: Both, after: int | None, history: int) -> Any:
        reason = None
        if after is not None and after > self.model.last:
            reason = "future"
        elif after is not None and after < self.model.first - 1:
            reason = "trimmed"
        if reason is not None:
            with pytest.raises(HistoryLostError) as raised:
                self.trio.run(both.opening.__aenter__)
            assert raised.value.reason == reason
            assert self._numbered(raised.value.position) == self.model.first - 1
            return multiple()
        both.watch = self.trio.run(both.opening.__aenter__)
        both.model.start(after=after, history=history)
        self.open.append(both)
        return both

    @rule(both=consumes(watches))
    def leave(self, both: Both) -> None:
        if both in self.open:
            self.trio.run(self._leave, both)

    async def _leave(self, both: Both) -> None:
        self.open.remove(both)
        self.model.watches.remove(both.model)
        await both.opening.__aexit__(None, None, None)

    # Receiving

    @rule(both=watches, count=st.integers(1, 8))
    def receive(self, both: Both, count: int) -> None:
        if both in self.open:
            self.trio.run(self._receive, both, count)

    @rule(both=watches, most=st.none() | st.integers(1, 4))
    def receive_batch(self, both: Both, most: int | None) -> None:
        if both not in self.open:
            return
        expected = both.model.receive()
        if expected is None:
            return
        if isinstance(expected, Lag):
            got = self.trio.run(self._lag, lambda: both.watch.receive_batch(most))
            assert got == expected
            return
        batch = [expected]
        while both.model.buffer and (most is None or len(batch) < most):
            following = both.model.receive()
            assert isinstance(following, Sent)
            batch.append(following)
        messages = self.trio.run(both.watch.receive_batch, most)
        assert [self._as_sent(message) for message in messages] == batch

    async def _receive(self, both: Both, count: int) -> None:
        for _ in range(count):
            expected = both.model.receive()
            if expected is None:
                try:
                    message = both.watch.receive_nowait()
                except trio.WouldBlock:
                    return
                raise AssertionError(f"nothing was expected, and {message} came")
            if isinstance(expected, Lag):
                assert await self._lag(both.watch.receive) == expected
            else:
                with trio.fail_after(30):
                    assert self._as_sent(await both.watch.receive()) == expected

    async def _lag(self, receive: Callable[[], Awaitable[object]]) -> Lag:
        with pytest.raises(WatchLaggedError) as raised:
            await receive()
        assert raised.value.reason == "trimmed"
        assert raised.value.missed is not None
        return Lag(raised.value.missed, sequence(raised.value.position))

    def _as_sent(self, message: Message) -> Sent:
        assert message.id == self.positions[sequence(message.id)]
        return Sent(sequence(message.id), message.key, message.data, message.is_prefix)

    async def _leave_all(self) -> None:
        """Receive all that is left, and leave every watch."""
        for both in list(self.open):
            # What is lost may be told in between.
            await self._receive(both, self.model.last + 2)
            assert both.model.pending == []
            await self._leave(both)
        statistics = self.bus.statistics()
        assert statistics.watches == statistics.trie_nodes == 0

    # Asking

    @rule(key=keys)
    def latest(self, key: str) -> None:
        message = self.trio.run(self.bus.latest, key)
        tail = self.model.kept.get(key, [])
        assert (message and self._as_sent(message)) == (tail[-1] if tail else None)

    @precondition(lambda self: self.open)
    @rule(prefix=prefixes)
    def watched_keys(self, prefix: str) -> None:
        named = {name for both in self.open for name in both.model.keys}
        expected = {name for name in named if name.startswith(prefix)}

        async def ask() -> bool:
            return await self.bus.watched_keys(prefix) == expected

        self.trio.run(self._until, ask)

    @invariant()
    def counts_are_those_of_the_model(self) -> None:
        if not hasattr(self, "bus"):
            return
        statistics = self.bus.statistics()
        models = [both.model for both in self.open]
        assert statistics.watches == len(models)
        assert statistics.watched_keys == len({name for m in models for name in m.keys})
        assert statistics.watched_prefixes == len({name for m in models for name in m.prefixes})
        assert (statistics.trie_nodes == 0) == (not models)
        for both in self.open:
            assert both.watch.statistics().dropped == both.model.dropped
            if both.model.overflow != "latest":
                assert both.watch.statistics().buffered == len(both.model.buffer)

    @invariant()
    def a_position_is_where_what_was_not_received_begins(self) -> None:
        for both in self.open:
            model = both.model
            following = model.after(sequence(both.watch.position))
            if model.overflow == "replay" and not model.history_left:
                assert following == model.pending
            else:
                # Of what comes after it some was dropped, or is not among the history asked for.
                assert set(following) >= set(model.pending)
