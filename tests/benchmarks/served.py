"""Streams of a server and publishing to it, seen by clients in this process."""

from __future__ import annotations

import time
from contextlib import ExitStack

from trio_watchbus._bench._connections import (
    BenchError,
    Deliveries,
    Opening,
    Poller,
    Server,
    open_streams,
)
from trio_watchbus._bench._figures import Latency, Load
from trio_watchbus._bench._served import measure_publishing
from trio_watchbus._bench._usage import memory

from .server_process import KEY, Order, ServerProcess

_SECONDS = 60
"""When a run is over, whatever has come: then it has failed."""

# What a new stream says first, once its watch is open.
_SSE_READY = {"serve_starlette": b": subscribed"}


def throughput(
    server: str, kind: str, clients: int, messages: int, size: int = 16, options: str = ""
) -> float:
    """Return deliveries a second at full speed.

    Args:
        server: the module that serves.
        kind: `sse`, `ws` for a frame a message, or `v1` for `watchbus.v1`.
        clients: connections, all on one key.
        messages: published by the server itself.
        size: bytes of data in each.
        options: arguments of the server, between commas.
    """
    deliveries = _deliver(server, kind, clients, messages, 0, size, options)
    return deliveries.count / deliveries.seconds


def latency(
    server: str, kind: str, clients: int, rate: int, messages: int, options: str = ""
) -> float:
    """Return milliseconds from publish to delivery at the 99th percentile, at a given rate."""
    latency = Latency.of(_deliver(server, kind, clients, messages, rate, 16, options).latencies)
    assert latency is not None
    return latency.p99 * 1000


def idle_memory(server: str, kind: str, clients: int, options: str = "") -> float:
    """Return bytes that the server takes for one idle stream."""
    with (
        ServerProcess(server, *options.split(",")) as process,
        Poller() as poller,
        ExitStack() as stack,
    ):
        address = Server(process.url)
        opening = _opening(server, kind, address)
        before = 0
        # What is made for the first ones is not the price of one more.
        for number in (50, clients):
            before = _settled_memory(process.pid)
            stack.enter_context(open_streams(address, [opening] * number, poller, Deliveries()))
        return (_settled_memory(process.pid) - before) / clients


def publishing(
    server: str, clients: int, messages: int, batch: int = 1, size: int = 16, options: str = ""
) -> float:
    """Return messages a second that are accepted by POST.

    Args:
        server: the module that serves.
        clients: connections that each wait for their answer.
        messages: published in all.
        batch: messages in a request; more than one go as NDJSON.
        size: bytes of data in each.
        options: arguments of the server, between commas.
    """
    load = Load(clients=clients, keys=1000, size=size, rate=0, messages=messages, seconds=_SECONDS)
    with ServerProcess(server, *options.split(",")) as process:
        figures = measure_publishing(Server(process.url), None, load, batch, lambda _: None)
    if figures.delivered < messages:
        raise BenchError(f"only {figures.delivered} of {messages} were accepted")
    return figures.per_second


def _deliver(
    server: str, kind: str, clients: int, messages: int, rate: int, size: int, options: str
) -> Deliveries:
    expected = clients * messages
    deliveries = Deliveries()
    with ServerProcess(server, *options.split(",")) as process, Poller() as poller:
        address = Server(process.url)
        openings = [_opening(server, kind, address)] * clients
        with open_streams(address, openings, poller, deliveries):
            _publish_to_all(process, Order(messages, rate, size, clients), poller, deliveries)
    if deliveries.count != expected:
        raise BenchError(f"{server} delivered {deliveries.count} of {expected}")
    return deliveries


def _publish_to_all(
    process: ServerProcess, order: Order, poller: Poller, deliveries: Deliveries
) -> None:
    """Have it publish, and return once all of that has come, or something is wrong."""
    process.publish(order)
    end = time.monotonic() + _SECONDS
    expected = order.count * order.watchers
    while deliveries.count < expected and time.monotonic() < end and not deliveries.ended:
        poller.poll(1)


def _opening(server: str, kind: str, address: Server) -> Opening:
    if kind == "v1":
        return address.watchbus_v1(KEY)
    if kind == "ws":
        return address.websocket(KEY)
    return address.sse(KEY, _SSE_READY.get(server, b"\nid:"))


def _settled_memory(pid: int) -> int:
    """Return what a process has resident when that has stopped changing."""
    before = -1
    while before != (now := memory(pid)):
        before = now
        time.sleep(0.3)
    return now
