"""Job progress: a worker publishes how far it has come, and a terminal shows a bar.

`progress.py` does both in one process; `progress.py bar URL` and `progress.py worker URL` do them
in two.
"""

from __future__ import annotations

import argparse
import random
import sys
from contextlib import AbstractAsyncContextManager

import trio

from trio_watchbus import BusUnavailableError, open_watchbus
from trio_watchbus.abc import WatchBus

JOB = "jobs/1/progress"
WIDTH = 40


async def work(bus: WatchBus) -> None:
    """Do a job in a hundred steps, and publish after each how far it has come."""
    for percent in range(101):
        await bus.publish(JOB, str(percent).encode())
        await trio.sleep(random.uniform(0, 0.05))


async def show(bus: WatchBus, task_status: trio.TaskStatus = trio.TASK_STATUS_IGNORED) -> None:
    """Show a bar until the job is done.

    Only the newest step counts, so older ones that wait are passed over. The newest kept comes
    first, so that a bar that is started late shows at once how far the job is.
    """
    async with bus.watch(JOB, overflow="latest", history=1) as watch:
        task_status.started()
        async for message in watch:
            percent = int(message.data)
            done = "#" * (percent * WIDTH // 100)
            print(f"\r[{done:{WIDTH}}] {percent:3} %", end="", flush=True)
            if percent == 100:
                print()
                return


async def play(role: str, opening: AbstractAsyncContextManager[WatchBus]) -> None:
    """Play one role, or both."""
    async with opening as bus, trio.open_nursery() as nursery:
        if role in ("both", "bar"):
            await nursery.start(show, bus)
        if role in ("both", "worker"):
            nursery.start_soon(work, bus)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", nargs="?", choices=("both", "bar", "worker"), default="both")
    parser.add_argument("url", nargs="?", default="memory://", help="of the bus")
    options = parser.parse_args()
    if options.role != "both" and options.url == "memory://":
        parser.error(f"a {options.role} needs the URL of a bus that other processes reach")
    try:
        opening = open_watchbus(options.url)
    except (ValueError, ImportError) as error:
        parser.error(str(error))
    try:
        trio.run(play, options.role, opening)
    except BusUnavailableError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
