"""Going on with a watch whose past is lost."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from .._errors import HistoryLostError
from .._request import WatchRequest
from ..abc import Watch, WatchBus


async def open_after_loss(
    bus: WatchBus, lost: HistoryLostError, request: Callable[..., WatchRequest]
) -> Watch:
    """Open a watch at the oldest message held, or else from now on.

    Args:
        bus: the bus.
        lost: what it raised.
        request: makes the request, with `after` or without.

    Raises:
        Exception: as `WatchBus.watch` raises on entering.
    """
    # Of a numbering that the bus has yet to reach again, the client knows what is held.
    if lost.reason != "future":
        # Gone in the meantime: then there is more to lose than to gain by trying on.
        with suppress(HistoryLostError):
            return await bus.open_watch(request(after=lost.position))
    return await bus.open_watch(request())
