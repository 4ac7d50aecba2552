"""Processes that serve one socket: this one, or several of its children."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import final

import click
import trio

from .._errors import WatchBusError
from .._open import open_watchbus
from ..web._options import ServerOptions
from ..web._server import serve_socket
from ._errors import CommandError, failure_of
from ._opening import opened

_SPARE_FILES = 100
"""Files that a worker may have open beside its connections."""

_YOUNG_OBJECTS = 10_000
"""Objects that may be made and not freed before the collector looks: usually 700, or 2,000."""

_LATE_SECONDS = 5.0
"""Seconds after the grace at which a process that has not ended is killed."""

_HURRY_SECONDS = 1.0
"""Seconds that a process has to end at once, by a cancel, before it is killed."""

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
        return 128 + signal.SIGINT
    except Exception as error:
        if not _is_expected(error):
            raise
        raise failure_of(error) from None


def collect_less_often() -> None:
    """Have the cyclic garbage collector look at this process's objects less often.

    Each message to a thousand streams makes more objects at once than its thresholds expect, none
    of them garbage, and each look at all objects stops every stream: with the usual thresholds
    they took a quarter of the time, and the slowest of a hundred deliveries twice as long.
    """
    gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])


def run_workers(
    count: int,
    listening: socket.socket,
    bus_url: str,
    options: ServerOptions,
    announce: Callable[[], None],
) -> int:
    """Serve in `count` children until a signal ends them; return the status to exit with.

    Args:
        count: how many.
        listening: the socket that listens; closed here.
        bus_url: what to serve.
        options: what the server allows.
        announce: called once all of them serve.

    Raises:
        CommandError: a child ended by itself; the others were ended.
    """
    context = multiprocessing.get_context("spawn")
    told, telling = context.Pipe(duplex=False)
    workers = [
        context.Process(target=_run_child, args=(listening, bus_url, options, telling), daemon=True)
        for _ in range(count)
    ]
    for worker in workers:
        worker.start()
    telling.close()
    # Theirs alone, so that nobody waits to be accepted once they have stopped.
    listening.close()
    supervisor = _Supervisor(workers, told, announce, options.grace + _LATE_SECONDS)
    trio.run(supervisor.run)
    ended = supervisor.ended
    if ended is not None:
        raise CommandError(
            f"worker {ended.pid} ended by itself, with status {ended.exitcode};"
            " the others were stopped"
        )
    return supervisor.status


async def _serve(
    listening: socket.socket, bus_url: str, options: ServerOptions, announce: Callable[[], None]
) -> int:
    stop = trio.Event()
    deadline = _Deadline()
    serving = False
    status = 0

    def begin_stop() -> None:
        deadline.set(options.grace + _LATE_SECONDS, 1)
        stop.set()

    async def wait_for_stop() -> None:
        nonlocal serving
        serving = True
        announce()
        await stop.wait()

    async def handle_signals(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        nonlocal status
        async for number in signals:
            if stop.is_set() or not serving:
                status = 128 + number
                deadline.set(_HURRY_SECONDS, status)
                scope.cancel()
            begin_stop()

    with deadline, trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle_signals, signals, nursery.cancel_scope)
            nursery.start_soon(_outlive_no_parent, begin_stop)
            async with opened(open_watchbus(bus_url), bus_url, nursery) as bus:
                await serve_socket(bus, listening, options, wait_for_stop)
            nursery.cancel_scope.cancel()
    return status


async def _outlive_no_parent(stop: Callable[[], None]) -> None:
    """Call `stop` when the parent that started this process as a worker is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        await trio.lowlevel.wait_readable(parent.sentinel)
        stop()


@final
class _Deadline:
    """Ends this process when its time is up, whatever holds it: a wait that no cancel reaches, say.

    By a thread, as Trio cannot end before all of its tasks have.
    """

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def set(self, seconds: float, status: int) -> None:
        """Have the process end after so many seconds; an earlier deadline stays."""
        if self._timer is None or seconds < self._timer.interval:
            self.__exit__()
            self._timer = threading.Timer(seconds, _exit_now, [status])
            self._timer.daemon = True
            self._timer.start()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()


def _exit_now(status: int) -> None:
    click.echo("watchbus: ended at once, as something did not end by itself", err=True)
    os._exit(status)


def _run_child(
    listening: socket.socket, bus_url: str, options: ServerOptions, telling: Connection
) -> None:
    # From a terminal the parent gets it too, and passes on what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log_to_stderr(options)
    try:
        status = run_worker(listening, bus_url, options, partial(telling.send_bytes, b"serving"))
    except CommandError as error:
        click.echo(f"watchbus: {error.message}", err=True)
        status = error.exit_code
    sys.exit(status)


@final
class _Supervisor:
    """Waits for a signal, or for a worker to end, and ends them all.

    Args:
        workers: the processes.
        told: where each says that it serves.
        announce: called when all have.
        patience: seconds that they have to end before they are killed.

    Attributes:
        ended: the first worker that ended by itself.
        status: what to exit with.
    """

    def __init__(
        self,
        workers: list[SpawnProcess],
        told: Connection,
        announce: Callable[[], None],
        patience: float,
    ) -> None:
        self.ended: SpawnProcess | None = None
        self.status = 0
        self._workers = workers
        self._told = told
        self._announce = announce
        self._patience = patience
        self._stop = trio.Event()
        # Cancelled when nothing more is to be waited for.
        self._waiting = trio.CancelScope()

    async def run(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._handle_signals, signals)
                nursery.start_soon(self._announce_all)
                with self._waiting:
                    async with trio.open_nursery() as waiting:
                        for worker in self._workers:
                            waiting.start_soon(self._wait_for, worker)
                        await self._stop.wait()
                        for worker in self._workers:
                            worker.terminate()
                        self._waiting.deadline = trio.current_time() + self._patience
                nursery.cancel_scope.cancel()
            for worker in self._workers:
                worker.kill()
                worker.join()

    async def _handle_signals(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if self._stop.is_set():
                self.status = 128 + number
                self._waiting.cancel()
            self._stop.set()

    async def _announce_all(self) -> None:
        for _ in self._workers:
            await trio.lowlevel.wait_readable(self._told.fileno())
            try:
                self._told.recv_bytes()
            except EOFError:
                return
        self._announce()

    async def _wait_for(self, worker: SpawnProcess) -> None:
        await trio.lowlevel.wait_readable(worker.sentinel)
        if not self._stop.is_set():
            self.ended = worker
            self._stop.set()


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
