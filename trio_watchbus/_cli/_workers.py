"""Several processes that serve one socket, and their parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import final

import trio

from ..web._options import ServerOptions
from ._errors import CommandError, say
from ._settings import BusSettings
from ._stop import StopRequests, block_signals, next_from_parent, request_to
from ._streams import install_streams
from ._worker import LATE_SECONDS, log_server, report_stop, run_worker

_PARENT_SECONDS = 1.0
"""Seconds that the parent waits longer than its workers, who end themselves when they are late."""


def run_workers(
    count: int,
    listening: socket.socket,
    bus_url: str,
    settings: BusSettings,
    options: ServerOptions,
    stop: StopRequests,
    announce: Callable[[], None],
) -> int:
    """Serve in `count` children until asked to stop; return the exit status.

    Children do not hear signals. The parent passes on to them what it hears through a pipe each,
    so that a signal to the whole process group, as Ctrl-C in a terminal is, counts once.

    Args:
        count: how many.
        listening: the socket that listens; closed here.
        bus_url: what to serve.
        settings: what that bus keeps and takes.
        options: what the server allows.
        stop: hears the requests to stop.
        announce: called once all of them serve.

    Raises:
        CommandError: a child ended by itself; the others were ended.
    """
    # It would unblock the signals when the first child is started (Python 3.11).
    resource_tracker.ensure_running()
    block_signals()
    context = multiprocessing.get_context("spawn")
    told, telling = context.Pipe(duplex=False)
    workers = [
        _Worker(context, listening, bus_url, settings, options, telling) for _ in range(count)
    ]
    telling.close()
    # Only the workers' from now on, so that nothing is accepted once they have stopped.
    listening.close()
    supervisor = _Supervisor(workers, told, stop, options.grace, announce)
    trio.run(supervisor.run)
    return supervisor.status()


@final
class _Worker:
    """A child that serves, as its parent sees it."""

    def __init__(
        self,
        context: SpawnContext,
        listening: socket.socket,
        bus_url: str,
        settings: BusSettings,
        options: ServerOptions,
        telling: Connection,
    ) -> None:
        requests, self._requesting = context.Pipe(duplex=False)
        self.process: SpawnProcess = context.Process(
            target=_run_child,
            args=(listening, bus_url, settings, options, telling, requests),
            daemon=True,
        )
        self.process.start()
        requests.close()

    def stop(self, number: int) -> None:
        """Ask it to stop, for this signal: the first time in good order, then at once."""
        request_to(self._requesting, number)


def _run_child(
    listening: socket.socket,
    bus_url: str,
    settings: BusSettings,
    options: ServerOptions,
    telling: Connection,
    requests: Connection,
) -> None:
    """Serve in a process that `_Worker` started."""
    stop = StopRequests(next_from_parent(requests), install_streams())
    log_server(options)
    try:
        status = run_worker(
            listening,
            bus_url,
            settings,
            options,
            stop,
            announce=partial(telling.send_bytes, b"serving"),
        )
    except CommandError as error:
        say(error.message)
        status = error.exit_code
    sys.exit(status)


@final
class _Supervisor:
    """Waits for the workers to end; if one ends by itself, ends the others.

    Args:
        workers: the children.
        told: where each says that it serves.
        stop: hears the requests to stop.
        grace: seconds that clients have to leave.
        announce: called when all workers serve.
    """

    def __init__(
        self,
        workers: list[_Worker],
        told: Connection,
        stop: StopRequests,
        grace: float,
        announce: Callable[[], None],
    ) -> None:
        self._workers = workers
        self._told = told
        self._stop = stop
        self._grace = grace
        self._announce = announce
        self._serving = False
        # The first worker that ended by itself.
        self._ended: SpawnProcess | None = None
        # Seconds that workers have to end.
        self._patience = grace + LATE_SECONDS + _PARENT_SECONDS

    async def run(self) -> None:
        """Return when all workers have ended."""
        self._stop.on_stop(
            self._begin_stop, seconds=self._patience, late_status=1, end=self._kill_all
        )
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._announce_all)
                async with trio.open_nursery() as waiting:
                    for worker in self._workers:
                        waiting.start_soon(self._wait_for, worker, waiting.cancel_scope)
                nursery.cancel_scope.cancel()
        finally:
            self._kill_all()
            for worker in self._workers:
                worker.process.join()

    def status(self) -> int:
        """Return what to exit with.

        Raises:
            CommandError: a worker ended by itself.
        """
        if self._ended is not None:
            raise CommandError(
                f"worker {self._ended.pid} ended by itself, with status {self._ended.exitcode};"
                " the others were stopped"
            )
        if not self._serving:
            return 128 + (self._stop.number or signal.SIGTERM)
        return int(any(worker.process.exitcode for worker in self._workers))

    def _begin_stop(self, number: int) -> None:
        """Ask all workers to stop; called in the thread that hears signals."""
        report_stop(self._grace, number)
        for worker in self._workers:
            worker.stop(number)

    def _kill_all(self) -> None:
        for worker in self._workers:
            with contextlib.suppress(ProcessLookupError):
                worker.process.kill()

    async def _announce_all(self) -> None:
        for _ in self._workers:
            await trio.lowlevel.wait_readable(self._told.fileno())
            try:
                self._told.recv_bytes()
            except EOFError:
                return
        self._serving = True
        self._announce()

    async def _wait_for(self, worker: _Worker, waiting: trio.CancelScope) -> None:
        await trio.lowlevel.wait_readable(worker.process.sentinel)
        if self._stop.number is None and self._ended is None:
            self._ended = worker.process
            waiting.deadline = trio.current_time() + self._patience
            for other in self._workers:
                other.stop(signal.SIGTERM)
