"""The proxy does to connections what it is told, and leaves nothing."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from trio_watchbus.testing import FaultProxy


async def echo(stream: trio.SocketStream) -> None:
    """Send back what comes in, until it ends."""
    async with stream:
        try:
            async for data in stream:
                await stream.send_all(data)
        except trio.BrokenResourceError:
            pass


@asynccontextmanager
async def echo_proxy() -> AsyncIterator[FaultProxy]:
    """A proxy before a server that echoes."""
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, echo, 0, host="127.0.0.1"))
        async with FaultProxy(("127.0.0.1", listener.socket.getsockname()[1])) as proxy:
            with trio.fail_after(10):
                yield proxy
        nursery.cancel_scope.cancel()


async def connect(proxy: FaultProxy) -> trio.SocketStream:
    return await trio.open_tcp_stream(proxy.host, proxy.port)


async def receive_exactly(stream: trio.SocketStream, count: int) -> bytes:
    received = b""
    while len(received) < count:
        data = await stream.receive_some()
        assert data, f"ended after {received!r}"
        received += data
    return received


async def assert_told_nothing(stream: trio.SocketStream) -> None:
    """Assert that neither data nor an end nor a reset comes in, once all is quiet."""
    await trio.testing.wait_all_tasks_blocked(0.02)
    with trio.move_on_after(0.02) as waiting:
        await trio.lowlevel.wait_readable(stream.socket)
    assert waiting.cancelled_caught


async def echoes(stream: trio.SocketStream) -> bool:
    """Whether a byte comes back."""
    await stream.send_all(b"x")
    return await stream.receive_some() == b"x"


async def test_what_is_sent_arrives_both_ways_and_the_end_too() -> None:
    data = bytes(range(256)) * 4096
    async with (
        echo_proxy() as proxy,
        await connect(proxy) as stream,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(stream.send_all, data)
        assert await receive_exactly(stream, len(data)) == data
        await stream.send_eof()
        assert await stream.receive_some() == b""
    statistics = proxy.statistics()
    assert statistics.to_target_bytes == statistics.to_client_bytes == len(data)
    assert (statistics.accepted, statistics.swallowed_bytes) == (1, 0)


async def test_leaving_it_leaves_no_task_and_no_connection() -> None:
    before = trio.lowlevel.current_statistics()
    async with echo_proxy() as proxy:
        stream = await connect(proxy)
        assert await echoes(stream)
        assert proxy.statistics().connections == 1
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
    await stream.aclose()
    assert proxy.statistics().connections == 0
    assert trio.lowlevel.current_statistics().tasks_living == before.tasks_living
    with pytest.raises(OSError, match=f":{proxy.port}"):
        await connect(proxy)


async def test_an_error_in_the_body_comes_out_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        async with FaultProxy(("127.0.0.1", 1)):
            raise ZeroDivisionError


async def test_cut_ends_every_connection_and_new_ones_are_accepted() -> None:
    async with echo_proxy() as proxy:
        first, second = await connect(proxy), await connect(proxy)
        for stream in (first, second):
            assert await echoes(stream)
        assert proxy.cut() == 2
        for stream in (first, second):
            assert await stream.receive_some() == b""
            await stream.aclose()
        async with await connect(proxy) as stream:
            assert await echoes(stream)
        assert proxy.statistics().accepted == 3


async def test_cut_can_reset() -> None:
    async with echo_proxy() as proxy, await connect(proxy) as stream:
        assert await echoes(stream)
        proxy.cut(reset=True)
        with pytest.raises(trio.BrokenResourceError) as raised:
            await stream.receive_some()
        assert isinstance(raised.value.__cause__, OSError)
        assert raised.value.__cause__.errno == errno.ECONNRESET


async def test_refusing_leaves_what_is_open_and_keeps_the_port() -> None:
    async with echo_proxy() as proxy, await connect(proxy) as stream:
        assert await echoes(stream)
        port = proxy.port
        proxy.refuse()
        with pytest.raises(OSError, match=f":{port}"):
            await connect(proxy)
        assert await echoes(stream)
        proxy.accept()
        assert proxy.port == port
        async with await connect(proxy) as other:
            assert await echoes(other)


async def test_refusing_and_accepting_twice_is_as_once() -> None:
    async with echo_proxy() as proxy:
        proxy.refuse()
        proxy.refuse()
        proxy.accept()
        proxy.accept()
        async with await connect(proxy) as stream:
            assert await echoes(stream)


@pytest.mark.parametrize("direction", ["to_target", "to_client"])
async def test_what_is_held_arrives_after_the_release_with_the_end(direction: str) -> None:
    async with echo_proxy() as proxy, await connect(proxy) as stream:
        held = getattr(proxy, direction)
        held.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(held.wait_seen, 3)
            await trio.testing.wait_all_tasks_blocked()
            await stream.send_all(b"abc")
        await stream.send_eof()
        await assert_told_nothing(stream)
        held.release()
        assert await receive_exactly(stream, 3) == b"abc"
        assert await stream.receive_some() == b""
        assert proxy.statistics().swallowed_bytes == 0


@asynccontextmanager
async def both_ends() -> AsyncIterator[tuple[FaultProxy, trio.SocketStream, trio.SocketStream]]:
    """A proxy, and a client's and a server's end of one connection through it."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener, FaultProxy(("127.0.0.1", listener.socket.getsockname()[1])) as proxy:
        with trio.fail_after(10):
            async with await connect(proxy) as client, await listener.accept() as server:
                yield proxy, client, server


