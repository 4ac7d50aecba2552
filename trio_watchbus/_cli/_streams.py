"""The standard streams of a command: writing never blocks the event loop, and never crashes."""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import select
import sys
import threading
from collections import deque
from typing import Any, final

STDIN = 0
STDOUT = 1
STDERR = 2

_QUEUED_BYTES = 1024 * 1024
"""Bytes that wait for standard error before lines are dropped: about 10,000 lines."""

_BLOCK_BYTES = select.PIPE_BUF
"""Bytes written to standard error at once: a pipe that processes share keeps these together."""

_EXIT_SECONDS = 1.0
"""Seconds that a process that exits waits for a reader of standard error."""


class OutputError(Exception):
    """Standard output cannot be written; the message says why."""


class ReaderGoneError(OutputError):
    """Whoever read standard output has closed it."""


def install_streams() -> ErrorOutput:
    """Put `sys.stdout` and `sys.stderr` on streams that suit a command; return the latter's.

    A write to `sys.stdout` goes out at once, or raises `OutputError`. A write to `sys.stderr`
    never blocks and never raises.
    """
    _reserve_descriptors()
    errors = ErrorOutput()
    sys.stdout = _text(_Output())
    sys.stderr = _text(errors)
    atexit.register(errors.drain, _EXIT_SECONDS)
    return errors


def write_out(data: bytes) -> None:
    """Write all of `data` to standard output; blocks while nobody reads.

    Raises:
        OutputError: it cannot be written.
    """
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(STDOUT, left) :]
        except BlockingIOError:
            # Another process that has the same pipe or terminal open made it non-blocking.
            select.select([], [STDOUT], [])
        except BrokenPipeError:
            raise ReaderGoneError("nobody reads standard output any more") from None
        except OSError as error:
            raise OutputError(f"cannot write to standard output: {error.strerror}") from None


def _reserve_descriptors() -> None:
    """Keep files and sockets from getting the number of a standard stream that is closed.

    As gnulib's stdopen does: the null device takes the number, opened in the wrong direction, so
    that using the stream fails as it does when it is closed.
    """
    for descriptor in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(descriptor)
        except OSError:
            mode = os.O_WRONLY if descriptor == STDIN else os.O_RDONLY
            # The lowest number that is free.
            os.set_inheritable(os.open(os.devnull, mode), True)


def _text(stream: io.RawIOBase) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        stream,  # type: ignore[arg-type] # raw, as under `python -u`
        encoding="utf-8",
        errors="backslashreplace",
        write_through=True,
    )


@final
class _Output(io.RawIOBase):
    """Standard output, without a buffer that would be written after a failure, too."""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return STDOUT

    def isatty(self) -> bool:
        return os.isatty(STDOUT)

    def write(self, data: Any, /) -> int:
        write_out(data)
        return len(data)


@final
class ErrorOutput(io.RawIOBase):
    """Standard error, written by a thread from a bounded queue.

    What finds the queue full, or cannot be written, is dropped. How many lines were is reported
    once writing works again.

    Args:
        descriptor: where it is written.
    """

    def __init__(self, descriptor: int = STDERR) -> None:
        super().__init__()
        self._descriptor = descriptor
        # Reentrant, as the garbage collector may run code that warns, at any time.
        self._changed = threading.Condition(threading.RLock())
        self._queue: deque[bytes] = deque()
        # Bytes in the queue, and of the block that is being written.
        self._waiting = 0
        self._dropped_lines = 0
        self._thread: threading.Thread | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any, /) -> int:
        record = bytes(data)
        with self._changed:
            if self._waiting + len(record) > _QUEUED_BYTES:
                self._dropped_lines += _lines(record)
            else:
                self._queue.append(record)
                self._waiting += len(record)
                self._changed.notify_all()
            if self._thread is None:
                self._start()
        return len(record)

    def drain(self, seconds: float) -> None:
        """Wait until all is written, but no longer than `seconds`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, seconds)

    def _start(self) -> None:
        thread = threading.Thread(target=self._write_queue, name="watchbus-stderr", daemon=True)
        # At the end of the interpreter, or where the system has no thread left.
        with contextlib.suppress(RuntimeError):
            thread.start()
            self._thread = thread

    def _write_queue(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue)
                block = self._next_block()
            written = self._write_block(block)
            with self._changed:
                self._waiting -= len(block)
                if not written:
                    self._dropped_lines += _lines(block)
                elif self._dropped_lines and not self._queue:
                    self._report_dropped()
                self._changed.notify_all()

    def _next_block(self) -> bytes:
        block = [self._queue.popleft()]
        size = len(block[0])
        while self._queue and size + len(self._queue[0]) <= _BLOCK_BYTES:
            record = self._queue.popleft()
            block.append(record)
            size += len(record)
        return b"".join(block)

    def _write_block(self, block: bytes) -> bool:
        left = memoryview(block)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:
                select.select([], [self._descriptor], [])
            except OSError:
                return False
        return True

    def _report_dropped(self) -> None:
        count, self._dropped_lines = self._dropped_lines, 0
        self.write(
            b"watchbus: %d lines were dropped, as standard error could not take them\n" % count
        )


def _lines(record: bytes) -> int:
    return max(1, record.count(b"\n"))
