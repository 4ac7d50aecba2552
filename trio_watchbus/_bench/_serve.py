"""A served bus in a process of its own; run by ``python -m``.

Prints its URL, and serves until its standard input ends.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import partial

import trio

from .._cli._worker import collect_less_often
from .._open import open_watchbus
from ..web import ServerOptions, serve

_MAX_CONNECTIONS = 100_000
"""More than a machine has ports for."""


async def _main(bus_url: str) -> None:
    # As `watchbus serve` does.
    collect_less_often()
    async with open_watchbus(bus_url) as bus, trio.open_nursery() as nursery:
        # All clients of a bench come from one address.
        options = ServerOptions(
            max_connections_per_address=_MAX_CONNECTIONS, max_connections=_MAX_CONNECTIONS
        )
        (url, *_) = await nursery.start(partial(serve, bus, bind="127.0.0.1:0", options=options))
        # If the parent has gone already, the end of its pipe says so below.
        with suppress(BrokenPipeError):
            os.write(sys.stdout.fileno(), f"{url}\n".encode())
        async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as parent:
            while await parent.receive_some():
                pass
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(_main, sys.argv[1])
