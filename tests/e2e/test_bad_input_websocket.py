"""Bad WebSocket clients, and what becomes of them.

After any of it the server still serves, and no watch is left: the fixture sees to that.
"""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import trio
import trio.testing
from served import (
    BINARY,
    CLOSE,
    PING,
    SECONDS,
    TEXT,
    Client,
    Server,
    frame,
    resident_size,
    served,
    until,
)
from wsproto.frame_protocol import FrameProtocol

from trio_watchbus._protocol import REQUESTS_AT_ONCE
from trio_watchbus.web._app import App

PATHS = ["/ws?key=a", "/ws"]
"""Without a subprotocol, and with it."""


async def open_websocket(server: Server, path: str) -> Client:
    """Return a client that speaks plainly where it names a key, else ``watchbus.v1``."""
    client = await server.connect()
    protocol = {} if "?" in path else {"Sec-WebSocket-Protocol": "watchbus.v1"}
    head = await client.upgrade(path, **protocol)
    assert head.status == 101
    if protocol:
        assert head.headers["sec-websocket-protocol"] == "watchbus.v1"
        await client.message()
    return client


async def test_no_key(server: Server) -> None:
    """Neither key nor prefix, nor a subprotocol that would name them later: 400."""
    async with await server.connect() as client:
        await client.upgrade_request("/ws")
        response = await client.response()
        assert (response.status, response.error) == (400, "missing_key")


async def test_an_unknown_subprotocol(server: Server) -> None:
    """It is not agreed to, and the request is one without."""
    async with await server.connect() as client:
        head = await client.upgrade("/ws?key=a", **{"Sec-WebSocket-Protocol": "graphql-ws"})
        assert head.status == 101
        assert "sec-websocket-protocol" not in head.headers


@pytest.mark.parametrize("path", PATHS)
async def test_no_upgrade(server: Server, path: str) -> None:
    """A plain GET is 426, and told how to come."""
    headers = {"Sec-WebSocket-Protocol": "watchbus.v1"} if path == "/ws" else {}
    response = await server.ask(path, headers=headers)
    assert (response.status, response.error) == (426, "upgrade_required")
    assert response.headers["upgrade"] == "websocket"
    assert response.headers["connection"] == "Upgrade"
    assert "ws:// or wss://" in response.json["error"]["detail"]


async def test_no_upgrade_from_elsewhere(server: Server) -> None:
    """The route is checked as every other: 403."""
    response = await server.ask("/ws?key=a", headers={"Host": "evil.example"})
    assert (response.status, response.error) == (403, "host_not_allowed")


async def test_a_websocket_of_a_route_that_is_none(server: Server) -> None:
    """404, with the one that is."""
    async with await server.connect() as client:
        await client.upgrade_request("/sse?key=a")
        response = await client.response()
        assert (response.status, response.error) == (404, "not_found")
        assert "/ws" in response.json["error"]["detail"]


async def test_an_older_version(server: Server) -> None:
    """Version 8 of the protocol is 400."""
    async with await server.connect() as client:
        head = await client.upgrade("/ws?key=a", **{"Sec-WebSocket-Version": "8"})
        assert head.status == 400


@pytest.mark.parametrize("key", ["YQ==", "", "not base64 at all!!!!!!!"])
async def test_a_bad_handshake_key(server: Server, key: str) -> None:
    """Sixteen bytes in base64, or 400."""
    async with await server.connect() as client:
        await client.upgrade_request("/ws?key=a", **{"Sec-WebSocket-Key": key})
        response = await client.response()
        assert (response.status, response.error) == (400, "invalid_handshake")


@pytest.mark.parametrize("path", PATHS)
async def test_frames_that_come_with_the_handshake(server: Server, path: str) -> None:
    """The connection is closed without a word: neither an answer nor a frame."""
    async with await server.connect() as client:
        await client.send(handshake(path) + frame(TEXT, b"a"))
        assert await rest(client) == b""


