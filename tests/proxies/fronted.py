"""A served bus with a proxy in front of it, and clients of the proxy."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
import trustme
from redis_bus.servers import free_port
from served import SECONDS, Client, Response, Server, served

from .programs import Proxy, running

HOST = "shop.example"


class Fronted:
    """A proxy in front of a server.

    Attributes:
        server: the server behind it.
        proxy: the proxy.
        port: where the proxy listens, on 127.0.0.1.
        context: what its clients trust, where it speaks TLS.
        host: what its clients send as `Host`.
        origin: the origin of the pages that it serves.
    """

    def __init__(
        self, server: Server, proxy: Proxy, port: int, context: ssl.SSLContext | None
    ) -> None:
        self.server = server
        self.proxy = proxy
        self.host = f"{HOST}:{port}"
        self.origin = f"{'https' if context else 'http'}://{self.host}"
        self.port = port
        self.context = context

    async def connect(self) -> Client:
        """Open a connection to the proxy."""
        connection = trio.socket.socket()
        with trio.fail_after(SECONDS):
            await connection.connect(("127.0.0.1", self.port))
        stream = trio.SocketStream(connection)
        if self.context is None:
            return Client(connection, stream)
        tls = trio.SSLStream(stream, self.context, server_hostname=HOST, https_compatible=True)
        return Client(connection, tls)

    async def publish(self, key: str, data: bytes) -> Response:
        """Publish through the proxy, as a page of its own origin does."""
        headers = {"Host": self.host, "Origin": self.origin}
        async with await self.connect() as client:
            await client.request(f"/bus/publish?key={key}", "POST", data, headers)
            return await client.response()


@asynccontextmanager
async def fronted(proxy: Proxy, folder: Path, **options: Any) -> AsyncIterator[Fronted]:
    """Serve a bus, with `proxy` in front of it.

    Args:
        proxy: the proxy, which is installed.
        folder: an empty one.
        **options: see `ServerOptions`.
    """
    authority = trustme.CA()
    certificate = authority.issue_cert(HOST)
    certificate.private_key_pem.write_to_path(folder / f"{HOST}.key")
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(folder / f"{HOST}.crt", append=True)
    context = ssl.create_default_context() if proxy.tls else None
    if context is not None:
        authority.configure_trust(context)
    async with served(allowed_hosts=[HOST], **options) as server:
        port = free_port()
        async with running(proxy, folder, port, server.port):
            yield Fronted(server, proxy, port, context)
