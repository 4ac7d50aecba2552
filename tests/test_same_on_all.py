"""The same operations on every bus give each watch the same: what the naive model gives.

The operations are made up once, by numbers of chance that are the same each time, and played on
each kind of bus, through one handle for who publishes and another one for who watches.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

import pytest
import trio
from buses import PairFactory, fake_redis, memory, redis_on, remote, remote_over_redis_on
from naive import LETTERS, sequence
from naive_bus import NaiveBus, NaiveWatch, Sent
from redis_bus.servers import RedisServer, binaries, running
from served import SECONDS, until

from trio_watchbus import HistoryLostError, Message, Retention, WatchLaggedError
from trio_watchbus._message import Position
from trio_watchbus.abc import Watch, WatchBus

OPERATIONS = 150
RUNS = 10

KINDS = ["memory", "fake Redis", "Redis", "remote", "remote over Redis"]
every_bus = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with running(min(binaries())) as server:
        yield server


@pytest.fixture
def factory(kind: str, redis_server: RedisServer) -> PairFactory:
    factories: dict[str, PairFactory] = {
        "memory": memory,
        "fake Redis": fake_redis,
        "Redis": redis_on(redis_server),
        "remote": remote,
        "remote over Redis": remote_over_redis_on(redis_server),
    }
    return factories[kind]


class Operation(NamedTuple):
    """What is done, and with what; which watch is meant counts around those that are open."""

    name: str
    arguments: tuple[Any, ...]


def record(seed: int) -> list[Operation]:
    """Make up what is done in a run."""
    chance = random.Random(seed)

    def text(least: int) -> str:
        return "".join(chance.choices(LETTERS[:5], k=chance.randint(least, 3)))

    def publication() -> tuple[Any, ...]:
        data = b"%d" % chance.randrange(10**6)
        return (text(0), data, True) if chance.random() < 0.3 else (text(1), data)

    def watch() -> tuple[Any, ...]:
        names = [text(1) for _ in range(chance.randrange(3))]
        beginnings = [text(0) for _ in range(chance.randrange(3))]
        overflow = chance.choice(["replay", "replay", "latest", "drop_oldest", "drop_newest"])
        # Which ones of a past longer than its buffer a watch drops depends on how fast they come.
        starts = ["now"] if overflow.startswith("drop") else ["now", "history", "after", "after"]
        start = (chance.choice(starts), chance.randint(-1, 15))
        return names, beginnings or ([] if names else [""]), overflow, chance.randint(1, 4), start

    makers: dict[str, Callable[[], tuple[Any, ...]]] = {
        "publish": publication,
        "publish_many": lambda: tuple(publication() for _ in range(chance.randint(1, 6))),
        "watch": watch,
        "resume": lambda: (chance.randrange(100),),
        "leave": lambda: (chance.randrange(100),),
        "receive": lambda: (chance.randrange(100), chance.randint(1, 8), chance.random() < 0.5),
    }
    names = chance.choices(list(makers), weights=[6, 3, 4, 1, 1, 6], k=OPERATIONS)
    return [Operation(name, makers[name]()) for name in names]


class Open(NamedTuple):
    """A watch that is open, and its model."""

    opening: AbstractAsyncContextManager[Watch]
    watch: Watch
    model: NaiveWatch


class Player:
    """Plays operations on a bus and on the model, and compares what each watch receives."""

    def __init__(self, publisher: WatchBus, watcher: WatchBus, retention: Retention) -> None:
        self.publisher = publisher
        self.watcher = watcher
        self.model = NaiveBus(retention.filled())
        self.epoch = ""
        # By their numbers, as their ids need not be made of epoch and number alone.
        self.positions: dict[int, str] = {}
        self.open: list[Open] = []
        self.received = 0

    async def play(self, operations: list[Operation]) -> None:
        self.epoch = Position.parse(self.watcher.position).epoch
        self.positions[0] = self.watcher.position
        for name, arguments in operations:
            with trio.fail_after(SECONDS):
                if name in ("publish", "publish_many", "watch"):
                    await getattr(self, name)(*arguments)
                elif self.open:
                    which, *more = arguments
                    await getattr(self, name)(self.open[which % len(self.open)], *more)
        for each in list(self.open):
            await self.receive(each, self.model.last, in_batches=True)
            assert each.model.pending == []
            with pytest.raises(trio.WouldBlock):
                each.watch.receive_nowait()
            await self.leave(each)

    async def publish(self, name: str, data: bytes, is_prefix: bool = False) -> None:
        self.model.send(name, data, is_prefix=is_prefix)
        publish = self.publisher.publish_prefix if is_prefix else self.publisher.publish
        self.know(await publish(name, data), self.model.last)

    async def publish_many(self, *batch: Any) -> None:
        first = self.model.last + 1
        for name, data, *prefix in batch:
            self.model.send(name, data, is_prefix=bool(prefix))
        ids = await self.publisher.publish_many(batch)
        for number, position in enumerate(ids, first):
            self.know(position, number)
        assert len(ids) == len(batch)

    async def watch(
        self,
        names: list[str],
        beginnings: list[str],
        overflow: Any,
        buffer_size: int,
        start: tuple[str, int],
    ) -> None:
        how: dict[str, Any] = {}
        match start:
            case "history", number:
                how["history"] = max(1, number // 3)
            case "after", number:
                how["after"] = self.position(max(0, self.model.last - number))
        model = NaiveWatch(self.model, names, beginnings, overflow, buffer_size)
        await self.enter(model, overflow=overflow, buffer_size=buffer_size, **how)

    async def resume(self, each: Open) -> None:
        """Open another watch where one is."""
        if each.model.overflow != "replay" or each.model.history_left:
            return
        position = each.watch.position
        assert self.model_after(each.model, position) == each.model.pending
        model = NaiveWatch(self.model, each.model.keys, each.model.prefixes, "replay", 2)
        await self.enter(model, buffer_size=2, after=position)

    async def enter(self, model: NaiveWatch, **how: Any) -> None:
        opening = self.watcher.watch_any(model.keys, model.prefixes, **how)
        after = sequence(how["after"]) if "after" in how else None
        if after is not None and after > self.model.last:
            with pytest.raises(HistoryLostError) as lost:
                await opening.__aenter__()
            assert (lost.value.reason, lost.value.position) == ("future", self.position(0))
            return
        watch = await opening.__aenter__()
        model.start(after=after, history=how.get("history", 0))
        self.open.append(Open(opening, watch, model))

    async def leave(self, each: Open) -> None:
        self.open.remove(each)
        self.model.watches.remove(each.model)
        await each.opening.__aexit__(None, None, None)

    async def receive(self, each: Open, count: int, in_batches: bool) -> None:
        if each.model.overflow == "latest":
            await self.receive_latest(each)
            return
        if each.model.overflow != "replay":
            # Until all has come of which this is what was kept.
            await until(
                lambda: (
                    each.watch.statistics().dropped == each.model.dropped
                    and each.watch.statistics().buffered == len(each.model.buffer)
                )
            )
        wanted: list[Sent] = []
        while len(wanted) < count and (message := each.model.receive()) is not None:
            assert isinstance(message, Sent)
            wanted.append(message)
        got: list[Sent] = []
        while len(got) < len(wanted):
            most = len(wanted) - len(got)
            messages = [await each.watch.receive()]
            if in_batches and most > 1:
                messages += await each.watch.receive_batch(most - 1)
            got += map(self.as_sent, messages)
        assert got == wanted
        self.received += len(got)

    async def receive_latest(self, each: Open) -> None:
        """Receive up to the newest: of each key that is the model's, whatever came before."""
        newest: dict[tuple[str, bool], Sent] = {}
        last = 0
        while each.model.buffer and last < each.model.buffer[-1].sequence:
            message = self.as_sent(await each.watch.receive())
            assert message.sequence > last
            last = message.sequence
            newest[message.name, message.is_prefix] = message
        wanted = []
        while (message_or_lag := each.model.receive()) is not None:
            wanted.append(message_or_lag)
        assert sorted(newest.values()) == wanted
        self.received += len(wanted)

    def position(self, number: int) -> str:
        # One that has not come yet has no more than a number.
        return self.positions.get(number, f"{self.epoch}-{number}")

    def know(self, position: str, number: int) -> None:
        parsed = Position.parse(position)
        assert (parsed.epoch, parsed.sequence) == (self.epoch, number)
        self.positions[number] = position

    def model_after(self, model: NaiveWatch, position: str) -> list[Sent]:
        assert Position.parse(position).epoch == self.epoch
        return model.after(sequence(position))

    def as_sent(self, message: Message) -> Sent:
        assert message.id == self.position(sequence(message.id))
        return Sent(sequence(message.id), message.key, message.data, message.is_prefix)


