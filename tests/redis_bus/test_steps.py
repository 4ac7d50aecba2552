"""The reader hands on in steps what reaches very many watches."""

from __future__ import annotations

from contextlib import AsyncExitStack

import fakeredis
import pytest
import trio
from journal_steps import steps_of
from redis_bus.servers import fake_client

from trio_watchbus import Retention, open_redis_watchbus
from trio_watchbus._core._routes import STEP
from trio_watchbus._core._watch import BufferedWatch
from trio_watchbus._request import WatchRequest
from trio_watchbus.abc import Watch

WATCHES = 3 * STEP


@pytest.mark.parametrize("count", [1, 3])
async def test_a_message_to_many_watches_lets_others_run(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Each step hands it to some of them; all get it, in order, and so does who opens meanwhile."""
    put = BufferedWatch.put
    in_this_turn = most = 0

    def counted(self: BufferedWatch, message: object) -> None:
        nonlocal in_this_turn, most
        in_this_turn += 1
        most = max(most, in_this_turn)
        put(self, message)  # type: ignore[arg-type]

    async def turns() -> None:
        nonlocal in_this_turn
        while True:
            await trio.lowlevel.checkpoint()
            in_this_turn = 0

    async with (
        open_redis_watchbus(fake_client(fakeredis.FakeServer())) as bus,
        AsyncExitStack() as stack,
        trio.open_nursery() as nursery,
    ):
        first = await stack.enter_async_context(bus.subscribe_prefix(""))
        watches: list[Watch] = [first]
        for number in range(WATCHES):
            # As `open_watch` does, without asking Redis for each.
            another = bus._mirror.register(WatchRequest([f"k{number}"], ()))
            stack.callback(another.close)
            watches.append(another)
        monkeypatch.setattr(BufferedWatch, "put", counted)
        nursery.start_soon(turns)
        await bus.publish_many([("", b"%d" % number, True) for number in range(count)])
        for watch in watches:
            for number in range(count):
                assert (await watch.receive()).data == b"%d" % number
        assert 0 < most <= 2 * STEP
        nursery.cancel_scope.cancel()


async def test_the_first_to_resume_in_a_long_journal_indexes_it_in_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trio_watchbus._core._journal.STEP", 500)
    retention = Retention(messages=5000)
    async with open_redis_watchbus(fake_client(fakeredis.FakeServer()), retention=retention) as bus:
        start = bus.position
        async with bus.watch("k7", buffer_size=10) as watch:
            for first in range(0, 5000, 1000):
                await bus.publish_many([(f"k{n}", b"%d" % n) for n in range(first, first + 1000)])
            assert (await watch.receive()).data == b"7"
            journal = bus._mirror.journal
            while journal.last < 5000:
                await trio.lowlevel.checkpoint()
            before = journal.scanned
            with steps_of(journal) as steps:
                async with bus.watch("k8", after=start) as resumed:
                    assert (await resumed.receive()).data == b"8"
            assert journal.scanned - before >= 4500
            # A step, a block more, the last one, and all blocks once with their indexes made.
            assert 0 < steps.most <= 500 + 2 * 156 + 2 * 156 + 200
