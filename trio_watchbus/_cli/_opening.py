"""Opening a bus that may not answer soon."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)

import trio

from ..abc import WatchBus
from ._errors import say, shown_url

_PATIENCE = 1.0
"""Seconds after which the user is told what is waited for; a bus that is up has answered by then.
"""


@asynccontextmanager
async def opened(
    opening: AbstractAsyncContextManager[WatchBus], bus_url: str, nursery: trio.Nursery
) -> AsyncIterator[WatchBus]:
    """Enter a bus; if that takes long, say so on standard error, once.

    Args:
        opening: the bus, to be entered.
        bus_url: its URL.
        nursery: for the task that says so; it ends when the bus is open, or with the nursery.
    """
    async with AsyncExitStack() as stack:
        with telling_late(bus_url, nursery):
            bus = await stack.enter_async_context(opening)
        yield bus


@contextmanager
def telling_late(bus_url: str, nursery: trio.Nursery) -> Iterator[None]:
    """Say on standard error which bus is waited for, if this block takes long.

    Args:
        bus_url: the URL of the bus.
        nursery: for the task that says so; it ends with the block, or with the nursery.
    """
    waiting = trio.CancelScope()
    nursery.start_soon(_tell_late, waiting, bus_url)
    try:
        yield
    finally:
        waiting.cancel()


async def _tell_late(waiting: trio.CancelScope, bus_url: str) -> None:
    with waiting:
        await trio.sleep(_PATIENCE)
        say(f"waiting for {shown_url(bus_url)}")