@every_bus
async def test_the_same_operations_give_each_watch_the_same(factory: PairFactory) -> None:
    """Keys, prefixes, batches; watches of all kinds, from now, the past and where others are."""
    retention = Retention(per_key=10)
    received = 0
    for seed in range(RUNS):
        async with factory(retention=retention) as (publisher, watcher):
            player = Player(publisher, watcher, retention)
            await player.play(record(seed))
            received += player.received
    # Those are runs in which something happens.
    assert received > 100 * RUNS


@every_bus
async def test_what_is_lost_is_told_with_its_size(factory: PairFactory) -> None:
    """Each message comes in its place, or is among those that the watch says it missed."""
    count = 2000
    async with (
        factory(retention=Retention(messages=5)) as (publisher, watcher),
        watcher.subscribe_prefix("", buffer_size=1) as watch,
    ):
        for start in range(0, count, 100):
            await publisher.publish_many([("k", b"%d" % (start + n)) for n in range(100)])
        number = missed = 0
        with trio.fail_after(SECONDS):
            while number < count:
                try:
                    message = await watch.receive()
                except WatchLaggedError as lagged:
                    lag = lagged
                else:
                    assert message.data == b"%d" % number
                    number += 1
                    assert sequence(message.id) == number
                    continue
                assert lag.missed is not None
                missed += lag.missed
                number += lag.missed
                assert sequence(lag.position) == number
    assert missed > 0