async def test_frames_before_the_handshake_is_answered(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those that come with it, however long the server takes to answer."""
    accepting = trio.Event()

    async def never_accept(*_: object, **__: object) -> None:
        accepting.set()
        await trio.sleep_forever()

    monkeypatch.setattr(App, "converse", never_accept)
    async with await server.connect() as client:
        await client.send(handshake("/ws?key=a"))
        await accepting.wait()
        await client.send(frame(TEXT, b"a"))
        assert await rest(client) == b""


def handshake(path: str) -> bytes:
    """Return a request for a WebSocket."""
    protocol = "" if "?" in path else "Sec-WebSocket-Protocol: watchbus.v1\r\n"
    return (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"{protocol}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {'A' * 22}==\r\n\r\n"
    ).encode()


async def rest(client: Client) -> bytes:
    """Return all that comes until the server closes the connection."""
    received = b""
    with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(SECONDS):
        while data := await client.stream.receive_some():
            received += data
    return received


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", ""])
async def test_a_foreign_origin(server: Server, path: str, origin: str) -> None:
    """A page elsewhere may not use the server: 403."""
    async with await server.connect() as client:
        await client.upgrade_request(
            path, Origin=origin, **{"Sec-WebSocket-Protocol": "watchbus.v1"}
        )
        response = await client.response()
        assert (response.status, response.error) == (403, "origin_not_allowed")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "data",
    [
        frame(TEXT, b"a", mask=False),
        frame(TEXT, b"a", reserved=4),
        frame(TEXT, b"a", reserved=2),
        frame(3, b"a"),
        frame(11, b"a"),
        frame(PING, b"a", final=False),
        frame(PING, b"a" * 126),
        frame(CLOSE, b"\x00"),
        frame(CLOSE, b"\x03\xed"),
        frame(CLOSE, b"\x03\xe8\xff"),
        frame(0, b"a"),
        frame(TEXT, b"a", final=False) + frame(TEXT, b"b"),
        frame(TEXT, b"\xff"),
        b"\x81\xff\x80" + bytes(7) + bytes(4),
    ],
    ids=[
        "unmasked",
        "RSV1",
        "RSV2",
        "reserved opcode",
        "reserved control opcode",
        "fragmented ping",
        "long ping",
        "half a close code",
        "bad close code",
        "bad close reason",
        "orphan continuation",
        "interrupted message",
        "invalid UTF-8",
        "length with its top bit",
    ],
)
async def test_frames_that_are_none(server: Server, path: str, data: bytes) -> None:
    """The connection is dropped."""
    async with await open_websocket(server, path) as client:
        await client.send(data)
        await client.is_closed()


async def test_a_message_of_64_kb_and_more(server: Server) -> None:
    """What is longer than 64 KiB is answered 1009; 64 KiB are not."""
    async with await open_websocket(server, "/ws?key=a") as client:
        await client.send_frame(TEXT, b"a" * 2**16)
        await client.send_frame(PING)
        assert await client.frame() == (10, b"")
        await client.send_frame(BINARY, b"a" * (2**16 + 1))
        assert await client.close_code() == 1009
        await client.is_closed()


async def test_a_long_message_to_publish(server: Server) -> None:
    """Over the subprotocol 1 MiB can be published, and what publishes nothing stays bounded."""
    async with await open_websocket(server, "/ws") as client:
        text = b'{"op": "publish", "id": 1, "key": "a", "data": "%b"}' % (b"a" * 2**20)
        await client.send_frame(TEXT, text)
        assert '"op":"published"' in str(await client.message())
        await client.send_frame(TEXT, b'{"op": "ping"%b}' % (b" " * 2**17))
        assert await client.close_code() == 1009
        await client.is_closed()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("in_fragments", [False, True])
async def test_a_message_without_end(server: Server, path: str, in_fragments: bool) -> None:
    """The connection ends, though the client goes on, and memory stays as it is."""
    piece = frame(0, bytes(100_000), final=False) if in_fragments else bytes(100_000)
    before = resident_size()
    async with await open_websocket(server, path) as client:
        with trio.fail_after(SECONDS), pytest.raises(trio.BrokenResourceError):
            if in_fragments:
                await client.send(frame(BINARY, final=False))
            else:
                await client.send(b"\x82\xff" + (2**40).to_bytes(8, "big") + bytes(4))
            while True:
                await client.send(piece)
                assert resident_size() - before < 20_000_000
    await until(lambda: server.watches == 0)


@pytest.mark.parametrize("path", PATHS)
async def test_an_empty_binary_frame(server: Server, path: str) -> None:
    """It is a message of no bytes: nothing to a plain client's server, malformed to the other."""
    async with await open_websocket(server, path) as client:
        await client.send_frame(BINARY)
        await client.send_frame(PING)
        if path == "/ws":
            assert await client.close_code() == 4400
        else:
            assert await client.frame() == (10, b"")


async def test_a_flood_of_messages(server: Server) -> None:
    """A client that has nothing to say and does not stop is closed with 1008."""
    before = resident_size()
    async with await open_websocket(server, "/ws?key=a") as client:
        with contextlib.suppress(trio.BrokenResourceError):
            for _ in range(100):
                await client.send(frame(TEXT, b"a") * 100)
                assert resident_size() - before < 20_000_000
        assert await client.close_code() == 1008


async def test_a_flood_of_publishes(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that publishes faster than the bus takes it has to wait; it fills no memory."""
    text = b'{"op": "publish", "id": %d, "key": "a", "data": "%b"}'
    before = resident_size()
    sent = begun = 0

    async def hang(*_: object, **__: object) -> None:
        nonlocal begun
        begun += 1
        await trio.sleep_forever()

    monkeypatch.setattr(server.bus, "publish", hang)
    async with await open_websocket(server, "/ws") as client, trio.open_nursery() as nursery:

        async def flood() -> None:
            nonlocal sent
            while sent < 1000:
                await client.send_frame(TEXT, text % (sent, b"a" * 500_000))
                sent += 1
                assert resident_size() - before < 100_000_000

        nursery.start_soon(flood)
        await until(lambda: begun == REQUESTS_AT_ONCE)
        # Whatever more the client gets rid of now, the bus is asked for no more of it.
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert sent < 1000
        assert begun == REQUESTS_AT_ONCE
        nursery.cancel_scope.cancel()
    monkeypatch.undo()


@pytest.mark.parametrize("path", PATHS)
async def test_a_flood_of_pings(server: Server, path: str) -> None:
    """While one client does nothing but ping, the others receive; memory stays as it is."""
    async with await open_websocket(server, path) as client, trio.open_nursery() as nursery:
        before = resident_size()

        async def flood() -> None:
            while True:
                await client.send(frame(PING, b"a") * 1000)
                assert resident_size() - before < 20_000_000

        nursery.start_soon(flood)
        async with await open_websocket(server, "/ws?key=a") as other:
            await until(lambda: server.watches == (2 if "?" in path else 1))
            for _ in range(20):
                await server.bus.publish("a", b"1")
                assert await other.message() == "1"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("path", PATHS)
async def test_a_client_that_vanishes(path: str) -> None:
    """Who answers no ping is gone, though its connection is still there."""
    async with served(heartbeat=0.2) as server, await open_websocket(server, path) as client:
        if path == "/ws":
            await client.send_frame(TEXT, b'{"op": "watch", "id": 1, "key": "a"}')
        await until(lambda: server.watches == 1)
        await until(lambda: server.watches == 0)
        await client.is_closed()


async def test_a_client_that_vanishes_behind_unread_frames() -> None:
    """Its end is seen though it had sent much that nobody wanted."""
    async with served() as server:
        client = await open_websocket(server, "/ws?key=a")
        await until(lambda: server.watches == 1)
        await client.send(frame(TEXT, b"a") * 200)
        client.vanish()
        await until(lambda: server.watches == 0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("piece", [b"", b"a"], ids=["empty", "one byte"])
async def test_fragments_without_end_are_bounded(server: Server, path: str, piece: bytes) -> None:
    """A message of a thousand tiny fragments is enough: 1008. Nobody else waits meanwhile."""
    async with await open_websocket(server, path) as client:
        with contextlib.suppress(trio.BrokenResourceError):
            await client.send(frame(TEXT, b"a", final=False) + frame(0, piece, final=False) * 1100)
        assert await client.close_code() == 1008
        await client.is_closed()


async def test_many_fragments_of_some_size_are_a_message(server: Server) -> None:
    """What matters is how little they carry."""
    async with await open_websocket(server, "/ws") as client:
        text = b'{"op": "publish", "id": 1, "key": "a", "data": "%b"}' % (b"a" * 40_000)
        pieces = [text[at : at + 16] for at in range(0, len(text), 16)]
        await client.send(
            frame(TEXT, final=False)
            + b"".join(frame(0, piece, final=False) for piece in pieces)
            + frame(0)
        )
        assert '"op":"published"' in str(await client.message())


@pytest.mark.parametrize("kind", [PING, 10, TEXT])
async def test_the_loop_goes_round_between_frames_of_one_read(
    server: Server, kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many of them come at once, counted in frames and not by a clock."""
    most = count = 0
    receive = FrameProtocol.received_frames

    def counted(protocol: FrameProtocol) -> Any:
        nonlocal count
        for each in receive(protocol):
            count += 1
            yield each

    monkeypatch.setattr(FrameProtocol, "received_frames", counted)
    data = frame(kind, b"")
    async with await open_websocket(server, "/ws?key=a") as client:
        await client.send(data * 5000)
        idle = 0
        while idle < 1000 and count < 5000:
            before = count
            await trio.lowlevel.checkpoint()
            most = max(most, count - before)
            idle = 0 if count > before else idle + 1
        # Two turns may come between two of this task's.
        assert 0 < most <= 2 * 32