def reset(stream: trio.SocketStream) -> None:
    """Close a stream as the system does for a process that was killed."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


@pytest.mark.parametrize("direction", ["to_target", "to_client"])
@pytest.mark.parametrize("fault", ["hold", "swallow"])
@pytest.mark.parametrize("sends", [True, False])
async def test_a_reset_is_passed_on_after_the_release(
    direction: str, fault: str, sends: bool
) -> None:
    """Also where the other side sends, so that the way back finds it out; what was held first."""
    async with both_ends() as (proxy, client, server):
        near, far = (client, server) if direction == "to_target" else (server, client)
        faulty = getattr(proxy, direction)
        # So that passing on what was held takes turns.
        faulty.piece_size = 1
        getattr(faulty, fault)()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(faulty.wait_seen, 3)
            await trio.testing.wait_all_tasks_blocked()
            await near.send_all(b"abc")
        reset(near)
        for _ in range(3 * sends):
            await far.send_all(b"x")
            await trio.testing.wait_all_tasks_blocked(0.01)
        await assert_told_nothing(far)
        faulty.release()
        if fault == "hold":
            assert await receive_exactly(far, 3) == b"abc"
        with pytest.raises(trio.BrokenResourceError):
            await far.receive_some()


async def test_a_reset_of_one_who_has_closed_is_passed_on_after_the_release() -> None:
    """As one has, who is sent something after closing: the end itself was passed on before."""
    async with both_ends() as (proxy, client, server):
        await client.aclose()
        assert await server.receive_some() == b""
        proxy.to_target.hold()
        for _ in range(3):
            await server.send_all(b"x")
            await trio.testing.wait_all_tasks_blocked(0.02)
        assert proxy.statistics().connections == 1
        proxy.to_target.release()
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await server.send_all(b"x")
                await trio.testing.wait_all_tasks_blocked(0.001)


async def test_a_target_that_is_not_there_is_told_after_the_release() -> None:
    async with FaultProxy(("127.0.0.1", 1)) as proxy:
        proxy.to_client.hold()
        with trio.fail_after(10):
            async with await connect(proxy) as stream:
                await assert_told_nothing(stream)
                proxy.to_client.release()
                with pytest.raises(trio.BrokenResourceError):
                    await stream.receive_some()


@pytest.mark.parametrize("direction", ["to_target", "to_client"])
async def test_what_is_swallowed_is_lost_and_the_connection_stays(direction: str) -> None:
    async with echo_proxy() as proxy, await connect(proxy) as stream:
        swallowing = getattr(proxy, direction)
        swallowing.swallow()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(swallowing.wait_seen, 3)
            await trio.testing.wait_all_tasks_blocked()
            await stream.send_all(b"abc")
        assert proxy.statistics().swallowed_bytes == 3
        swallowing.release()
        assert await echoes(stream)


async def test_a_lost_reply_was_asked_for_and_never_comes() -> None:
    async with echo_proxy() as proxy, await connect(proxy) as stream:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(proxy.lose_reply)
            await trio.testing.wait_all_tasks_blocked()
            await stream.send_all(b"abc")
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
        assert proxy.statistics().to_target_bytes == 3
        assert proxy.statistics().swallowed_bytes == 3
        async with await connect(proxy) as other:
            assert await echoes(other)


async def test_pieces_may_be_of_one_byte_and_late() -> None:
    async with echo_proxy() as proxy, await connect(proxy) as stream:
        await stream.send_all(b"-")
        assert await stream.receive_some() == b"-"
        proxy.to_client.piece_size = 1
        await stream.send_all(b"abcdef")
        assert await receive_exactly(stream, 6) == b"abcdef"
        proxy.to_client.delay = 0.05
        start = trio.current_time()
        assert await echoes(stream)
        # Never early: how late it may be depends on the machine.
        assert trio.current_time() - start >= 0.05


async def test_a_target_that_is_not_there_resets_the_client() -> None:
    async with echo_proxy() as proxy, FaultProxy(proxy.target) as other:
        other.target = ("127.0.0.1", 1)
        async with await connect(other) as stream:
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
        # A target that is changed serves the next connection.
        other.target = proxy.target
        async with await connect(other) as stream:
            assert await echoes(stream)


async def test_the_target_may_be_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with trio.socket.socket(trio.socket.AF_UNIX) as listening:
        await listening.bind(str(path))
        listening.listen()
        async with trio.open_nursery() as nursery, FaultProxy(path) as proxy:
            nursery.start_soon(trio.serve_listeners, echo, [trio.SocketListener(listening)])
            async with await connect(proxy) as stream:
                assert await echoes(stream)
            nursery.cancel_scope.cancel()


async def test_a_proxy_is_entered_once() -> None:
    proxy = FaultProxy(("127.0.0.1", 1))
    async with proxy:
        with pytest.raises(RuntimeError, match="make another"):
            await proxy.__aenter__()
