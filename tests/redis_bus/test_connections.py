"""How the bus connects: by every kind of URL and client, and by connections of its own."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
import trio
import trustme
from redis.sentinel import Sentinel
from redis_bus.servers import RedisServer, in_step, running
from served import until

from trio_watchbus import BusUnavailableError, open_redis_watchbus, open_watchbus
from trio_watchbus._redis import _open
from trio_watchbus._redis._backend_errors import BackendError, BusyError
from trio_watchbus._redis._connection import connection_maker
from trio_watchbus.abc import WatchBus
from trio_watchbus.testing import FaultProxy

_NOT_BEGUN = 7
"""The state of a TCP socket that has not yet asked for a connection, `TCP_CLOSE` of Linux."""


async def works(bus: WatchBus) -> None:
    """Publish, and receive it."""
    with trio.fail_after(10):
        async with bus.watch("k") as watch:
            identifier = await bus.publish("k", b"\xff\x00")
            message = await watch.receive()
    assert (message.id, message.data) == (identifier, b"\xff\x00")


async def test_urls(server: RedisServer) -> None:
    """TCP by name and number, a Unix socket, and another database each work."""
    for url in (
        f"redis://127.0.0.1:{server.port}",
        f"redis://localhost:{server.port}/3",
        f"unix://{server.path}",
        f"unix://{server.path}?db=2",
    ):
        async with open_watchbus(url) as bus:
            await works(bus)
    assert server.call("EXISTS", "watchbus:log") == 1
    with server.client(db=3) as client:
        assert client.xlen("watchbus:log") == 1


async def test_namespaces_are_apart(server: RedisServer) -> None:
    """Buses of different namespaces share nothing, and every name starts with theirs."""
    async with (
        open_redis_watchbus(server.url, namespace="{watchbus}") as one,
        open_redis_watchbus(server.url, namespace="é:2") as two,
        two.subscribe_prefix("") as watch,
    ):
        await works(one)
        await works(two)
        assert [m.data for m in await watch.receive_batch()] == [b"\xff\x00"]
        names = server.call("KEYS", "*")
        assert all(name.decode().startswith(("{watchbus}:", "é:2:")) for name in names)


async def test_a_client_keeps_its_pool(server: RedisServer) -> None:
    """The bus connects as the client does, and neither uses nor changes the client's pool."""
    pool = redis.BlockingConnectionPool(  # type: ignore[no-untyped-call]
        host="127.0.0.1", port=server.port, db=1, max_connections=1, timeout=0.1, protocol=3
    )
    with redis.Redis(connection_pool=pool) as client:
        before = dict(pool.connection_kwargs)
        async with open_redis_watchbus(client) as bus:
            await works(bus)
            assert client.ping()
            assert client.xlen("watchbus:log") == 1
        assert pool.connection_kwargs == before
        assert client.ping()


async def test_a_client_may_be_gone_while_the_bus_goes_on(server: RedisServer) -> None:
    """Closing the client that the bus was opened with does not disturb it."""
    client = redis.Redis(host="127.0.0.1", port=server.port)
    async with open_redis_watchbus(client) as bus:
        client.close()
        await works(bus)


async def test_connections_are_named(server: RedisServer) -> None:
    """They say what they are, or what the client was named."""
    for url, name in ((server.url, "watchbus-"), (f"{server.url}?client_name=mine", "mine")):
        async with open_redis_watchbus(url):
            with server.client() as client:
                named = [c["name"] for c in client.client_list() if c["name"].startswith(name)]
            assert len(named) == 3


@asynccontextmanager
async def over_tls(server: RedisServer, context: ssl.SSLContext) -> AsyncIterator[int]:
    """A port on which a server can be reached over TLS, whatever it was built with."""

    async def forward(source: Any, sink: Any) -> None:
        async for data in source:
            await sink.send_all(data)

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            inner = await trio.open_tcp_stream("127.0.0.1", server.port)
            async with inner, trio.open_nursery() as nursery:
                nursery.start_soon(forward, inner, stream)
                await forward(stream, inner)
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async with trio.open_nursery() as nursery:
        listening = partial(trio.serve_ssl_over_tcp, serve, 0, context, host="127.0.0.1")
        [listener] = await nursery.start(listening)
        yield listener.transport_listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def test_tls(server: RedisServer, tmp_path: Path) -> None:
    """Over TLS it works, is left while nothing answers, and refuses a certificate at once."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    async with over_tls(server, context) as port:
        url = f"rediss://localhost:{port}"
        async with open_redis_watchbus(f"{url}?ssl_ca_certs={tmp_path / 'ca.pem'}") as bus:
            await works(bus)
            server.stop()
            start = trio.current_time()
        # Sooner than any timeout.
        assert trio.current_time() - start < _open._READ_TIMEOUT
        server.go_on()
        with (
            trio.fail_after(5),
            pytest.raises(BusUnavailableError, match="CERTIFICATE_VERIFY_FAILED"),
        ):
            async with open_redis_watchbus(url):
                pytest.fail("it opened")


async def test_a_connection_is_cut_while_it_is_made() -> None:
    """Neither making a TCP connection nor a TLS handshake outlasts the end of the bus."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(1)
        port = silent.getsockname()[1]
        # The second one is never accepted: the first fills the backlog that is left.
        for scheme in ("redis", "rediss"):
            await is_cut_while_it_connects(f"{scheme}://127.0.0.1:{port}")


