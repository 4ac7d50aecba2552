"""``watchbus`` in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import trio

SECONDS = 30
"""How long anything may take before a test gives up: far longer than it does."""

WATCHBUS = (sys.executable, "-m", "trio_watchbus")


class Ended(NamedTuple):
    """What a command left."""

    status: int
    out: bytes
    err: str


class Running:
    """A command that runs; its output is read as it comes.

    Attributes:
        process: the process.
    """

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._out = b""
        self._err = b""

    async def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(data)

    async def line(self) -> bytes:
        """Return the next line of standard output."""
        assert self.process.stdout is not None
        with trio.fail_after(SECONDS):
            while b"\n" not in self._out:
                data = await self.process.stdout.receive_some()
                assert data, f"the command ended: {await self._errors()}"
                self._out += data
        line, _, self._out = self._out.partition(b"\n")
        return line

    async def error_line(self) -> str:
        """Return the next line of standard error."""
        assert self.process.stderr is not None
        with trio.fail_after(SECONDS):
            while b"\n" not in self._err:
                data = await self.process.stderr.receive_some()
                assert data, "the command ended"
                self._err += data
        line, _, self._err = self._err.partition(b"\n")
        return line.decode()

    async def end(self) -> Ended:
        """Wait until it ends, and return what it said that was not read yet."""
        out = self._out
        with trio.fail_after(SECONDS):
            if self.process.stdout is not None:
                async for data in self.process.stdout:
                    out += data
            errors = await self._errors()
            status = await self.process.wait()
        return Ended(status, out, errors)

    async def _errors(self) -> str:
        if self.process.stderr is not None:
            async for data in self.process.stderr:
                self._err += data
        return self._err.decode()


@asynccontextmanager
async def running(
    *arguments: str | bytes,
    environment: Mapping[str, str] | None = None,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    program: Sequence[str] = WATCHBUS,
) -> AsyncIterator[Running]:
    """Run a command, or another program; what is left of it at the end is killed.

    Args:
        *arguments: those of the command.
        environment: variables that it gets beside those of this process.
        stdout: a descriptor for its standard output, or a pipe to read from.
        stderr: likewise.
        program: what to run.
    """
    process = await trio.lowlevel.open_process(
        [*program, *arguments],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        env={**os.environ, **(environment or {})},
    )
    try:
        yield Running(process)
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                await stream.aclose()


async def command(
    *arguments: str | bytes, text: bytes = b"", environment: Mapping[str, str] | None = None
) -> Ended:
    """Run a command with `text` as standard input, and return what it leaves."""
    async with running(*arguments, environment=environment) as process:
        await process.write(text)
        assert process.process.stdin is not None
        await process.process.stdin.aclose()
        return await process.end()
