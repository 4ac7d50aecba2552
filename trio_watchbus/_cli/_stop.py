"""Requests to stop a command, heard by a thread: they work while the event loop stands still."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, final

from ._streams import ErrorOutput

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

SIGNALS = (signal.SIGINT, signal.SIGTERM)

Wait = Callable[[float | None], int | None]
"""Waits for the next request, at most so many seconds; returns its signal, or None if late."""

_LAST_WORDS_SECONDS = 0.2
"""Seconds that standard error has to take what was said before the process ends."""

_LONGEST_WAIT = 365 * 86400.0
"""Seconds, for a grace without an end: longer waits overflow in the system's calls."""


def block_signals() -> None:
    """Leave SIGINT and SIGTERM to `next_signal`, in this thread and those that it starts.

    Processes that it starts do not hear them either.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def next_signal(seconds: float | None) -> int | None:
    """Wait for SIGINT or SIGTERM, which are blocked in all threads."""
    if seconds is None:
        return signal.sigwait(SIGNALS)
    heard = signal.sigtimedwait(SIGNALS, min(seconds, _LONGEST_WAIT))
    return None if heard is None else heard.si_signo


def request_to(worker: Connection, number: int) -> None:
    """Pass a request to stop on to the worker at the other end of this pipe."""
    # It may have ended.
    with contextlib.suppress(OSError):
        worker.send_bytes(bytes([number]))


def next_from_parent(pipe: Connection) -> Wait:
    """Return what waits for what `request_to` sends; the end of the parent is a request, too."""

    def wait(seconds: float | None) -> int | None:
        if not pipe.poll(seconds if seconds is None else min(seconds, _LONGEST_WAIT)):
            return None
        try:
            return pipe.recv_bytes()[0]
        except (EOFError, OSError):
            return signal.SIGTERM

    return wait


class _Plan(NamedTuple):
    begin: Callable[[int], None]
    seconds: float
    late_status: int | None
    end: Callable[[], None]


@final
class StopRequests:
    """Hears requests to stop in a thread of its own.

    The first one begins the orderly stop that the command has announced with `on_stop`; the second
    one, or the end of the time for it, ends the process from the thread. Before a command
    announces anything, the first one ends the process.

    Args:
        wait: waits for the next request.
        errors: standard error.

    Attributes:
        number: the signal of the first request, once there was one.
    """

    def __init__(self, wait: Wait, errors: ErrorOutput) -> None:
        self.number: int | None = None
        self._wait = wait
        self._errors = errors
        self._plan: _Plan | None = None
        self._clean_up: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._hear, name="watchbus-stop", daemon=True)
        self._thread.start()

    def on_stop(
        self,
        begin: Callable[[int], None],
        *,
        seconds: float,
        late_status: int | None = None,
        end: Callable[[], None] = lambda: None,
    ) -> None:
        """Announce what the first request begins.

        Args:
            begin: called in the thread with the signal's number; must not block.
            seconds: after which the process is ended.
            late_status: what it exits with then; 128 and the signal's number unless given.
            end: called in the thread before the process is ended.
        """
        self._plan = _Plan(begin, seconds, late_status, end)

    def on_leave(self, clean_up: Callable[[], None]) -> None:
        """Announce what the thread calls before it ends the process, for whatever reason."""
        self._clean_up = clean_up

    def _hear(self) -> None:
        first = self._wait(None)
        assert first is not None
        self.number = first
        plan = self._plan
        if plan is None:
            self._leave(128 + first)
            return
        plan.begin(first)
        second = self._wait(plan.seconds)
        plan.end()
        if second is not None:
            self._leave(128 + second)
        self._errors.write(b"watchbus: stopped late: something did not end by itself\n")
        self._leave(128 + first if plan.late_status is None else plan.late_status)

    def _leave(self, status: int) -> None:
        self._clean_up()
        self._errors.drain(_LAST_WORDS_SECONDS)
        os._exit(status)
