"""A watch over a WebSocket without a subprotocol, without the WebSocket."""

from __future__ import annotations

from typing import Any, cast

import trio
import trio.testing

from trio_watchbus import InMemoryWatchBus, Message
from trio_watchbus.abc import WatchRequest
from trio_watchbus.web._drain import Drain
from trio_watchbus.web._raw import serve_raw


class Client:
    """A connection whose client reads nothing until told, and notes what comes at once."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.arrived = trio.Event()

    async def send(self, *frames: str | bytes) -> None:
        self.sent.append(sum(map(len, frames)))
        if sum(self.sent) >= 20 * 100_000:
            self.arrived.set()
        await trio.lowlevel.checkpoint()

    async def receive(self) -> bytes:
        await trio.sleep_forever()
        raise AssertionError


async def test_what_waits_is_sent_in_chunks_of_bounded_size() -> None:
    """Large messages that wait are not joined into one piece for each client."""
    client = Client()

    def encode(message: Message) -> bytes:
        return message.data

    async with InMemoryWatchBus() as bus, trio.open_nursery() as nursery:
        watch = await bus.open_watch(WatchRequest(["k"], []))
        nursery.start_soon(serve_raw, watch, encode, Drain(), cast("Any", client))
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(20):
            bus.publish_nowait("k", bytes(100_000))
        await client.arrived.wait()
        nursery.cancel_scope.cancel()
    assert sum(client.sent) == 20 * 100_000
    assert max(client.sent) <= 256 * 1024 + 100_000
