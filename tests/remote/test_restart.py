"""Servers that are restarted while messages are published, and clients that resume."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count, cycle
from secrets import token_hex

import httpx
import httpx_sse
import pytest
import trio
from redis_bus.servers import binaries, running
from restarting import RestartedServer, restarted_server

from trio_watchbus import RemoteWatchBus, WatchLaggedError, open_remote_watchbus
from trio_watchbus.abc import Watch

SECONDS = 60
"""How long a test may take before it gives up: far longer than it does."""

END = "end"

_ENDED = (httpx.TransportError, httpx_sse.SSEError)
"""What a server that is ended may look like from outside."""


def follow_events(
    servers: Sequence[RestartedServer], take: Callable[[httpx_sse.ServerSentEvent], bool]
) -> None:
    """Hand on the first event, and then each that tells something, until `take` has enough.

    From one server, and when that ends, from the next. In a thread, as a stream of httpx that is
    left early leaves asynchronous generators behind; one that is abandoned ends with its server.
    """
    last_id = ""
    for server in cycle(servers):
        trio.from_thread.check_cancelled()
        try:
            with (
                httpx.Client(timeout=SECONDS) as http,
                httpx_sse.connect_sse(
                    http, "GET", f"{server.url}/sse?prefix=", headers={"Last-Event-ID": last_id}
                ) as source,
            ):
                for event in source.iter_sse():
                    if (not last_id or event.data) and take(event):
                        return
                    last_id = event.id
        except _ENDED:
            time.sleep(0.01)


class Load:
    """What was published, and what each client saw.

    Attributes:
        stored: id and data of each message that was acknowledged.
        seen: the same of what each client saw, in its order; a loss has no id.
    """

    def __init__(self) -> None:
        self.stored: list[tuple[str, str]] = []
        self.seen: dict[str, list[tuple[str, str]]] = {}
        self._stopping = False

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Have the publishers stop at the end of the body."""
        yield
        self._stopping = True

    async def stored_more(self, messages: int = 50) -> None:
        """Wait until so many more were acknowledged."""
        wanted = len(self.stored) + messages
        while len(self.stored) < wanted:  # noqa: ASYNC110, nobody tells
            await trio.sleep(0.005)

    async def publish_remotely(self, name: str, bus: RemoteWatchBus) -> None:
        """Publish by one server, which is waited for when it is down."""
        for number in count():
            if self._stopping:
                return
            data = f"{name} {number}"
            self.stored.append((await bus.publish(name, data.encode()), data))
            await trio.sleep(0.002)

    async def publish_by_http(self, name: str, *servers: RestartedServer) -> None:
        """Publish by one server, and when it is down by the next, each message once."""
        server = iter(cycle(servers))
        url = next(server).url
        async with httpx.AsyncClient() as http:
            for number in count():
                if self._stopping:
                    return
                data = f"{name} {number}"
                headers = {"Idempotency-Key": token_hex(8)}
                answer = None
                while answer is None:
                    try:
                        answer = await http.post(
                            f"{url}/publish?key={name}", content=data, headers=headers
                        )
                    except httpx.TransportError:
                        url = next(server).url
                assert answer.status_code == 200, answer.text
                self.stored.append((answer.json()["id"], data))
                await trio.sleep(0.002)

    async def watch_remotely(
        self, name: str, bus: RemoteWatchBus, task_status: trio.TaskStatus[None]
    ) -> None:
        """See what comes over a remote bus, up to the end."""
        seen = self.seen[name] = []
        async with bus.subscribe_prefix("") as watch:
            task_status.started()
            async for message in watch:
                data = message.data.decode()
                seen.append((message.id, data))
                if data == END:
                    return

    async def watch_by_events(
        self, name: str, *servers: RestartedServer, task_status: trio.TaskStatus[None]
    ) -> None:
        """See what comes as Server-Sent Events, up to the end."""
        seen = self.seen[name] = []

        def take(event: httpx_sse.ServerSentEvent) -> bool:
            if not event.data:
                trio.from_thread.run_sync(task_status.started)
            elif event.event != "end":
                seen.append((event.id if event.event == "message" else "", event.data))
            return event.data == END

        await trio.to_thread.run_sync(follow_events, servers, take, abandon_on_cancel=True)

    def check(self) -> None:
        """Assert that each client saw all that was stored, each once, in order."""
        stored = sorted(self.stored, key=lambda message: int(message[0].rpartition("-")[2]))
        for name, seen in self.seen.items():
            assert seen == stored, name


async def test_a_rolling_restart_under_load_loses_and_repeats_nothing() -> None:
    """Two servers of one Redis are restarted in turn; clients resume, publishers go on."""
    load = Load()
    with running(min(binaries())) as redis, trio.fail_after(SECONDS):
        async with (
            restarted_server(redis.url) as one,
            restarted_server(redis.url) as two,
            open_remote_watchbus(one.url) as bus_of_one,
            open_remote_watchbus(two.url) as bus_of_two,
            trio.open_nursery() as watchers,
        ):
            for name, bus in (("by one", bus_of_one), ("by two", bus_of_two)):
                await watchers.start(load.watch_remotely, f"remote {name}", bus)
            for name, servers in (("one first", (one, two)), ("two first", (two, one))):
                for number in range(3):
                    await watchers.start(load.watch_by_events, f"{name} {number}", *servers)
            async with trio.open_nursery() as publishers:
                with load.publishing():
                    publishers.start_soon(load.publish_remotely, "remote1", bus_of_one)
                    publishers.start_soon(load.publish_remotely, "remote2", bus_of_two)
                    publishers.start_soon(load.publish_by_http, "http1", one, two)
                    publishers.start_soon(load.publish_by_http, "http2", two, one)
                    for server, bus in ((one, bus_of_one), (two, bus_of_two)):
                        await load.stored_more()
                        await server.stop()
                        await load.stored_more()
                        await server.start()
                        while bus.statistics().reconnects < 1:  # noqa: ASYNC110, nobody tells
                            await trio.sleep(0.005)
                        await load.stored_more()
            load.stored.append((await bus_of_one.publish("end", END.encode()), END))
    load.check()


async def test_clients_of_a_memory_that_was_restarted_are_told_their_loss() -> None:
    """The messages are gone with the process: that is said, and then what follows comes."""
    send, events = trio.open_memory_channel[httpx_sse.ServerSentEvent](100)

    def take(event: httpx_sse.ServerSentEvent) -> bool:
        trio.from_thread.run_sync(send.send_nowait, event)
        return event.data == END

    async def receive(watch: Watch) -> bytes:
        return (await watch.receive()).data

    with trio.fail_after(SECONDS):
        async with (
            restarted_server("memory://") as server,
            open_remote_watchbus(server.url) as bus,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(
                partial(
                    trio.to_thread.run_sync, follow_events, [server], take, abandon_on_cancel=True
                )
            )
            assert not (await events.receive()).data
            async with bus.watch("k") as watch:
                await bus.publish("k", b"1")
                assert await receive(watch) == b"1"
                assert (await events.receive()).data == "1"
                await server.stop()
                assert (await events.receive()).event == "end"
                await server.start()
                with pytest.raises(WatchLaggedError) as lost:
                    await watch.receive()
                assert (lost.value.reason, lost.value.missed) == ("epoch", None)
                gap = await events.receive()
                assert gap.event == "gap"
                assert gap.json() == {"reason": "epoch", "missed": None}
                await bus.publish("k", END.encode())
                assert await receive(watch) == END.encode()
                assert (await events.receive()).data == END