async def is_cut_while_it_connects(url: str) -> None:
    """Have a connection made in a thread, and end it before that is done."""
    link = connection_maker(url, timeout=60, name="x")()

    def tries() -> bool:
        made = link._connection._handle
        if made is None:
            return False
        return bool(made.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != _NOT_BEGUN)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails, link.connect)
            await until(tries)
            link.end()
    # And from then on at once.
    await fails(link.connect)
    link.disconnect()


async def fails(function: Any) -> None:
    """Call a function in a thread, which gets no connection."""

    def call() -> None:
        with pytest.raises(BackendError):
            function()

    await trio.to_thread.run_sync(call)


async def test_sentinel() -> None:
    """A client of a sentinel's master follows the master when it dies."""
    with running("valkey") as master, running("valkey") as replica:
        replica.call("REPLICAOF", "127.0.0.1", master.port)
        await in_step(replica)
        settings = (
            f"sentinel monitor mine 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds mine 500\n"
            "sentinel failover-timeout mine 2000\n"
        )
        with running("valkey", "--sentinel", settings=settings) as watcher, trio.fail_after(30):
            sentinel: Any = Sentinel([("127.0.0.1", watcher.port)])  # type: ignore[no-untyped-call]
            await until(lambda: sentinel.discover_slaves("mine"))
            async with open_redis_watchbus(sentinel.master_for("mine")) as bus:
                await works(bus)
                master.kill()
                async with bus.watch("k") as watch:
                    await bus.publish("k", b"after")
                    assert (await watch.receive()).data == b"after"
            assert replica.call("XLEN", "watchbus:log") == 2


async def test_a_connection_that_is_refused_while_the_bus_opens_is_tried_again(
    server: RedisServer,
) -> None:
    """A bus that is open has all of its connections."""
    with server.client() as client:
        most = client.config_get("maxclients")["maxclients"]
        others = client.info("clients")["connected_clients"]
        refused = client.info("stats")["rejected_connections"]
        opened = trio.Event()

        async def open_bus() -> None:
            async with open_redis_watchbus(server.url):
                opened.set()
                named = [each for each in client.client_list() if "watchbus" in each["name"]]
                assert len(named) == 3

        try:
            client.config_set("maxclients", others + 1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(open_bus)
                await until(lambda: client.info("stats")["rejected_connections"] >= refused + 3)
                assert not opened.is_set()
                client.config_set("maxclients", most)
        finally:
            client.config_set("maxclients", most)


async def test_a_certificate_that_is_renewed_does_not_end_a_bus(
    server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Connections that fail because of it are tried again; the log says what is wrong."""
    authority, another = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    async with (
        over_tls(server, context) as tls_port,
        FaultProxy(("127.0.0.1", tls_port)) as proxy,
        open_redis_watchbus(
            f"rediss://localhost:{proxy.port}?ssl_ca_certs={tmp_path / 'ca.pem'}"
        ) as bus,
    ):
        await works(bus)
        another.issue_cert("localhost").configure_cert(context)
        proxy.cut()
        await until(lambda: "CERTIFICATE_VERIFY_FAILED" in caplog.text)
        authority.issue_cert("localhost").configure_cert(context)
        await works(bus)


async def test_why_redis_takes_no_connection_is_told(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """By the error of whoever waited for one, and once by the log."""
    with server.client() as client:
        most = client.config_get("maxclients")["maxclients"]
        async with open_redis_watchbus(server.url, timeout=1) as bus, bus.watch("k"):
            client.config_set("maxclients", 1)
            try:
                client.client_kill_filter(_type="normal", skipme=True)
                await until(lambda: "max number of clients reached" in caplog.text)
                with pytest.raises(BusUnavailableError, match="max number of clients") as caught:
                    await bus.publish("k", b"")
            finally:
                client.config_set("maxclients", most)
            assert isinstance(caught.value.__cause__, BusyError)
            await works(bus)
    assert caplog.text.count("max number of clients reached") == 1


def test_what_a_server_said_before_it_closed_is_read() -> None:
    """Although sending to it failed first."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        link = connection_maker(
            f"redis://127.0.0.1:{listening.getsockname()[1]}", timeout=5, name="x"
        )()

        def refuse_and_fail(*_: object, **__: object) -> None:
            accepted, _address = listening.accept()
            accepted.sendall(b"-ERR max number of clients reached\r\n")
            accepted.close()
            link._connection.disconnect()
            raise redis.ConnectionError("Error 32 while writing to socket. Broken pipe.")

        link._connection.send_packed_command = refuse_and_fail
        with pytest.raises(BusyError, match="max number of clients reached"):
            link.connect()
        link.disconnect()


async def test_attempts_slow_down_until_something_came(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only while one batch is tried: else every new one begins with the shortest pause."""
    pauses: list[float] = []
    async with (
        FaultProxy(("127.0.0.1", server.port)) as proxy,
        open_redis_watchbus(f"redis://127.0.0.1:{proxy.port}", timeout=0.2) as bus,
    ):
        backoff = bus._publisher._backoff
        pause = backoff.pause

        async def noted() -> None:
            pauses.append(backoff._next)
            await pause()

        monkeypatch.setattr(backoff, "pause", noted)
        proxy.refuse()
        proxy.cut()
        while len(pauses) < 7:
            with pytest.raises(BusUnavailableError):
                await bus.publish("k", b"")
        assert pauses[:7] == [min(0.02 * 2**n, 1) for n in range(7)]
        proxy.accept()
        await publish_when_back(bus)
        assert backoff._next == 0.02


async def publish_when_back(bus: WatchBus) -> None:
    """Publish, although there is no connection yet."""
    with trio.fail_after(20):
        while True:
            with suppress(BusUnavailableError):
                await bus.publish("k", b"")
                return
