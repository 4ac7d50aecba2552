"""``watchbus publish``: one message, or each line of standard input."""

from __future__ import annotations

import os
import select
import sys
import time
from functools import partial
from typing import Self, final

import click
import trio

from .._errors import MessageTooLargeError, WatchBusError
from .._keys import check_key, check_prefix
from .._remote._bus import RemoteWatchBus
from ..abc import WatchBus
from ._client import Opening, bus_options, open_bus, run
from ._errors import CommandError, one_line
from ._opening import telling_late
from ._settings import BusSettings
from ._stop import StopRequests
from ._streams import STDIN

_READ_BYTES = 64 * 1024
"""Bytes of standard input read at once, as many as a pipe holds: what comes while a batch is being
published makes the next."""

_BATCH_MESSAGES = 1000

_PATIENCE = 1.0
_TELL_EVERY = 0.1
"""Seconds until progress is shown, and between updates."""


@click.command()
@click.argument("arguments", metavar="KEY [DATA|-]", nargs=-1)
@click.option("--prefix", help="Publish to every key that starts with this, instead of to KEY.")
@bus_options
@click.pass_obj
def publish(
    stop: StopRequests,
    /,
    arguments: tuple[str, ...],
    prefix: str | None,
    bus_url: str,
    token: str | None,
    settings: BusSettings,
) -> int:
    """Publish DATA to KEY, and print the message's id.

    With - or nothing in place of DATA, each line of standard input is published as it comes,
    without its line end (LF or CRLF). Lines that come fast are published together, and nothing is
    printed.
    """
    name, data = _address(arguments, prefix)
    is_prefix = prefix is not None
    opening = open_bus(bus_url, token, settings)
    if data is None or data == "-":
        return run(partial(_publish_lines, opening, name, is_prefix), stop)
    return run(partial(_publish_one, opening, bus_url, name, is_prefix, data.encode()), stop)


def _address(arguments: tuple[str, ...], prefix: str | None) -> tuple[str, str | None]:
    """Return the key or prefix, and the data if there is some.

    Raises:
        click.UsageError: there is none, or more than that.
    """
    try:
        if prefix is not None:
            name = check_prefix(prefix)
        elif arguments:
            name = check_key(arguments[0])
            arguments = arguments[1:]
        else:
            raise click.UsageError("give a KEY to publish to, or --prefix")
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if len(arguments) > 1:
        raise click.UsageError("DATA is one argument: put it in quotes")
    return name, arguments[0] if arguments else None


async def _publish_one(
    opening: Opening,
    bus_url: str,
    name: str,
    is_prefix: bool,
    data: bytes,
    nursery: trio.Nursery,
) -> None:
    async with opening(nursery) as bus:
        publish = bus.publish_prefix if is_prefix else bus.publish
        with telling_late(bus_url, nursery):
            message_id = await publish(name, data)
        click.echo(message_id)


async def _publish_lines(
    opening: Opening,
    name: str,
    is_prefix: bool,
    nursery: trio.Nursery,
) -> None:
    async with opening(nursery) as bus:
        progress = _Progress()
        try:
            async for lines in _Lines(bus.max_message_size):
                start = 0
                while start < len(lines):
                    # Asked each time, as another server may have another limit.
                    batch = lines[start : start + _batch_size(bus)]
                    await bus.publish_many([(name, line, is_prefix) for line in batch])
                    progress.add(len(batch))
                    start += len(batch)
        except (WatchBusError, ValueError) as error:
            raise CommandError(
                f"{one_line(error)} ({progress.count} lines were published before)"
            ) from None
        finally:
            progress.end()


def _batch_size(bus: WatchBus) -> int:
    """Return how many lines go together."""
    if isinstance(bus, RemoteWatchBus):
        return min(_BATCH_MESSAGES, bus.max_batch_messages)
    return _BATCH_MESSAGES


@final
class _Lines:
    """The lines of standard input: each time, those that have come since.

    A line ends with LF or CRLF; the last one may lack its end. Everything else is data: a CR
    anywhere else, NUL, a byte order mark.

    Args:
        longest: bytes that a line may have.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        # The line that has not ended yet. Appended to in place, as its parts may be small.
        self._begun = bytearray()
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[bytes]:
        while not self._ended:
            # Abandoned on cancel; the thread ends with the process.
            data = await trio.to_thread.run_sync(_read_stdin, abandon_on_cancel=True)
            if not data:
                self._ended = True
                if self._begun:
                    return [bytes(self._begun)]
                break
            lines = self._split(data)
            # One more for the CR that may be a part of its end.
            if len(self._begun) > self._longest + 1:
                raise MessageTooLargeError(
                    f"a line has more than the {self._longest} bytes that the bus takes"
                )
            if lines:
                return lines
        raise StopAsyncIteration

    def _split(self, data: bytes) -> list[bytes]:
        first, *rest = data.split(b"\n")
        self._begun += first
        if not rest:
            return []
        lines = [bytes(self._begun), *rest[:-1]]
        self._begun = bytearray(rest[-1])
        return [line.removesuffix(b"\r") for line in lines]


def _read_stdin() -> bytes:
    """Return what comes next on standard input, or nothing at its end.

    Raises:
        CommandError: it cannot be read.
    """
    while True:
        try:
            return os.read(STDIN, _READ_BYTES)
        except BlockingIOError:
            # Another process that has the same pipe or terminal open made it non-blocking.
            select.select([STDIN], [], [])
        except OSError as error:
            raise CommandError(f"cannot read standard input: {error.strerror}") from None


@final
class _Progress:
    """Shows on a terminal how many lines were published, if it takes long.

    Attributes:
        count: how many.
    """

    def __init__(self) -> None:
        self.count = 0
        self._due = time.monotonic() + _PATIENCE
        # Not between lines that are being typed.
        self._wanted = sys.stderr.isatty() and not os.isatty(STDIN)
        self._shown = False

    def add(self, count: int) -> None:
        """Count more lines."""
        self.count += count
        now = time.monotonic()
        if self._wanted and now >= self._due:
            self._due = now + _TELL_EVERY
            self._show()

    def end(self) -> None:
        """Leave the last count on a line of its own, if there was one."""
        if self._shown:
            self._show()
            click.echo(err=True)

    def _show(self) -> None:
        self._shown = True
        click.echo(f"\r{self.count} lines published", nl=False, err=True)
