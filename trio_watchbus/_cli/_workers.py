"""Processes that serve one socket: this one, or several of its children."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from multiprocessing.context import SpawnProcess

import click
import trio

from .._errors import WatchBusError
from .._open import open_watchbus
from ..web._options import ServerOptions
from ..web._server import serve_socket
from ._errors import CommandError, one_line

_INTERRUPTED = 130

_SPARE_FILES = 100
"""Files that a worker may have open beside its connections."""

_YOUNG_OBJECTS = 10_000
"""Objects that may be made and not freed before the collector looks: usually 700, or 2,000."""

_LATE_SECONDS = 5.0
"""Seconds after the grace at which a worker that has not ended is killed."""

_EXPECTED = (WatchBusError, OSError, trio.BrokenResourceError)
"""What can go wrong outside of this program."""


def run_worker(
    listening: socket.socket,
    bus_url: str,
    options: ServerOptions,
    announce: Callable[[], None] = lambda: None,
) -> int:
    """Serve in this process until a signal ends it; return the status to exit with.

    Args:
        listening: the socket that listens.
        bus_url: what to serve.
        options: what the server allows.
        announce: called once it serves.

    Raises:
        CommandError: the bus cannot be reached, or failed.
    """
    _allow_files(options.max_connections + _SPARE_FILES)
    collect_less_often()
    try:
        return trio.run(_serve, listening, bus_url, options, announce)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception as error:
        if not _is_expected(error):
            raise
        raise CommandError(one_line(error)) from None


def collect_less_often() -> None:
    """Have the cyclic garbage collector look at this process's objects less often.

    Each message to a thousand streams makes more objects at once than its thresholds expect, none
    of them garbage, and each look at all objects stops every stream: with the usual thresholds
    they took a quarter of the time, and the slowest of a hundred deliveries twice as long.
    """
    gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])


def run_workers(count: int, listening: socket.socket, bus_url: str, options: ServerOptions) -> int:
    """Serve in `count` children until a signal ends them; return the status to exit with.

    Raises:
        CommandError: a child ended by itself; the others were ended.
    """
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_run_child, args=(listening, bus_url, options), daemon=True)
        for _ in range(count)
    ]
    for worker in workers:
        worker.start()
    ended = trio.run(_supervise, workers, options.grace + _LATE_SECONDS)
    if ended:
        raise CommandError(
            f"worker {ended[0].pid} ended by itself, with status {ended[0].exitcode};"
            " the others were stopped"
        )
    return 0


async def _serve(
    listening: socket.socket, bus_url: str, options: ServerOptions, announce: Callable[[], None]
) -> int:
    stop = trio.Event()
    serving = False
    status = 0

    async def wait_for_stop() -> None:
        nonlocal serving
        serving = True
        announce()
        await stop.wait()

    async def handle_signals(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        nonlocal status
        interrupts = 0
        async for number in signals:
            interrupts += number == signal.SIGINT
            # One may come from the terminal, beside the parent's SIGTERM.
            if interrupts > 1 or not serving:
                status = _INTERRUPTED
                scope.cancel()
            stop.set()

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle_signals, signals, nursery.cancel_scope)
            nursery.start_soon(_outlive_no_parent, stop)
            async with open_watchbus(bus_url) as bus:
                await serve_socket(bus, listening, options, wait_for_stop)
            nursery.cancel_scope.cancel()
    return status


async def _outlive_no_parent(stop: trio.Event) -> None:
    """Stop when the parent that started this process as a worker is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        await trio.lowlevel.wait_readable(parent.sentinel)
        stop.set()


def _run_child(listening: socket.socket, bus_url: str, options: ServerOptions) -> None:
    log_to_stderr(options)
    try:
        status = run_worker(listening, bus_url, options)
    except CommandError as error:
        click.echo(f"watchbus: {error.message}", err=True)
        status = error.exit_code
    sys.exit(status)


async def _supervise(workers: list[SpawnProcess], seconds: float) -> list[SpawnProcess]:
    """Wait for a signal, or for a worker to end; end them all; return those ended by themselves."""
    stop = trio.Event()
    ended: list[SpawnProcess] = []

    async def stop_with(worker: SpawnProcess) -> None:
        await trio.lowlevel.wait_readable(worker.sentinel)
        ended.append(worker)
        stop.set()

    async def stop_at_signal(signals: AsyncIterator[int]) -> None:
        async for _ in signals:
            stop.set()

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            for worker in workers:
                nursery.start_soon(stop_with, worker)
            nursery.start_soon(stop_at_signal, signals)
            await stop.wait()
            nursery.cancel_scope.cancel()
        for worker in workers:
            worker.terminate()
        with trio.move_on_after(seconds):
            for worker in workers:
                await trio.lowlevel.wait_readable(worker.sentinel)
        for worker in workers:
            worker.kill()
            worker.join()
    return ended


def log_to_stderr(options: ServerOptions) -> None:
    """Have what is logged printed."""
    logging.basicConfig(
        level=logging.INFO if options.access_log else logging.WARNING,
        format="%(asctime)s [%(process)d] %(levelname)s %(name)s: %(message)s",
    )


def _is_expected(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_expected, error.exceptions))
    return isinstance(error, _EXPECTED)


def _allow_files(count: int) -> None:
    """Let this process have so many files open, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
