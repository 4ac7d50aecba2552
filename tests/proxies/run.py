"""Measures how soon each installed proxy passes a message on, and notices that a client left.

Prints a line for each proxy: milliseconds from a publish to its arrival, and the longest of some
times from a client's leaving an idle stream until its watch is gone, in heartbeats of the server.
"""

from __future__ import annotations

import math
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

sys.path.insert(0, str(Path(__file__).parents[1]))

from proxies.fronted import Fronted, fronted
from proxies.programs import PROXIES
from served import Client, until

HEARTBEAT = 2.0
ROUNDS = 3
MESSAGES = 100


async def seconds_of_a_message(front: Fronted, client: Client) -> float:
    """Return how long a message takes from its publish to a client of the proxy."""
    begin = time.perf_counter()
    for _ in range(MESSAGES):
        await front.server.bus.publish("a", b"message")
        await client.message_event()
    return (time.perf_counter() - begin) / MESSAGES


async def seconds_to_notice(front: Fronted, client: Client) -> float:
    """Return how long the watch of a client lives on that closes its connection."""
    begin = time.perf_counter()
    client.vanish()
    await until(lambda: not front.server.watches)
    return time.perf_counter() - begin


async def main() -> None:
    """Measure them all, one after the other."""
    for proxy in PROXIES.values():
        if proxy.path is None:
            print(f"{proxy.name:10} not installed")
            continue
        messages, streams, sockets = [], [], []
        with TemporaryDirectory() as folder:
            # For proxies that give up root's rights.
            await trio.Path(folder).chmod(0o755)
            async with fronted(proxy, Path(folder), heartbeat=HEARTBEAT) as front:
                for _ in range(ROUNDS):
                    client = await front.connect()
                    await client.stream_events("/bus/sse?key=a", Host=front.host)
                    messages.append(await seconds_of_a_message(front, client))
                    streams.append(await seconds_to_notice(front, client))
                    client = await front.connect()
                    await client.upgrade("/bus/ws?key=a", Host=front.host)
                    await until(partial(is_watched, front))
                    sockets.append(await seconds_to_notice(front, client))
        print(
            f"{proxy.name:10} message {1000 * min(messages):.2f} ms,"
            f" stream left: {max(streams):.3f} s (heartbeats: {heartbeats(max(streams))}),"
            f" WebSocket left: {max(sockets):.3f} s",
            flush=True,
        )


def is_watched(front: Fronted) -> bool:
    """Whether a client of the proxy has a watch."""
    return front.server.watches > 0


def heartbeats(seconds: float) -> int:
    """Return how many heartbeats passed before a leaving was noticed."""
    return 0 if seconds < HEARTBEAT / 4 else math.ceil(seconds / HEARTBEAT)


if __name__ == "__main__":
    trio.run(main)
