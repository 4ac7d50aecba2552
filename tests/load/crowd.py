"""A server in a process of its own, and crowds of clients in others.

Nothing here waits for Trio: what is measured is the server.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from trio_watchbus._bench._usage import memory

from . import clients

_SECONDS = 60.0
"""How long anything may take before it has failed: far longer than it does."""


@dataclass(frozen=True)
class Crowd:
    """How many clients there are, and what they are sent.

    Attributes:
        good: those that read everything.
        bad: those that do not, see `clients`.
        messages: how many messages there are, beside those sent until all clients are there.
        pause: seconds between two of them.
        size: bytes of each.
    """

    good: int
    bad: int
    messages: int
    pause: float
    size: int


@dataclass(frozen=True)
class Outcome:
    """What became of a crowd.

    Attributes:
        complete: clients that had every message once, in order.
        faults: what went wrong with others.
        cut: connections of bad clients that the server has no more.
        delays: seconds from publish to receipt of each message by each client, sorted.
        peak: the most bytes of memory that the server had.
    """

    complete: int
    faults: list[str]
    cut: int
    delays: list[float]
    peak: int

    def quantile(self, share: float) -> float:
        """Return the delay that so many of all do not exceed."""
        return self.delays[min(int(share * len(self.delays)), len(self.delays) - 1)]


class Server:
    """``watchbus serve`` over memory.

    Attributes:
        pid: its process.
        url: where it is.
    """

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "trio_watchbus", "serve", "--bind", "127.0.0.1:0", *arguments],
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        assert self._process.stderr is not None
        line = self._process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:[0-9]+", line)
        assert found is not None, line
        self.url = found[0]
        assert "curl" in self._process.stderr.readline()

    def sockets(self) -> int:
        """Return how many sockets it has open."""
        count = 0
        for descriptor in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                count += str(descriptor.readlink()).startswith("socket:")
        return count

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """Wait for its end, which is without an error."""
        _, errors = self._process.communicate(timeout=_SECONDS)
        assert (self._process.returncode, errors) == (0, "")

    def kill(self) -> None:
        """Kill it, if it runs."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def server(*arguments: str) -> Iterator[Server]:
    """Serve during the body."""
    running = Server(*arguments)
    try:
        yield running
    finally:
        running.kill()


class Clients:
    """Clients in a process of their own, all of one kind."""

    def __init__(self, url: str, kind: str, count: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "load.clients", url, kind, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )

    def tell(self, word: str) -> None:
        """Send a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        """Wait for a line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the clients failed"
        return line.strip()

    def kill(self) -> None:
        """Kill the process, if it runs."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def clients_of(server: Server, kind: str, count: int) -> Iterator[Clients]:
    """Have so many clients of this kind during the body, all of them served."""
    process = Clients(server.url, kind, count)
    try:
        assert process.hear() == "open"
        yield process
    finally:
        process.kill()


class Publisher:
    """Publishes numbered messages over one HTTP connection."""

    def __init__(self, server: Server, size: int) -> None:
        self._connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
        self._size = size
        self.last = 0

    def publish(self) -> None:
        """Publish the next message."""
        self.last += 1
        data = clients.message(self.last, self._size)
        self._connection.request("POST", f"/publish?key={clients.KEY}", data)
        response = self._connection.getresponse()
        assert (response.status, bool(response.read())) == (200, True)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class _Served:
    """A crowd with a server of its own, and one who publishes there."""

    def __init__(self, crowd: Crowd, arguments: Sequence[str], stack: ExitStack) -> None:
        self._crowd = crowd
        self._server = stack.enter_context(server(*arguments))
        self._bad = stack.enter_context(clients_of(self._server, "misbehave", crowd.bad))
        self._good = stack.enter_context(clients_of(self._server, "watch", crowd.good))
        self._publisher = stack.enter_context(closing(Publisher(self._server, crowd.size)))
        # Some answers come before the watch is open: it is published until each client had one.
        ready = Thread(target=self._good.hear, daemon=True)
        ready.start()
        while ready.is_alive():
            self._publisher.publish()
            ready.join(crowd.pause)
        self._before = self._publisher.last
        self._sockets = self._server.sockets()

    def publish(self) -> None:
        """Publish the next message; a while after the first, some of the bad ones leave."""
        self._publisher.publish()
        if self._publisher.last - self._before == self._crowd.messages // 4:
            self._bad.tell("vanish")

    def outcome(self) -> Outcome:
        """Wait until all have had all, and return what came of it."""
        self._good.tell(f"until {self._publisher.last}")
        result = json.loads(self._good.hear())
        wanted = self._sockets - self._crowd.good - _cut_surely(self._crowd)
        deadline = time.monotonic() + _SECONDS
        while self._server.sockets() > wanted and time.monotonic() < deadline:
            time.sleep(0.1)
        assert result["first"] <= self._before
        return Outcome(
            complete=result["complete"],
            faults=result["faults"],
            cut=self._sockets - self._server.sockets() - self._crowd.good,
            delays=sorted(delay for number, delay in result["delays"] if number > self._before),
            peak=memory(self._server.pid, highest=True),
        )


def serve_crowds(crowds: Sequence[Crowd], *arguments: str) -> list[Outcome]:
    """Serve crowds, each by a server of its own, and return what came of each.

    All at the same time, but with a message to one after the other, as otherwise what else the
    machine does could be taken for a difference between them.

    Args:
        crowds: the clients and messages; of as many messages and as long pauses as the first.
        arguments: further ones of ``watchbus serve``.
    """
    with ExitStack() as stack:
        all_served = [_Served(crowd, arguments, stack) for crowd in crowds]
        due = time.monotonic()
        for _ in range(crowds[0].messages):
            for served in all_served:
                due += crowds[0].pause / len(crowds)
                time.sleep(max(0.0, due - time.monotonic()))
                served.publish()
        return [served.outcome() for served in all_served]


def _cut_surely(crowd: Crowd) -> int:
    """Return how many of the bad clients are to be gone at the end: all but the slow ones."""
    return crowd.bad - crowd.bad // 4


def assert_served(crowd: Crowd, outcome: Outcome, ceiling: int) -> None:
    """Assert that a crowd was served as it should be.

    Args:
        crowd: the clients and messages.
        outcome: what came of them.
        ceiling: bytes of memory that the server may have had.
    """
    assert outcome.faults == [], outcome.faults
    assert outcome.complete == crowd.good
    assert len(outcome.delays) == crowd.good * crowd.messages
    assert outcome.cut >= _cut_surely(crowd)
    assert outcome.peak < ceiling, f"{outcome.peak / 2**20:.0f} MiB"
