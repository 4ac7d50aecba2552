"""What the commands that use a bus share: naming it, opening it, and ending."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import Any, TypeVar

import click
import trio

from .._errors import WatchBusError
from .._open import open_watchbus
from ..abc import WatchBus
from ._errors import blaming, source_of
from ._failures import failure_of
from ._logging import log_to_stderr
from ._opening import opened
from ._settings import BusSettings, settings_options
from ._stop import StopRequests

DEFAULT_BUS = "http://127.0.0.1:8000"

_LEAVE_SECONDS = 5.0
"""Seconds that a command has to end after a signal: leaving a bus takes less than one."""

Opening = Callable[[trio.Nursery], AbstractAsyncContextManager[WatchBus]]
"""Makes the bus to enter; the nursery is for the task that reports a bus that is slow to open."""

Function = TypeVar("Function", bound=Callable[..., Any])


def bus_options(function: Function) -> Function:
    """Add the options that name a bus, and those that say what it keeps."""
    function = settings_options(function)
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
            help="A served bus (http, https, ws, wss) or Redis (redis, rediss, unix).",
        ),
    ):
        function = option(function)
    return function


def open_bus(bus_url: str, token: str | None, settings: BusSettings) -> Opening:
    """Return what opens the bus of this URL with these settings.

    Raises:
        MissingExtraError: what it needs is not installed.
        click.UsageError: the URL or the token is wrong.
    """
    if bus_url.lower().startswith("memory:"):
        source = source_of(click.get_current_context(), "bus_url")
        raise click.UsageError(
            f"{source}: a memory:// bus exists only inside this command; start `watchbus serve`"
            f" and use its URL, {DEFAULT_BUS} by default"
        )
    with blaming("bus_url"):
        opening = open_watchbus(bus_url, **settings)
    if token is not None:
        try:
            with blaming("token"):
                opening = open_watchbus(bus_url, token=token, **settings)
        except TypeError:
            source = source_of(click.get_current_context(), "token")
            raise click.UsageError(
                f"{source}: only a served bus, such as http://host:8000, takes a token"
            ) from None
    return partial(opened, opening, bus_url)


def run(function: Callable[[trio.Nursery], Awaitable[None]], stop: StopRequests) -> int:
    """Run a command until it ends, or SIGINT or SIGTERM ends it; return the exit status.

    Args:
        function: gets a nursery for what runs beside it, which is cancelled when it ends.
        stop: hears the signals.

    Raises:
        CommandError: something outside of this program failed.
        OutputError: standard output cannot be written.
    """
    # The state of the connection is reported on standard error.
    log_to_stderr("watchbus: %(message)s", logging.WARNING)
    logging.getLogger("trio_watchbus").setLevel(logging.INFO)
    try:
        trio.run(_run, function, stop)
    except (WatchBusError, ValueError, OSError, trio.BrokenResourceError) as error:
        # A served bus reports its limits by a ValueError.
        raise failure_of(error) from None
    return 0 if stop.number is None else 128 + stop.number


async def _run(function: Callable[[trio.Nursery], Awaitable[None]], stop: StopRequests) -> None:
    token = trio.lowlevel.current_trio_token()
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:

        def cancel(_: int) -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(nursery.cancel_scope.cancel)

        stop.on_stop(cancel, seconds=_LEAVE_SECONDS)
        # Past the nursery, which would wrap it into a group.
        try:
            await function(nursery)
        except Exception as error:  # noqa: BLE001
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
