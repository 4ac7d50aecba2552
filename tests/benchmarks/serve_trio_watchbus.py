"""This project's server: `python -m benchmarks.serve_trio_watchbus [plain]`.

`plain` is the same application on hypercorn as it comes.
"""

from __future__ import annotations

import os
import sys
from functools import partial

import trio

from trio_watchbus import InMemoryWatchBus
from trio_watchbus._bench._stamp import stamped
from trio_watchbus._cli._worker import collect_less_often
from trio_watchbus.web import ServerOptions, create_app, serve

from .server_process import KEY, Order


async def main(*arguments: str) -> None:
    """Serve until the input ends."""
    # As `watchbus serve` does.
    collect_less_often()
    bus = InMemoryWatchBus()
    async with trio.open_nursery() as nursery:
        if "plain" in arguments:
            url = await nursery.start(_serve_on_plain_hypercorn, bus)
        else:
            options = ServerOptions(max_connections_per_address=10_000)
            (url, *_) = await nursery.start(
                partial(serve, bus, bind="127.0.0.1:0", options=options)
            )
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()
        async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as orders:
            async for line in orders:
                await _publish(bus, Order.parse(line.decode()))
        nursery.cancel_scope.cancel()


async def _publish(bus: InMemoryWatchBus, order: Order) -> None:
    while bus.statistics().watches < order.watchers:  # noqa: ASYNC110 - the bus tells nobody
        await trio.sleep(0.05)
    start = trio.current_time()
    for number in range(order.count):
        await bus.publish(KEY, stamped(order.size))
        if order.rate:
            await trio.sleep_until(start + (number + 1) / order.rate)
        else:
            await trio.lowlevel.checkpoint()


async def _serve_on_plain_hypercorn(
    bus: InMemoryWatchBus, task_status: trio.TaskStatus[str]
) -> None:
    from hypercorn.config import Config  # noqa: PLC0415
    from hypercorn.trio import serve as serve_plain  # noqa: PLC0415

    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.backlog = 4096
    config.loglevel = "WARNING"
    async with trio.open_nursery() as nursery:
        (url, *_) = await nursery.start(serve_plain, create_app(bus), config)
        task_status.started(url)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
