"""The client's WebSocket has bounds on everything that a server sends, and lets others run."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
import trio_websocket
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Ping, Pong, Request, TextMessage

from trio_watchbus._remote import _websocket
from trio_watchbus._remote._websocket import (
    ClosedError,
    RefusedError,
    TooLong,
    WebSocket,
    WebSocketError,
)

SUBPROTOCOL = "watchbus.v1"


async def accept(server: trio.abc.Stream) -> WSConnection:
    """Answer a handshake; return the server's end."""
    connection = WSConnection(ConnectionType.SERVER)
    connection.receive_data(bytes(await server.receive_some()))
    assert isinstance(next(connection.events()), Request)
    await server.send_all(connection.send(AcceptConnection(subprotocol=SUBPROTOCOL)))
    return connection


@asynccontextmanager
async def opened(
    max_message_size: int = 100_000,
) -> AsyncIterator[tuple[WebSocket, trio.abc.Stream, WSConnection]]:
    """Give a client's end, and a server's to write any bytes to."""
    client, server = trio.testing.memory_stream_pair()
    websocket = WebSocket(client, max_message_size)
    connections: list[WSConnection] = []

    async def serve() -> None:
        connections.append(await accept(server))

    async with trio.open_nursery() as reading:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await websocket.open(reading, "localhost", "/ws", [], SUBPROTOCOL)
        try:
            yield websocket, server, connections[0]
        finally:
            reading.cancel_scope.cancel()


def text(length: int, *, fin: bool = True, opcode: int = 1) -> bytes:
    """The bytes of a frame of so many characters, as a server sends it."""
    head = bytes([opcode | (0x80 if fin else 0)])
    if length < 126:
        return head + bytes([length]) + b"x" * length
    if length < 65_536:
        return head + b"\x7e" + length.to_bytes(2, "big") + b"x" * length
    return head + b"\x7f" + length.to_bytes(8, "big") + b"x" * length


async def test_a_message_within_the_bound_comes_whole_in_whatever_pieces() -> None:
    async with opened(max_message_size=66_000) as (websocket, server, _):
        await server.send_all(text(66_000))
        assert await websocket.receive() == "x" * 66_000
        whole = text(30_000, fin=False) + text(36_000, opcode=0)
        for start in range(0, len(whole), 1000):
            await server.send_all(whole[start : start + 1000])
        assert await websocket.receive() == "x" * 66_000


async def test_of_a_message_beyond_the_bound_both_ends_are_known_and_the_next_follows() -> None:
    async with opened(max_message_size=10_000) as (websocket, server, connection):
        body = "start" + "x" * 30_000 + "end"
        for lap in range(2):
            await server.send_all(connection.send(TextMessage(body)))
            await server.send_all(connection.send(TextMessage(f"{lap}")))
            skipped = await websocket.receive()
            assert isinstance(skipped, TooLong)
            assert skipped.size == len(body)
            assert skipped.start == body[:1024]
            assert skipped.end == body[-1024:]
            assert await websocket.receive() == f"{lap}"


async def test_the_bound_is_in_bytes() -> None:
    async with opened(max_message_size=100) as (websocket, server, connection):
        await server.send_all(connection.send(TextMessage("\u00e9" * 50)))
        assert await websocket.receive() == "\u00e9" * 50
        await server.send_all(connection.send(TextMessage("\u00e9" * 51)))
        skipped = await websocket.receive()
        assert isinstance(skipped, TooLong)
        assert skipped.size == 102


@pytest.mark.parametrize("frame", [text(0, fin=False, opcode=0), text(1, fin=False, opcode=0)])
async def test_fragments_without_end_end_the_connection(frame: bytes) -> None:
    async with opened() as (websocket, server, _):
        await server.send_all(text(0, fin=False) + frame * 10_000)
        with pytest.raises(WebSocketError, match=r"in 10[0-9][0-9] fragments"):
            await websocket.receive()


@pytest.mark.parametrize("frame", [b"\x8a\x00", b"\x89\x00"], ids=["pong", "ping"])
async def test_others_run_between_frames(frame: bytes) -> None:
    """At least once in 64 of them, however many came at once; of pings the newest is answered."""
    async with opened() as (websocket, server, _), trio.open_nursery() as nursery:
        await server.send_all(frame * 6400 + text(1))
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        nursery.start_soon(count)
        assert await websocket.receive() == "x"
        nursery.cancel_scope.cancel()
        assert turns >= 100


