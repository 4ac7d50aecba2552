"""Servers that a run starts for itself: both end with it, however it ends."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ._connections import BenchError

_START_SECONDS = 20.0
"""How long a server may take to start: many times what it takes on a busy machine."""

# Of the servers that run: their processes, and the folders that they leave.
_PROCESSES: list[subprocess.Popen[bytes]] = []
_FOLDERS: list[str] = []


def end_servers() -> None:
    """End the Redis servers that this process runs; from any thread.

    Served buses end by themselves, with their standard input.
    """
    for process in _PROCESSES:
        process.kill()
    for folder in _FOLDERS:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def served_bus(bus_url: str = "memory://") -> Iterator[tuple[str, int]]:
    """Serve a bus in a process of its own; give its URL and that process's id."""
    # It stops when its standard input ends: also when this process is killed. It does not hear
    # Ctrl-C in the terminal.
    with subprocess.Popen(  # noqa: S603 - this interpreter, by its path
        [sys.executable, "-m", "trio_watchbus._bench._serve", bus_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise BenchError("the server did not start; what it printed says why")
            yield url, process.pid
        finally:
            process.stdin.close()
            try:
                process.wait(_START_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def redis_server() -> Iterator[str]:
    """Run a Redis or Valkey that stores nothing on disk; give its URL."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise BenchError(
            "there is neither redis-server nor valkey-server on PATH: install one, or name a "
            "running one with --bus redis://HOST:PORT"
        )
    with tempfile.TemporaryDirectory(prefix="watchbus-bench-") as folder:
        _FOLDERS.append(folder)
        path = Path(folder, "socket")
        process = subprocess.Popen(  # noqa: S603 - what PATH names so is what is wanted
            [
                *(program, "--port", "0", "--unixsocket", str(path), "--dir", folder),
                *("--save", "", "--appendonly", "no"),
            ],
            stdout=subprocess.DEVNULL,
            process_group=0,
        )
        _PROCESSES.append(process)
        try:
            _wait_until_it_listens(process, path)
            yield f"unix://{path}"
        finally:
            # Not SIGTERM: it inherits the signal mask of this process, in which that is blocked.
            process.kill()
            process.wait()
            _PROCESSES.remove(process)
            _FOLDERS.remove(folder)


def _wait_until_it_listens(process: subprocess.Popen[bytes], path: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                return
        time.sleep(0.02)
    raise BenchError(f"{process.args[0]!r} did not start; run it by hand to see why")  # type: ignore[index]
