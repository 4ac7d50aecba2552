"""The reader hands on in steps what reaches very many watches."""

from __future__ import annotations

from contextlib import AsyncExitStack

import fakeredis
import pytest
import trio
from redis_bus.servers import fake_client

from trio_watchbus import open_redis_watchbus
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
