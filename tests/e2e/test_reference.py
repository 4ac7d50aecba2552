"""The tests of the handlers of the Go package, each under a name that it can be found by."""

from __future__ import annotations

from served import Server, served, until

from trio_watchbus import InMemoryWatchBus


async def test_sse_handler_stream(server: Server) -> None:
    """TestSSEHandlerStream: what is published to the key comes as the data of an event."""
    async with await server.connect() as client:
        await client.stream_events("/sse?key=foo")
        await server.bus.publish("foo", b"hello")
        assert (await client.message_event()).data == "hello"


async def test_sse_handler_missing_key(server: Server) -> None:
    """TestSSEHandlerMissingKey: without a key the answer is 400."""
    response = await server.ask("/sse")
    assert response.status == 400
    assert response.error == "missing_key"


async def test_sse_handler_context_cancel(server: Server) -> None:
    """TestSSEHandlerContextCancel: a client that leaves leaves no watch."""
    client = await server.connect()
    await client.stream_events("/sse?key=foo")
    await until(lambda: server.watches == 1)
    client.vanish()
    await until(lambda: server.watches == 0)


async def test_sse_handler_write_error_unwatches(server: Server) -> None:
    """TestSSEHandlerWriteErrorUnwatches: a message that cannot be written ends the watch."""
    client = await server.connect()
    await client.stream_events("/sse?key=foo")
    await until(lambda: server.watches == 1)
    # Bytes that the server does not read keep it from seeing the end of the connection.
    await client.send(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    client.vanish()
    await until(lambda: server.bus.publish_nowait("foo", b"hello") and server.watches == 0)


async def test_websocket_handler_stream(server: Server) -> None:
    """TestWebSocketHandlerStream: what is published to the key comes as a text frame."""
    async with await server.connect() as client:
        assert (await client.upgrade("/ws?key=foo")).status == 101
        await until(lambda: server.watches == 1)
        await server.bus.publish("foo", b"hello")
        assert await client.message() == "hello"


async def test_websocket_handler_missing_key(server: Server) -> None:
    """TestWebSocketHandlerMissingKey: without a key the handshake is answered 400."""
    async with await server.connect() as client:
        assert (await client.upgrade("/ws")).status == 400


async def test_websocket_handler_context_cancel() -> None:
    """TestWebSocketHandlerContextCancel: a server that is cancelled leaves no watch."""
    bus = InMemoryWatchBus()
    async with served(bus) as server, await server.connect() as client:
        assert (await client.upgrade("/ws?key=foo")).status == 101
        await until(lambda: bus.statistics().watches == 1)
        server.cancel()
        await until(lambda: bus.statistics().watches == 0)
        await client.is_closed()
