"""The watches of clients: opening them a bounded number at a time, and taking what waits."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import final

import trio

from .._errors import HistoryLostError, WatchBusError, WatchLaggedError
from .._message import Message
from .._request import WatchRequest
from ..abc import Watch, WatchBus
from ._answer import Refusal

_AT_ONCE = 32
"""Watches being opened at once. Those that come meanwhile wait in their order: a fleet that comes
back together takes what it takes, and nobody starves."""


@final
class Openings:
    """Opens watches, first come first served."""

    def __init__(self) -> None:
        self._slots = trio.Semaphore(_AT_ONCE)

    async def open(self, bus: WatchBus, request: WatchRequest) -> Watch:
        """Open a watch.

        Raises:
            Refusal: the bus itself is served elsewhere, and opens no more watches there.
            Exception: as `WatchBus.open_watch` does.
        """
        async with self._slots:
            try:
                return await bus.open_watch(request)
            except ValueError as error:
                if isinstance(error, WatchBusError):
                    raise
                # The request is valid: it is a limit of the server behind a remote bus.
                raise Refusal(
                    503, "limit", f"the bus behind this server refuses this watch: {error}"
                ) from error

    async def open_after_loss(
        self, bus: WatchBus, lost: HistoryLostError, request: Callable[..., WatchRequest]
    ) -> Watch:
        """Open a watch at the oldest message held, or else from now on.

        Args:
            bus: the bus.
            lost: what it raised.
            request: makes the request, with `after` or without.

        Raises:
            Exception: as `open` does.
        """
        # In the numbering that the bus has yet to reach again, the client knows what is held.
        if lost.reason != "future":
            # If that is gone meanwhile, trying on would lose more than it gains.
            with suppress(HistoryLostError):
                return await self.open(bus, request(after=lost.position))
        return await self.open(bus, request())


def take_waiting(
    watch: Watch, messages: list[Message], count: int, size: int
) -> WatchLaggedError | None:
    """Add what waits in `watch` to `messages`; return the loss that comes after that, if one does.

    Args:
        watch: the watch.
        messages: at least one, the newest last.
        count: messages from which no further one is taken.
        size: bytes of data from which no further message is taken.
    """
    room = size - sum(len(message.data) for message in messages)
    receive = watch.receive_nowait
    while room > 0 and len(messages) < count:
        try:
            message = receive()
        except WatchLaggedError as loss:
            return loss
        except (
            trio.WouldBlock,
            # These come again with the next receive.
            trio.ClosedResourceError,
            trio.EndOfChannel,
            trio.BrokenResourceError,
        ):
            return None
        messages.append(message)
        room -= len(message.data)
    return None
