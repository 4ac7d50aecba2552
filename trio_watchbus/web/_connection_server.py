"""Hypercorn's server of one connection, over HTTP/1 alone."""

from __future__ import annotations

from functools import partial
from typing import Any, final

import h11
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.events import Data, Event
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.trio.tcp_server import TCPServer

from ._answer import last_answer
from ._refusal import Refusal

_ANSWER = last_answer(Refusal(505, "http_version", "this server speaks HTTP/1.0 and 1.1 alone"))


class OtherHttpVersionError(Exception):
    """A client began to speak another version; it was told so, and the connection is over."""


@final
class ConnectionServer(TCPServer):
    """Serves one connection, never changes over to HTTP/2, and takes no frames too early.

    Without TLS, hypercorn does so whenever a client asks for it, at the start of a connection or
    later, and has no option for that. It then holds each response until the client opens its
    window, shielded from every cancel: one client could keep the server from ever stopping. An
    offer to upgrade is passed over, and so answered over HTTP/1, as the standard has it.

    Frames that came before the answer to their handshake hypercorn answers with 400 while the
    application is accepting, which fails; and both go on writing.
    """

    # Where hypercorn keeps what it made, just before the first byte is read.
    @property
    def protocol(self) -> ProtocolWrapper:
        return self._protocol

    @protocol.setter
    def protocol(self, protocol: ProtocolWrapper) -> None:
        self._protocol = protocol
        http: Any = protocol.protocol
        http._check_protocol = self._check_version
        http._create_stream = partial(self._create_stream, http)

    async def _check_version(self, request: h11.Request) -> None:
        if request.http_version not in (b"1.0", b"1.1"):
            await self.stream.send_all(_ANSWER)
            raise OtherHttpVersionError

    async def _create_stream(self, http: H11Protocol, request: h11.Request) -> None:
        await H11Protocol._create_stream(http, request)
        stream: Any = http.stream
        if isinstance(stream, WSStream):
            stream.handle = partial(_handle, stream)  # type: ignore[method-assign]


async def _handle(stream: WSStream, event: Event) -> None:
    """Hand on what happens to a WebSocket.

    Raises:
        h11.RemoteProtocolError: the client sent frames before its handshake was answered.
    """
    if isinstance(event, Data) and not stream.handshake.accepted:
        raise h11.RemoteProtocolError("frames came before the handshake was answered")
    await WSStream.handle(stream, event)
