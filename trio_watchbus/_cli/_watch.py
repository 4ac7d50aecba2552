"""``watchbus watch``: what is published, on standard output."""

from __future__ import annotations

import os
import signal
import stat
from contextlib import closing
from functools import partial

import click
import trio

from .. import _protocol as protocol
from .._errors import WatchLaggedError
from .._message import Message
from .._request import WatchRequest
from ._client import Opening, bus_options, open_bus, run
from ._opening import telling_late

_STDOUT = 1


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
def watch(
    keys: tuple[str, ...],
    prefixes: tuple[str, ...],
    bus_url: str,
    token: str | None,
    after: str | None,
    history: int,
    as_json: bool,
) -> int:
    """Print what is published to KEYs and prefixes, for ever.

    Prints the data of each message as it is, and a newline; with --json a line with its key, id and
    time too, and its data in base64 where that is not text. When the connection breaks, it
    continues where it was; what is lost is reported on standard error.
    """
    try:
        request = WatchRequest(keys, prefixes, after=after, history=history)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    status = run(partial(_watch, open_bus(bus_url, token), bus_url, request, as_json))
    # Nothing was left undone.
    return 0 if status == 128 + signal.SIGTERM else status


async def _watch(
    opening: Opening,
    bus_url: str,
    request: WatchRequest,
    as_json: bool,
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
                    click.echo(f"watchbus: {loss}", err=True)
                    continue
                except trio.EndOfChannel:
                    return
                text = b"".join(map(_json_line if as_json else _line, messages))
                # In a thread, as whoever reads may be slow: heartbeats are to go on meanwhile.
                await trio.to_thread.run_sync(_write, text, abandon_on_cancel=True)


def _line(message: Message) -> bytes:
    return message.data + b"\n"


def _json_line(message: Message) -> bytes:
    return protocol.encode_message(message) + b"\n"


def _write(text: bytes) -> None:
    """Write to standard output, past Python's buffer, whose lock would outlive an abandoned write.

    Raises:
        BrokenPipeError: nobody reads it any more.
    """
    left = memoryview(text)
    while left:
        left = left[os.write(_STDOUT, left) :]


async def _leave_without_reader(scope: trio.CancelScope) -> None:
    """Cancel when whoever reads the pipe on standard output has gone, before anything is written.

    A pipe's writing end is never readable: what wakes is that its other end was closed.
    """
    if stat.S_ISFIFO(os.fstat(_STDOUT).st_mode):
        await trio.lowlevel.wait_readable(_STDOUT)
        scope.cancel()
