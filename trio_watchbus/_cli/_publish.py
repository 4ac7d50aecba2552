"""``watchbus publish``: one message, or each line of standard input."""

from __future__ import annotations

import os
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

_STDIN = 0

_READ_BYTES = 64 * 1024
"""Bytes of standard input read at once, as many as a pipe holds: what comes while a batch is being
published makes the next."""

_BATCH_MESSAGES = 1000

_PATIENCE = 1.0
_TELL_EVERY = 0.1
"""Seconds after which it is told how far it is, and between that and the next time."""


@click.command()
@click.argument("arguments", metavar="KEY [DATA|-]", nargs=-1)
@click.option("--prefix", help="Publish to every key that starts with this, instead of to KEY.")
@bus_options
def publish(arguments: tuple[str, ...], prefix: str | None, bus_url: str, token: str | None) -> int:
    """Publish DATA to KEY, and print the message's id.

    With - or nothing in place of DATA, each line of standard input is published as it comes; lines
    that come fast are published together, and nothing is printed.
    """
    name, data = _address(arguments, prefix)
    is_prefix = prefix is not None
    opening = open_bus(bus_url, token)
    if data is None or data == "-":
        return run(partial(_publish_lines, opening, name, is_prefix))
    return run(partial(_publish_one, opening, bus_url, name, is_prefix, data.encode()))


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
    """The lines of standard input: each time those that have come since.

    Args:
        longest: bytes that a line may have.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._begun = b""
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[bytes]:
        while not self._ended:
            # Left alone at a cancel, it ends with the process.
            data = await trio.to_thread.run_sync(
                os.read, _STDIN, _READ_BYTES, abandon_on_cancel=True
            )
            *lines, self._begun = (self._begun + data).split(b"\n")
            if not data:
                self._ended = True
                # The last line may lack its end.
                if self._begun:
                    return [self._begun]
            if len(self._begun) > self._longest:
                raise MessageTooLargeError(
                    f"a line has more than the {self._longest} bytes that the bus takes"
                )
            if lines:
                return lines
        raise StopAsyncIteration


@final
class _Progress:
    """Tells on a terminal how many lines were published, when it takes long.

    Attributes:
        count: how many.
    """

    def __init__(self) -> None:
        self.count = 0
        self._due = time.monotonic() + _PATIENCE
        # Not between lines that are being typed.
        self._told = sys.stderr.isatty() and not os.isatty(_STDIN)
        self._shown = False

    def add(self, count: int) -> None:
        """Take note of more lines."""
        self.count += count
        now = time.monotonic()
        if self._told and now >= self._due:
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