async def test_a_ping_is_answered_with_what_it_says() -> None:
    async with opened() as (websocket, server, connection):
        await server.send_all(connection.send(Ping(b"1")) + text(1))
        assert await websocket.receive() == "x"
        connection.receive_data(bytes(await server.receive_some()))
        [pong] = connection.events()
        assert isinstance(pong, Pong)
        assert bytes(pong.payload) == b"1"


async def test_one_message_waits_while_the_one_before_is_handled() -> None:
    async with opened() as (websocket, server, _):
        await server.send_all(text(1000) * 100)
        await trio.testing.wait_all_tasks_blocked()
        statistics = websocket._connection._recv_channel.statistics()
        assert statistics.current_buffer_used == statistics.max_buffer_size == 1


PRIVATE = [
    *("_open_handshake", "_close_handshake", "_send_channel", "_recv_channel", "_wsproto"),
    *("_reader_running", "_reader_task", "_send", "_close_web_socket", "_abort_web_socket"),
    *("_handle_message_event", "_handle_ping_event", "_handle_pong_event"),
    *("_handle_close_connection_event", "_handle_reject_connection_event"),
]


@pytest.mark.parametrize("name", PRIVATE)
async def test_trio_websocket_has_the_private_part(name: str) -> None:
    client, _ = trio.testing.memory_stream_pair()
    connection = trio_websocket.WebSocketConnection(
        client, WSConnection(ConnectionType.CLIENT), host="h", path="/"
    )
    assert hasattr(connection, name)


def test_no_other_private_part_is_used() -> None:
    """Of trio-websocket's connection, the module uses what is listed here alone."""
    source = Path(_websocket.__file__).read_text(encoding="utf-8")
    inherited = {name for name in dir(trio_websocket.WebSocketConnection) if name[1] != "_"}
    found = set(re.findall(r"(?:self|connection|super\(\))\.(_\w+)", source))
    own = {"_bound", "_incoming", "_events_in_turn", "_pass_turn", "_fail"}
    state = {"_open_handshake", "_close_handshake", "_send_channel", "_wsproto", "_reader_running"}
    assert found & (inherited | state) - own <= set(PRIVATE)


async def test_the_body_of_a_refusal_is_not_read() -> None:
    client, server = trio.testing.memory_stream_pair()
    websocket = WebSocket(client, 1000)
    await server.send_all(b"HTTP/1.1 403 No\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 100)
    async with trio.open_nursery() as nursery:
        with pytest.raises(RefusedError) as caught:
            await websocket.open(nursery, "localhost", "/ws", [], SUBPROTOCOL)
    assert caught.value.status == 403


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\xff\xfe\x00",
        b"HTTP/1.1 101 Y\r\n\r\n",
        b"X: " + b"x" * 70_000,
    ],
)
async def test_what_is_no_websocket_server_is_told_so(answer: bytes) -> None:
    client, server = trio.testing.memory_stream_pair()
    websocket = WebSocket(client, 1000)
    await server.send_all(answer)
    await server.send_eof()
    async with trio.open_nursery() as nursery:
        with pytest.raises(WebSocketError, match=r"as a WebSocket server|without an answer"):
            await websocket.open(nursery, "localhost", "/ws", [], SUBPROTOCOL)


async def test_a_close_tells_its_code_and_is_answered() -> None:
    async with opened() as (websocket, server, connection):
        await server.send_all(connection.send(CloseConnection(1001, "bye")))
        with pytest.raises(ClosedError) as caught:
            await websocket.receive()
        assert (caught.value.code, caught.value.reason) == (1001, "bye")
        connection.receive_data(bytes(await server.receive_some()))
        assert [type(event).__name__ for event in connection.events()] == ["CloseConnection"]


async def test_a_broken_frame_is_told_as_that() -> None:
    async with opened() as (websocket, server, _):
        await server.send_all(b"\xff\xff")
        with pytest.raises(WebSocketError, match="broke the WebSocket protocol"):
            await websocket.receive()
