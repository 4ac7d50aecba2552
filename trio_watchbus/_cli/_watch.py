"""``watchbus watch``: prints what is published."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from operator import attrgetter

import click
import trio

from .. import _protocol as protocol
from .._errors import InvalidPositionError, WatchLaggedError
from .._message import Message
from .._request import WatchRequest
from ._client import Opening, bus_options, open_bus, run
from ._errors import say, source_of
from ._opening import telling_late
from ._printable import printable_data, printable_json
from ._settings import BusSettings
from ._stop import StopRequests
from ._streams import STDOUT, write_out

Format = Callable[[Message], bytes]
"""Makes a line of a message, without its end."""


@click.command()
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@click.option(
    "--prefix", "prefixes", multiple=True, help="Watch every key that starts with this; repeatable."
)
@bus_options
@click.option("--after", help="Begin with what came after this position or message's id.")
@click.option(
    "--history",
    type=click.IntRange(0, protocol.MAX_HISTORY),
    default=0,
    help="Begin with so many of the newest kept messages of each key.",
)
@click.option("--json", "as_json", is_flag=True, help="Print each message as a line of JSON.")
@click.pass_obj
def watch(
    stop: StopRequests,
    /,
    keys: tuple[str, ...],
    prefixes: tuple[str, ...],
    bus_url: str,
    token: str | None,
    settings: BusSettings,
    after: str | None,
    history: int,
    as_json: bool,
) -> int:
    """Print what is published to KEYs and prefixes, for ever.

    Prints the data of each message as it is, and a newline; with --json a line with its key, id and
    time too, and its data in base64 where that is not text. On a terminal, control characters are
    escaped. When the connection breaks, it continues where it was; what is lost is reported on
    standard error.
    """
    try:
        request = WatchRequest(keys, prefixes, after=after, history=history)
    except InvalidPositionError as error:
        source = source_of(click.get_current_context(), "after")
        raise click.UsageError(f"{source}: {error}") from None
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    line = _line_format(as_json=as_json, on_terminal=os.isatty(STDOUT))
    opening = open_bus(bus_url, token, settings)
    status = run(partial(_watch, opening, bus_url, request, line), stop)
    # Nothing was left undone.
    return 0 if status == 128 + signal.SIGTERM else status


async def _watch(
    opening: Opening,
    bus_url: str,
    request: WatchRequest,
    line: Format,
    nursery: trio.Nursery,
) -> None:
    """Print what is published, until nobody reads it."""
    async with opening(nursery) as bus:
        nursery.start_soon(_leave_without_reader, nursery.cancel_scope)
        with telling_late(bus_url, nursery):
            opened = await bus.open_watch(request)
        with closing(opened) as watch:
            while True:
                try:
                    messages = await watch.receive_batch()
                except WatchLaggedError as loss:
                    say(str(loss))
                    continue
                except trio.EndOfChannel:
                    return
                # In a thread: the reader may be slow, and heartbeats have to go on meanwhile.
                await trio.to_thread.run_sync(_write, messages, line, abandon_on_cancel=True)


def _line_format(*, as_json: bool, on_terminal: bool) -> Format:
    """Return what makes a line of a message."""
    if as_json:
        if on_terminal:
            return lambda message: printable_json(protocol.encode_message(message))
        return protocol.encode_message
    if on_terminal:
        return lambda message: printable_data(message.data)
    return attrgetter("data")


def _write(messages: Sequence[Message], line: Format) -> None:
    write_out(b"".join(line(message) + b"\n" for message in messages))


async def _leave_without_reader(scope: trio.CancelScope) -> None:
    """Cancel when the reader of the pipe on standard output has gone, even if nothing is written.

    The writing end of a pipe is never readable: it wakes because the other end was closed.
    """
    if stat.S_ISFIFO(os.fstat(STDOUT).st_mode):
        await trio.lowlevel.wait_readable(STDOUT)
        scope.cancel()
