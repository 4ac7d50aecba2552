"""What the commands share that use a bus: how it is named and opened, and how they end."""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, TypeVar

import click
import trio

from .._errors import WatchBusError
from .._open import open_watchbus
from ..abc import WatchBus
from ._errors import blaming, failure_of
from ._opening import opened

DEFAULT_BUS = "http://127.0.0.1:8000"

Opening = Callable[[trio.Nursery], AbstractAsyncContextManager[WatchBus]]
"""What gives a bus to be entered, from a nursery for what is to be said while that takes long."""

Function = TypeVar("Function", bound=Callable[..., Any])


def bus_options(function: Function) -> Function:
    """Add the options that name a bus."""
    for option in (
        click.option(
            "--token",
            envvar="WATCHBUS_TOKEN",
            show_envvar=True,
            help="Bearer token for a proxy or app in front of a served bus.",
        ),
        click.option(
            "--bus",
            "bus_url",
            envvar="WATCHBUS_BUS",
            show_envvar=True,
            default=DEFAULT_BUS,
            show_default=True,
            help="A served bus: http, https, ws, wss; or Redis: redis, rediss, unix.",
        ),
    ):
        function = option(function)
    return function


def open_bus(bus_url: str, token: str | None) -> Opening:
    """Return what opens the bus of this URL.

    Raises:
        MissingExtraError: what it needs is not installed.
        click.UsageError: there is no such bus, or it takes no such token.
    """
    if bus_url.lower().startswith("memory:"):
        raise click.UsageError(
            "--bus: a bus in memory is this process's own, and nobody else sees it: watchbus serve"
            f" serves one, at {DEFAULT_BUS} unless told"
        )
    with blaming("--bus"):
        opening = open_watchbus(bus_url)
    if token is not None:
        try:
            with blaming("--token"):
                opening = open_watchbus(bus_url, token=token)
        except TypeError:
            raise click.UsageError("--token is for a served bus, as http://host:8000") from None
    return partial(opened, opening, bus_url)


def run(function: Callable[[trio.Nursery], Awaitable[None]]) -> int:
    """Run a command until it ends, or Ctrl-C or SIGTERM ends it; return the status to exit with.

    Args:
        function: gets a nursery for what runs beside it, which is cancelled when it ends.

    Raises:
        CommandError: it failed because of something outside of this program.
    """
    # What becomes of the connection is told on standard error.
    logging.basicConfig(format="watchbus: %(message)s", level=logging.WARNING)
    logging.getLogger("trio_watchbus").setLevel(logging.INFO)
    try:
        return trio.run(_run, function)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        raise
    except (WatchBusError, ValueError, OSError, trio.BrokenResourceError) as error:
        # A served bus tells by a ValueError what its limits do not let it do.
        raise failure_of(error) from None


async def _run(function: Callable[[trio.Nursery], Awaitable[None]]) -> int:
    status = 0
    failure: Exception | None = None

    async def stop_at_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        nonlocal status
        async for number in signals:
            status = 128 + number
            scope.cancel()

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_at_signal, signals, nursery.cancel_scope)
            # Past the nursery, which would wrap it into a group.
            try:
                await function(nursery)
            except Exception as error:  # noqa: BLE001
                failure = error
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return status
