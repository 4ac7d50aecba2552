"""One process that serves: the command itself, or one of its workers."""

from __future__ import annotations

import gc
import logging
import resource
import signal
import socket
from collections.abc import Callable
from contextlib import suppress

import trio

from .._errors import WatchBusError
from .._open import open_watchbus
from .._retention import DifferentSettingsError
from ..web._options import ServerOptions
from ..web._server import serve_socket
from ._errors import say
from ._failures import failure_of
from ._logging import log_to_stderr
from ._opening import opened
from ._settings import BusSettings
from ._stop import StopRequests

LATE_SECONDS = 5.0
"""Seconds after the grace at which a process that has not ended by itself is ended."""

_SPARE_FILES = 100
"""Files that a worker may have open beside its connections."""

_YOUNG_OBJECTS = 10_000
"""Objects allocated between runs of the youngest collection: 700 by default, or 2,000."""

_EXPECTED = (WatchBusError, DifferentSettingsError, OSError, trio.BrokenResourceError)
"""What can go wrong outside of this program."""


def run_worker(
    listening: socket.socket,
    bus_url: str,
    settings: BusSettings,
    options: ServerOptions,
    stop: StopRequests,
    *,
    announce: Callable[[], None],
    report_stop: Callable[[int], None] = lambda _: None,
) -> int:
    """Serve in this process until it is asked to stop; return the exit status.

    Args:
        listening: the socket that listens.
        bus_url: what to serve.
        settings: what that bus keeps and takes.
        options: what the server allows.
        stop: hears the requests to stop.
        announce: called once it serves.
        report_stop: called in a thread with the signal that begins the stop.

    Raises:
        CommandError: the bus cannot be reached, or failed.
    """
    _allow_files(options.max_connections + _SPARE_FILES)
    collect_less_often()
    try:
        trio.run(_serve, listening, bus_url, settings, options, stop, announce, report_stop)
    except Exception as error:
        if not _is_expected(error):
            raise
        raise failure_of(error) from None
    return 0


def collect_less_often() -> None:
    """Have the cyclic garbage collector run less often in this process.

    A message to a thousand streams allocates more objects at once than its thresholds expect, none
    of them garbage, and each full run stops every stream: with the default thresholds that took a
    quarter of the time, and the slowest of a hundred deliveries took twice as long. What was
    imported until now is half of what a full run looks at, and is never garbage: it is left out.
    """
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])


def report_stop(grace: float, number: int) -> None:
    """Say on standard error that a signal was heard."""
    say(
        f"{signal.Signals(number).name}: draining for up to {grace:g} s;"
        " a second signal stops it at once"
    )


def log_server(options: ServerOptions) -> None:
    """Print what a process that serves logs."""
    log_to_stderr(
        "%(asctime)s [%(process)d] %(levelname)s %(name)s: %(message)s",
        logging.INFO if options.access_log else logging.WARNING,
    )


async def _serve(
    listening: socket.socket,
    bus_url: str,
    settings: BusSettings,
    options: ServerOptions,
    stop: StopRequests,
    announce: Callable[[], None],
    report_stop: Callable[[int], None],
) -> None:
    stopping = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def begin_stop(number: int) -> None:
        report_stop(number)
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(stopping.set)

    async def wait_for_stop() -> None:
        # Before it serves there is nothing to drain, and a signal ends the process.
        stop.on_stop(begin_stop, seconds=options.grace + LATE_SECONDS, late_status=1)
        announce()
        await stopping.wait()

    async with trio.open_nursery() as nursery:
        async with opened(open_watchbus(bus_url, **settings), bus_url, nursery) as bus:
            await serve_socket(bus, listening, options, wait_for_stop)
        nursery.cancel_scope.cancel()


def _is_expected(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_expected, error.exceptions))
    return isinstance(error, _EXPECTED)


def _allow_files(count: int) -> None:
    """Raise this process's limit of open files to `count`, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
