"""A server in a process of its own, which publishes when it is told to.

It prints its URL first. Then it takes lines: `COUNT RATE SIZE WATCHERS` publishes that many stamped
messages to `KEY` once there are so many watchers, at that rate a second, or at rate 0 with one
turn for everybody else after each.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from trio_watchbus._bench._connections import BenchError

KEY = "benchmark"


@dataclass(frozen=True)
class Order:
    """What to publish."""

    count: int
    rate: float
    size: int
    watchers: int

    @classmethod
    def parse(cls, line: str) -> Order:
        """Return the order that a line gives."""
        count, rate, size, watchers = line.split()
        return cls(int(count), float(rate), int(size), int(watchers))


class ServerProcess:
    """Runs a module of this folder that keeps to the above."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
        self.url = ""
        self.pid = 0

    def __enter__(self) -> Self:
        """Start it, and wait until it listens."""
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        if not self.url:
            raise BenchError(f"{self._command} did not start")
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def publish(self, order: Order) -> None:
        """Have it publish."""
        assert self._process.stdin is not None
        line = f"{order.count} {order.rate} {order.size} {order.watchers}\n"
        self._process.stdin.write(line)
        self._process.stdin.flush()
