"""Clients that read slowly or not at all, and those that leave."""

from __future__ import annotations

import contextlib
import logging

import pytest
import trio
from served import BINARY, Server, frame, resident_size, served, until

from trio_watchbus import InMemoryWatchBus, Retention


@pytest.mark.parametrize("target", ["/sse?key=a", "/ws?key=a"])
async def test_a_client_that_never_reads_is_cut_and_others_see_nothing(target: str) -> None:
    """It is cut at the write deadline; memory is bounded; others receive every message."""
    bus = InMemoryWatchBus(retention=Retention(bytes=4_000_000))
    async with (
        served(bus, write_timeout=0.5) as server,
        await server.connect(4096) as stuck,
        await server.connect() as other,
    ):
        if target.startswith("/ws"):
            await stuck.upgrade(target)
        else:
            await stuck.stream_events(target)
        await other.stream_events("/sse?key=a&format=json")
        await until(lambda: server.watches == 2)
        before = resident_size()
        for _ in range(1000):
            message_id = await bus.publish("a", b"x" * 100_000)
            assert (await other.message_event()).id == message_id
        assert resident_size() - before < 60_000_000
        await until(lambda: server.watches == 1)


async def test_a_client_that_sent_too_much_and_left_is_noticed() -> None:
    """Bytes that are not read hide the end of a connection; the next heartbeat finds it."""
    async with served(heartbeat=0.05) as server:
        client = await server.connect()
        await client.stream_events("/sse?key=a")
        await client.send(b"x" * 100_000)
        client.vanish()
        await until(lambda: server.watches == 0)


async def test_many_clients_that_leave_at_once(server: Server) -> None:
    """While messages are on the way to them, and the server goes on serving."""
    clients = [await server.connect() for _ in range(50)]
    for number, client in enumerate(clients):
        if number % 2:
            await client.stream_events("/sse?key=a")
        else:
            await client.upgrade("/ws?key=a")
    await until(lambda: server.watches == 50)
    for client in clients:
        server.bus.publish_many_nowait([("a", b"x" * 1000)] * 100)
        client.vanish()
    await until(lambda: server.watches == 0)


async def test_requests_follow_each_other_on_a_connection(server: Server) -> None:
    """One connection serves many requests, and then a stream."""
    async with await server.connect() as client:
        for _ in range(20):
            await client.request("/publish?key=a", "POST", b"1")
            assert (await client.response()).status == 200
        await client.stream_events("/sse?key=a")


async def test_a_fault_of_one_connection_is_its_own(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error in hypercorn ends that connection; it is logged, and the others go on."""

    async def fail(*_: object) -> None:
        raise RuntimeError("inside")

    async with await server.connect() as client, await server.connect() as other:
        await client.stream_events("/sse?key=a")
        with (
            monkeypatch.context() as patches,
            caplog.at_level(logging.ERROR, "trio_watchbus.web"),
        ):
            patches.setattr("hypercorn.protocol.ProtocolWrapper.handle", fail)
            await other.send(b"GET / HTTP/1.1\r\n")
            await other.is_closed()
            await until(lambda: "inside" in caplog.text)
        await server.bus.publish("a", b"1")
        assert (await client.message_event()).data == "1"


async def test_a_stream_that_cannot_begin_is_refused_and_logged(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a status, without the error's text, which is in the log."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("inside")

    with monkeypatch.context() as patches, caplog.at_level(logging.ERROR, "trio_watchbus.web"):
        patches.setattr(server.bus, "open_watch", fail)
        response = await server.ask("/sse?key=a")
        assert (response.status, response.error) == (500, "internal")
        assert b"inside" not in response.body
    assert "inside" in caplog.text


async def test_what_waits_for_slow_clients_is_in_the_budget() -> None:
    """Clients for which too much waits are cut; what waited is given back."""
    async with served(max_in_flight_size=1_000_000, write_timeout=1000) as server:
        clients = [await server.connect(4096) for _ in range(8)]
        for client in clients:
            await client.stream_events("/sse?key=a")
        assert server.watches == len(clients)
        # Far more than what systems hold for them.
        for _ in range(50):
            await server.bus.publish("a", b"x" * 300_000)
        await until(lambda: server.watches <= 4)
        for client in clients:
            client.vanish()
        await until(lambda: not server.watches)
        response = await server.ask("/publish?key=b", "POST", bytes(990_000))
        assert response.status == 200


async def test_websocket_messages_in_flight_are_in_the_budget() -> None:
    """One that is arriving and has no room ends its connection with 1013, and is given back."""
    async with served(max_in_flight_size=500_000, max_inbound_size=1_000_000) as server:
        async with await server.connect() as client:
            await client.upgrade("/ws?key=a")
            for number in range(6):
                with contextlib.suppress(trio.BrokenResourceError):
                    await client.send(frame(0 if number else BINARY, bytes(100_000), final=False))
            assert await client.close_code() == 1013
            await client.is_closed()
        await until(lambda: not server.watches)
        response = await server.ask("/publish?key=b", "POST", bytes(490_000))
        assert response.status == 200
