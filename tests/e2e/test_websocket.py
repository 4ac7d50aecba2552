"""What a client of ``/ws`` without a subprotocol receives."""

from __future__ import annotations

import json
import logging

import pytest
import trio_websocket
from served import BINARY, CLOSE, PING, PONG, TEXT, Server, served, until

from trio_watchbus import InMemoryWatchBus, Retention


async def test_frames(server: Server) -> None:
    """A message is a frame: text where its data is UTF-8, else binary."""
    async with await server.connect() as client:
        assert (await client.upgrade("/ws?key=a&prefix=b")).status == 101
        await until(lambda: server.watches == 1)
        for key, data in (("a", "ä".encode()), ("b1", b"\xff"), ("c", b"no"), ("a", b"")):
            await server.bus.publish(key, data)
        assert [await client.frame() for _ in range(3)] == [
            (TEXT, "ä".encode()),
            (BINARY, b"\xff"),
            (TEXT, b""),
        ]


async def test_json_frames(server: Server) -> None:
    """With ``format=json`` a frame says everything about a message."""
    async with await server.connect() as client:
        await client.upgrade("/ws?key=a&format=json")
        await until(lambda: server.watches == 1)
        message_id = await server.bus.publish("a", b"1")
        message = json.loads(await client.message())
        assert (message["key"], message["data"], message["id"]) == ("a", "1", message_id)


async def test_after_and_history(server: Server) -> None:
    """``after`` gives what follows that position, ``history`` the newest kept messages first."""
    ids = [await server.bus.publish("a", b"%d" % number) for number in range(3)]
    for query, expected in ((f"after={ids[0]}", ["1", "2"]), ("history=1", ["2"])):
        async with await server.connect() as client:
            await client.upgrade(f"/ws?key=a&{query}")
            assert [await client.message() for _ in expected] == expected


async def test_a_lost_position_closes(server: Server) -> None:
    """There is no frame that could tell a loss: 1013 does, and says which."""
    async with await server.connect() as client:
        await client.upgrade("/ws?key=a&after=other-1")
        opcode, payload = await client.frame()
        assert opcode == CLOSE
        assert int.from_bytes(payload[:2], "big") == 1013
        assert payload[2:] == b"messages are lost: epoch"


async def test_a_client_that_is_overtaken_is_closed() -> None:
    """So does a client that reads too slowly for the journal learn that it missed something."""
    bus = InMemoryWatchBus(retention=Retention(messages=10))
    async with served(bus) as server, await server.connect() as client:
        await client.upgrade("/ws?key=a")
        await until(lambda: server.watches == 1)
        for number in range(5000):
            bus.publish_nowait("a", b"%d" % number)
        assert await client.close_code() == 1013


async def test_the_bus_closes(server: Server) -> None:
    """A closed bus ends the connection with 1001."""
    async with await server.connect() as client:
        await client.upgrade("/ws?key=a")
        await until(lambda: server.watches == 1)
        server.bus.close()
        assert await client.close_code() == 1001
        server.stop.set()


async def test_a_bus_that_failed_closes_with_1011(server: Server) -> None:
    """Not as one that was closed, and with nothing of why."""
    async with await server.connect() as client:
        await client.upgrade("/ws?key=a")
        await until(lambda: server.watches == 1)
        server.bus._dispatcher.close(RuntimeError("inside"))
        opcode, payload = await client.frame()
        assert (opcode, int.from_bytes(payload[:2], "big")) == (CLOSE, 1011)
        assert b"inside" not in payload
        server.stop.set()


async def test_the_client_closes(server: Server) -> None:
    """A client's close is answered, its watch is gone, and the connection ends."""
    async with await server.connect() as client:
        await client.upgrade("/ws?key=a")
        await until(lambda: server.watches == 1)
        await client.send_frame(CLOSE, b"\x03\xe8")
        assert await client.close_code() == 1000
        await until(lambda: server.watches == 0)
        await client.is_closed()


async def test_a_ping_is_answered(server: Server) -> None:
    """With what was in it."""
    async with await server.connect() as client:
        await client.upgrade("/ws?key=a")
        await client.send_frame(PING, b"hello")
        assert await client.frame() == (PONG, b"hello")


async def test_the_server_pings_and_is_content_with_a_pong() -> None:
    """A client that answers stays, for as many heartbeats as it likes."""
    # It has a heartbeat's time to answer.
    async with served(heartbeat=1) as server, await server.connect() as client:
        await client.upgrade("/ws?key=a")
        for _ in range(3):
            assert await client.frame() == (PING, b"")
            await client.send_frame(PONG)
        assert server.watches == 1


async def test_compression_is_not_agreed_to(server: Server) -> None:
    """It would take 300 kB a connection, and open it to what unpacks a thousandfold."""
    async with await server.connect() as client:
        head = await client.upgrade(
            "/ws?key=a", **{"Sec-WebSocket-Extensions": "permessage-deflate"}
        )
        assert head.status == 101
        assert "sec-websocket-extensions" not in head.headers


async def test_a_client_that_is_not_ours(server: Server) -> None:
    """A whole WebSocket client receives, and closes in good order."""
    url = server.url.replace("http", "ws")
    async with trio_websocket.open_websocket_url(f"{url}/ws?key=a") as socket:
        await until(lambda: server.watches == 1)
        await server.bus.publish("a", b"1")
        assert await socket.get_message() == "1"
    await until(lambda: server.watches == 0)


async def test_a_fault_of_the_server_closes_with_1011(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not as if all were well; and the error is in the log, whatever else goes on."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("inside")

    with monkeypatch.context() as patches, caplog.at_level(logging.ERROR, "trio_watchbus.web"):
        patches.setattr("trio_watchbus.web._raw.take_waiting", fail)
        async with await server.connect() as client:
            await client.upgrade("/ws?key=a")
            await server.bus.publish("a", b"1")
            opcode, payload = await client.frame()
    assert opcode == CLOSE
    assert int.from_bytes(payload[:2], "big") == 1011
    assert b"inside" not in payload
    assert "inside" in caplog.text
