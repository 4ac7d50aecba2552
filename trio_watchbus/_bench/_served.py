"""Streams of a served bus, and publishing to it, from this process over loopback or a network."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing

from ._connections import Deliveries, Opening, Poller, Requester, Server, open_streams
from ._figures import Figures, Latency, Load
from ._stamp import stamped
from ._usage import cpu_seconds, memory

_BATCH = 100
"""Messages in one request of the publisher, at most."""
_WINDOW = 1000
"""At full speed, messages published and not yet delivered to all: far fewer than the 10,000 that
a journal holds, so that nothing is lost by publishing faster than anyone could read."""
_LONGEST_WAIT = 0.05


def measure_streams(
    bench: str,
    server: Server,
    pid: int | None,
    load: Load,
    opening: Callable[[str], Opening],
    progress: Callable[[int], None],
) -> Figures:
    """Open streams, publish by HTTP, and count what arrives.

    Args:
        bench: the row's name.
        server: where.
        pid: the server's process, if it may be looked at.
        load: how much.
        opening: how to open a stream of a key.
        progress: called with the number of deliveries so far.
    """
    keys = [f"bench/{number}" for number in range(load.keys)]
    expected = load.expected()
    deliveries = Deliveries()
    openings = [opening(keys[number % load.keys]) for number in range(load.clients)]
    with (
        Poller() as poller,
        open_streams(server, openings, poller, deliveries),
        closing(Requester(server, poller)) as publisher,
    ):
        cpu = None if pid is None else cpu_seconds(pid)
        published = 0
        start = time.monotonic()
        while (deliveries.count < expected or publisher.busy) and deliveries.ended < load.clients:
            now = time.monotonic()
            if now > start + load.seconds:
                break
            wait = _LONGEST_WAIT
            if not publisher.busy and published < load.messages:
                if load.rate:
                    due = int((now - start) * load.rate) + 1
                    wait = min(wait, start + due / load.rate - now)
                else:
                    due = deliveries.count * load.messages // max(1, expected) + _WINDOW
                batch = range(published, min(due, published + _BATCH, load.messages))
                if batch:
                    publisher.send(
                        server.publish_batch(
                            (keys[number % load.keys], stamped(load.size)) for number in batch
                        ),
                        len(batch),
                    )
                    published = batch.stop
            poller.poll(wait)
            progress(deliveries.count)
        return Figures(
            bench=bench,
            load=load,
            expected=expected,
            delivered=deliveries.count,
            seconds=deliveries.seconds,
            latency=Latency.of(deliveries.latencies),
            cpu=None if pid is None or cpu is None else cpu_seconds(pid) - cpu,
            memory=None if pid is None else memory(pid, highest=True),
        )


def measure_publishing(
    server: Server, pid: int | None, load: Load, batch_size: int, progress: Callable[[int], None]
) -> Figures:
    """Publish on many connections, each waiting for its answer before it goes on.

    Args:
        server: where.
        pid: the server's process, if it may be looked at.
        load: how much.
        batch_size: messages in one request; more than one go as NDJSON.
        progress: called with the number of messages accepted so far.
    """
    keys = [f"bench/{number}" for number in range(load.keys)]
    latencies: list[float] = []
    accepted = published = 0

    def answered(requester: Requester) -> None:
        nonlocal accepted
        accepted += requester.messages
        latencies.append(time.monotonic() - requester.sent)
        idle.append(requester)

    def request(batch: range) -> bytes:
        messages = ((keys[number % load.keys], stamped(load.size)) for number in batch)
        return (
            server.publish(*next(messages)) if batch_size == 1 else server.publish_batch(messages)
        )

    with Poller() as poller, ExitStack() as stack:
        idle = [
            stack.enter_context(closing(Requester(server, poller, answered)))
            for _ in range(load.clients)
        ]
        cpu = None if pid is None else cpu_seconds(pid)
        start = time.monotonic()
        while accepted < load.messages and (now := time.monotonic()) < start + load.seconds:
            wait, due = _LONGEST_WAIT, load.messages
            if load.rate:
                due = min(due, int((now - start) * load.rate) + 1)
                wait = min(wait, start + due / load.rate - now)
            while idle and published < due:
                batch = range(published, min(due, published + batch_size))
                idle.pop().send(request(batch), len(batch))
                published = batch.stop
            poller.poll(wait)
            progress(accepted)
        return Figures(
            bench="publish",
            load=load,
            expected=load.messages,
            delivered=accepted,
            seconds=time.monotonic() - start,
            latency=Latency.of(latencies),
            cpu=None if pid is None or cpu is None else cpu_seconds(pid) - cpu,
            memory=None if pid is None else memory(pid, highest=True),
        )
