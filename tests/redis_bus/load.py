"""Load on a bus from any number of processes, and the check that nothing was lost unseen.

As a program, ``python load.py URL NAME SECONDS``, it is one process's part: it says ``ready``, goes
on until a line comes in, and then writes what it saw.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field

import trio

from trio_watchbus import (
    BusUnavailableError,
    PublishUnknownError,
    WatchLaggedError,
    open_redis_watchbus,
)
from trio_watchbus._message import Position
from trio_watchbus.abc import Publication, Watch, WatchBus

KEYS = ["a", "b", "ab"]
END = "end"
LOST = "lost"

_PUBLISHERS = 3

COVERS: list[tuple[list[str], list[str]]] = [([], [""]), (["a"], []), (["b"], ["ab"]), (["ab"], [])]
"""What each process watches: everything, one key, keys and prefixes, another key."""


@dataclass
class Seen:
    """What one watch saw, in order: pairs of id and data, or of `LOST` and how many, if known.

    Attributes:
        keys: the keys that it covers.
        prefixes: the prefixes that it covers.
        events: what it saw.
    """

    keys: list[str]
    prefixes: list[str]
    events: list[tuple[str, str]] = field(default_factory=list)

    def covers(self, key: str, *, is_prefix: bool) -> bool:
        """Whether a message to `key` is one for this watch."""
        if is_prefix:
            return any(k.startswith(key) for k in self.keys) or any(
                p.startswith(key) or key.startswith(p) for p in self.prefixes
            )
        return key in self.keys or key.startswith(tuple(self.prefixes))


@dataclass
class Account:
    """What one process published, and what its watches saw.

    Attributes:
        stored: key, whether it is a prefix, id and data of each message that was acknowledged.
        unknown: data of messages of which nobody knows.
        refused: data of messages that surely were not stored.
        seen: what each watch saw.
        problems: errors that nobody expected.
    """

    stored: list[tuple[str, bool, str, str]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)

    def __post_init__(self) -> None:
        # No field, as it is not written.
        self._progress = trio.lowlevel.ParkingLot()

    def store(self, key: str, is_prefix: bool, identifier: str, data: str) -> None:
        """Take note of a message that was acknowledged."""
        self.stored.append((key, is_prefix, identifier, data))
        self._progress.unpark_all()

    async def stored_more(self, count: int) -> None:
        """Wait until as many more messages were acknowledged."""
        wanted = len(self.stored) + count
        while len(self.stored) < wanted:
            await self._progress.park()

    @classmethod
    def parse(cls, text: str) -> Account:
        """Read what a process wrote."""
        fields = json.loads(text)
        seen = [
            Seen(s["keys"], s["prefixes"], [tuple(event) for event in s["events"]])
            for s in fields.pop("seen")
        ]
        stored = [tuple(row) for row in fields.pop("stored")]
        return cls(seen=seen, stored=stored, **fields)


async def watch_until_end(watch: Watch, seen: Seen) -> None:
    """Note what comes, until the end is published."""
    while True:
        try:
            message = await watch.receive()
        except WatchLaggedError as lagged:
            seen.events.append((LOST, "" if lagged.missed is None else str(lagged.missed)))
        else:
            data = message.data.decode()
            seen.events.append((message.id, data))
            if data == END:
                return


async def publish_until(stop: trio.Event, bus: WatchBus, name: str, account: Account) -> None:
    """Publish in all ways in turn; what is unknown is published again, as the error says."""
    number = 0
    while not stop.is_set():
        number += 1
        key = KEYS[number % len(KEYS)]
        batch: list[Publication]
        if number % 5 == 0:
            batch = [(key, b"%s %d.%d" % (name.encode(), number, i)) for i in range(3)]
        else:
            batch = [(key, f"{name} {number}".encode(), number % 7 == 0)]
        datas = [bytes(item[1]).decode() for item in batch]
        try:
            ids = await publish_surely(bus, batch)
        except PublishUnknownError:
            account.unknown += datas
        except BusUnavailableError:
            account.refused += datas
            # No faster than somebody would who was refused.
            await trio.sleep(0.02)
        else:
            for item, identifier, data in zip(batch, ids, datas, strict=True):
                account.store(key, len(item) == 3 and item[2], identifier, data)
        # The load's pace, which leaves the machine time for what is tested.
        await trio.sleep(0.001)


async def publish_surely(bus: WatchBus, batch: list[Publication]) -> list[str]:
    """Publish, and once more under the key that the error gives when nobody knows."""
    try:
        return await bus.publish_many(batch)
    except PublishUnknownError as unknown:
        try:
            return await bus.publish_many(batch, idempotency_key=unknown.idempotency_key)
        except PublishUnknownError:
            raise
        except BusUnavailableError:
            # The second try surely did nothing, of the first one nobody knows.
            raise unknown from None


@asynccontextmanager
async def load(bus: WatchBus, name: str) -> AsyncIterator[Account]:
    """Publish and watch during the body; then watch until somebody publishes the end."""
    account = Account()
    stop = trio.Event()
    async with trio.open_nursery() as background:
        async with trio.open_nursery() as watchers:

            async def watch(
                seen: Seen, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
            ) -> None:
                async with bus.watch_any(seen.keys, seen.prefixes) as watch:
                    task_status.started()
                    await watch_until_end(watch, seen)

            for keys, prefixes in COVERS:
                account.seen.append(Seen(keys, prefixes))
                await watchers.start(watch, account.seen[-1])
            async with trio.open_nursery() as nursery:
                for number in range(_PUBLISHERS):
                    nursery.start_soon(publish_until, stop, bus, f"{name}{number}", account)
                yield account
                stop.set()
            background.start_soon(publish_end, bus)
        background.cancel_scope.cancel()


async def publish_end(bus: WatchBus) -> None:
    """Publish `END` to everyone until cancelled: the first may be among what is lost and told."""
    while True:
        await publish_surely(bus, [("", END.encode(), True)])
        await trio.sleep(0.3)


class Process:
    """Load from another process."""

    def __init__(self, url: str, name: str, patience: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, url, name, str(patience)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def stop_publishing(self) -> None:
        """Let it publish no more; it ends when its watches have seen the end."""
        assert self._process.stdin is not None
        self._process.stdin.write("stop\n")
        self._process.stdin.flush()

    def finish(self) -> Account:
        """Wait for its end, and return its account."""
        output, _ = self._process.communicate(timeout=60)
        return Account.parse(output)

    def kill(self) -> None:
        """Kill it, if it still runs."""
        self._process.kill()
        self._process.communicate()


@asynccontextmanager
async def process(url: str, name: str, patience: float = 10.0) -> AsyncIterator[Process]:
    """Load from another process, killed at the end if it has not ended."""
    other = await trio.to_thread.run_sync(Process, url, name, patience)
    try:
        yield other
    finally:
        other.kill()


def one_of_each(bus: WatchBus) -> list[Callable[[], Awaitable[object]]]:
    """What can be asked of a bus, to be tried on one that has ended."""
    return [
        lambda: bus.publish("k", b""),
        lambda: bus.publish_many([]),
        lambda: bus.latest("k"),
        bus.watched_keys,
        lambda: bus.watch("k").__aenter__(),
    ]


Strike = Callable[[Account], Awaitable[None]]


async def under_load(
    url: str, processes: int, strike: Strike, *, patience: float = 10.0
) -> Counter[str]:
    """Let `strike` do something to a server under load, check, and return the counts."""
    async with AsyncExitStack() as stack:
        stack.enter_context(trio.fail_after(60))
        others = [
            await stack.enter_async_context(process(url, f"other{i}-", patience))
            for i in range(1, processes)
        ]
        async with open_redis_watchbus(url, timeout=patience) as bus:
            async with load(bus, "own") as account:
                await account.stored_more(30)
                await strike(account)
                await account.stored_more(30)
                for other in others:
                    other.stop_publishing()
            assert bus.statistics().connected
        finished = [await trio.to_thread.run_sync(other.finish) for other in others]
        return check([account, *finished])


def split(identifier: str) -> tuple[str, int]:
    """The epoch and number in an id."""
    position = Position.parse(identifier)
    return position.epoch, position.sequence


def check(accounts: Iterable[Account]) -> Counter[str]:
    """Assert that every watch got what was acknowledged, or was told a loss in its place.

    Between two losses that a watch was told, it must have every message that it covers and that
    was acknowledged with a number between those of its first and last one; before the first loss,
    also all that its own process published earlier, as it watched before it published. A loss of
    so many is of no fewer than were acknowledged and are missing there. Where a number was
    given twice, to a message that a failover undid and to another, those from there on may be
    missing before a loss of nobody knows how many.

    Returns:
        counts of what happened.
    """
    accounts = list(accounts)
    stored = [row for account in accounts for row in account.stored]
    refused = {data for account in accounts for data in account.refused}
    known = {data for _, _, _, data in stored} | {
        data for account in accounts for data in account.unknown
    }
    forks = _forks(accounts)
    counts = Counter(stored=len(stored), refused=len(refused))
    counts["unknown"] = sum(len(account.unknown) for account in accounts)
    for account in accounts:
        for seen in account.seen:
            datas = [data for where, data in seen.events if where != LOST]
            # What was undone with an epoch before it was answered is stored again in the next.
            epochs = [(split(where)[0], data) for where, data in seen.events if where != LOST]
            twice = [data for (_, data), count in Counter(epochs).items() if count > 1]
            assert not twice, f"seen twice: {twice[:5]}"
            assert refused.isdisjoint(datas), "seen, although refused"
            assert set(datas) <= known | {END}, "nobody published it"
            counts["lost"] += len(seen.events) - len(datas)
            counts["seen"] += len(datas)
            _check_order(seen, stored, {row[3] for row in account.stored}, forks)
    return counts


def _forks(accounts: list[Account]) -> dict[str, int]:
    """Return the lowest number that was given twice, for each epoch in which one was."""
    # Of what was stored and undone before its answer came, only who saw it knows.
    known = {(i, data) for account in accounts for _, _, i, data in account.stored}
    for account in accounts:
        for seen in account.seen:
            known.update(event for event in seen.events if event[0] != LOST)
    given = Counter(split(identifier) for identifier, _ in known)
    twice = sorted((place for place, count in given.items() if count > 1), reverse=True)
    return dict(twice)


def _check_order(
    seen: Seen,
    stored: list[tuple[str, bool, str, str]],
    own: set[str],
    forks: dict[str, int],
) -> None:
    mine = [
        (*split(identifier), data)
        for key, is_prefix, identifier, data in stored
        if seen.covers(key, is_prefix=is_prefix)
    ]
    stretch: list[tuple[str, str]] = []
    last: tuple[str, int] | None = None
    missed = ""
    told = False
    # At the end nothing is lost: what was undone has to be told before.
    for event in [*seen.events, (LOST, "0")]:
        if event[0] != LOST:
            stretch.append(event)
            continue
        if stretch:
            first = split(stretch[0][0])
            epochs = {split(identifier)[0] for identifier, _ in stretch}
            assert len(epochs) == 1, "another epoch, and no loss told"
            numbers = [split(identifier)[1] for identifier, _ in stretch]
            assert numbers == sorted(set(numbers)), "out of order"
            got = {data for _, data in stretch}
            for epoch, number, data in mine:
                if epoch not in epochs or number > numbers[-1] or data in got:
                    continue
                if number >= numbers[0] or (not told and data in own):
                    undone = event[1] == "" and number >= forks.get(epoch, number + 1)
                    assert undone, f"{data!r}, number {number}, was lost unseen"
            if missed and last is not None:
                assert first[0] == last[0], "another epoch, and a number told"
                missing = sum(
                    epoch == first[0] and last[1] < number < first[1] for epoch, number, _ in mine
                )
                assert missing <= int(missed), "told a smaller number than was lost"
                if "" in seen.prefixes:
                    assert first[1] - last[1] - 1 == int(missed), "told another number than lost"
            last = split(stretch[-1][0])
            missed = event[1]
        else:
            # Two losses in a row: the numbers add up, or there is none.
            missed = str(int(missed) + int(event[1])) if missed and event[1] else ""
        told = True
        stretch = []


async def _main(url: str, name: str, patience: float) -> None:
    async with open_redis_watchbus(url, timeout=patience) as bus:
        async with load(bus, name) as account:
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            await trio.to_thread.run_sync(sys.stdin.readline)
        sys.stdout.write(json.dumps(asdict(account)))


if __name__ == "__main__":
    trio.run(_main, sys.argv[1], sys.argv[2], float(sys.argv[3]))
