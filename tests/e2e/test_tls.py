"""The server over TLS."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trustme
from served import SECONDS, Server, served, until

from trio_watchbus import InMemoryWatchBus
from trio_watchbus.web import ServerOptions, serve


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> dict[str, Any]:
    """The options that name a certificate and its key."""
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certfile, keyfile = tmp_path / "cert.pem", tmp_path / "key.pem"
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(certfile, append=True)
    certificate.private_key_pem.write_to_path(keyfile)
    return {"certfile": str(certfile), "keyfile": str(keyfile)}


@pytest.fixture
def context(authority: trustme.CA) -> ssl.SSLContext:
    """What a client trusts."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
async def tls_server(files: dict[str, Any], context: ssl.SSLContext) -> AsyncIterator[Server]:
    async with served(context=context, **files) as server:
        yield server


async def test_publish_and_stream(tls_server: Server, context: ssl.SSLContext) -> None:
    """A client that is not ours publishes and receives over TLS, and a drain ends the stream."""
    assert tls_server.url.startswith("https://127.0.0.1:")
    received = []
    async with (
        httpx.AsyncClient(verify=context, base_url=tls_server.url) as http,
        http.stream("GET", "/sse?key=a") as response,
    ):
        await until(lambda: tls_server.watches == 1)
        assert (await http.post("/publish?key=a", content=b"1")).status_code == 200
        async for line in response.aiter_lines():
            if line.startswith("data"):
                received.append(line)
                tls_server.stop.set()
    assert received == ["data: 1", 'data: {"reason":"shutdown"}']


async def test_http_2_is_not_offered(tls_server: Server, context: ssl.SSLContext) -> None:
    """A client that would speak it is answered by HTTP/1.1."""
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with await tls_server.connect() as client:
        stream = client.stream
        assert isinstance(stream, trio.SSLStream)
        await stream.do_handshake()
        assert stream.selected_alpn_protocol() == "http/1.1"


async def test_clear_text_and_half_a_handshake(tls_server: Server) -> None:
    """What is no handshake ends the connection, and no other."""
    async with (
        await tls_server.connect(clear=True) as client,
        await tls_server.connect(clear=True) as half,
    ):
        await client.send(b"GET / HTTP/1.1\r\n\r\n")
        await client.is_closed()
        await half.send(b"\x16\x03\x01")


async def test_one_connection_too_many(files: dict[str, Any], context: ssl.SSLContext) -> None:
    """It is closed without the cost of a handshake."""
    async with served(max_connections=2, context=context, **files) as server:
        async with await server.connect() as client, await server.connect() as other:
            await client.stream_events("/sse?key=a")
            await other.stream_events("/sse?key=a")
            async with await server.connect(clear=True) as refused:
                await refused.is_closed()
        await server.admits()


@pytest.mark.parametrize("name", ["certfile", "keyfile"])
async def test_files_that_are_not_there(files: dict[str, Any], name: str, tmp_path: Path) -> None:
    """They are an error at the start."""
    files[name] = str(tmp_path / "absent")
    with pytest.raises(FileNotFoundError):
        await serve(InMemoryWatchBus(), bind="127.0.0.1:0", options=ServerOptions(**files))


async def test_a_client_that_does_not_read_is_cut(
    files: dict[str, Any], context: ssl.SSLContext
) -> None:
    """At the end of the grace, over TLS too."""
    async with (
        served(grace=0.2, context=context, **files) as server,
        await server.connect(4096) as client,
    ):
        await client.stream_events("/sse?key=a")
        for _ in range(20):
            await server.bus.publish("a", bytes(1_000_000))
        server.stop.set()
        with trio.fail_after(SECONDS):
            await server.stopped.wait()
