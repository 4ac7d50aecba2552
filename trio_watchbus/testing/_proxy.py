"""A TCP proxy that does to connections what networks do."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self, final

import trio

_READ_BYTES = 65_536

_BACKLOG = 1024
"""Connections that may wait to be accepted: clients that all reconnect at once."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""For `SO_LINGER`: closing sends RST at once and forgets what was not sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultProxyStatistics:
    """What went through a `FaultProxy`.

    Attributes:
        connections: connections open now.
        accepted: connections accepted since it was opened.
        to_target_bytes: bytes that clients sent, passed on or not.
        to_client_bytes: bytes that the target sent, passed on or not.
        swallowed_bytes: bytes of both that were swallowed.
    """

    connections: int
    accepted: int
    to_target_bytes: int
    to_client_bytes: int
    swallowed_bytes: int


@final
class FaultDirection:
    """One direction of all connections of a `FaultProxy`, and what is done to it.

    Made by `FaultProxy`. Its attributes may be set, and its functions called, at any time: they
    hold for what is passed on from then on, on open connections and on new ones.

    Attributes:
        delay: seconds, at least 0, that each piece waits after it was read. Pieces wait one after
            the other, so that this slows down as well as delays.
        piece_size: bytes, at least 1, that are passed on at a time, with a turn of the scheduler
            between them; None to pass on whatever was read.
        seen_bytes: bytes that came in, passed on or not.
        swallowed_bytes: those of them that were swallowed.
    """

    __slots__ = (
        "_changed",
        "_held",
        "_swallows",
        "delay",
        "piece_size",
        "seen_bytes",
        "swallowed_bytes",
    )

    def __init__(self) -> None:
        self.delay: float = 0.0
        self.piece_size: int | None = None
        self.seen_bytes: int = 0
        self.swallowed_bytes: int = 0
        self._held = False
        self._swallows = False
        self._changed = trio.Event()

    def hold(self) -> None:
        """Pass nothing on, an end or reset of a connection included, until `release`; lose none."""
        self._set(held=True, swallows=False)

    def swallow(self) -> None:
        """Read and discard, until `release`, what comes in; what was held too.

        Neither side is told: the connection is half open. That one side closed or reset it is
        passed on after the release.
        """
        self._set(held=False, swallows=True)

    def release(self) -> None:
        """Pass everything on again, first what was held."""
        self._set(held=False, swallows=False)

    async def wait_seen(self, count: int = 1) -> None:
        """Wait until `count` more bytes than now have come in, passed on or not.

        A cancel changes nothing: bytes go on being counted.
        """
        wanted = self.seen_bytes + count
        while self.seen_bytes < wanted:
            await self._changed.wait()
        await trio.lowlevel.checkpoint()

    async def _pump(self, source: trio.SocketStream, sink: trio.SocketStream) -> bool:
        """Pass on what comes, until the end may be passed on, too; return whether by a reset.

        Raises:
            trio.BrokenResourceError: `sink` is gone.
            trio.ClosedResourceError: the connection was cut.
        """
        while True:
            try:
                data = await source.receive_some(_READ_BYTES)
            except trio.BrokenResourceError:
                await self._wait_released()
                return True
            if not data:
                await self._wait_released()
                return False
            self.seen_bytes += len(data)
            self._tell()
            await trio.sleep(self.delay)
            while data:
                while self._held:
                    await self._changed.wait()
                if self._swallows:
                    self.swallowed_bytes += len(data)
                    break
                size = len(data) if self.piece_size is None else self.piece_size
                await sink.send_all(data[:size])
                data = data[size:]

    async def _wait_released(self) -> None:
        while self._held or self._swallows:
            await self._changed.wait()

    def _set(self, *, held: bool, swallows: bool) -> None:
        self._held = held
        self._swallows = swallows
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


@final
class FaultProxy:
    """A TCP proxy on a free port of 127.0.0.1, whose faults are switched while it runs.

    ::

        async with FaultProxy(("127.0.0.1", 6379)) as proxy:
            async with open_redis_watchbus(f"redis://127.0.0.1:{proxy.port}") as bus:
                ...
                proxy.cut()  # the bus reconnects, through the same port

    An async context manager: leaving it resets all connections and leaves no socket and no task.
    It waits on sockets, so that Trio's autojump clock does not go with it.

    Args:
        target: where it forwards to: an address and port, or the path of a Unix socket.

    Attributes:
        target: as given; it may be changed at any time, for the connections to come.
        host: the address that it listens on.
        port: the port that it listens on, the same for as long as it is open.
        to_target: the direction from clients to the target.
        to_client: the direction from the target to clients.
    """

    def __init__(self, target: tuple[str, int] | str | os.PathLike[str]) -> None:
        self.target = target
        self.host = "127.0.0.1"
        self.port: int = 0
        self.to_target: FaultDirection = FaultDirection()
        self.to_client: FaultDirection = FaultDirection()
        self._accepted = 0
        # For each client's stream the streams of its connection: the target's comes second.
        self._connections: dict[trio.SocketStream, list[trio.SocketStream]] = {}
        # Bound to the port, so that nobody else gets it; listening unless connections are refused.
        self._socket: trio.socket.SocketType | None = None
        self._listens = False
        self._nursery_manager = trio.open_nursery()
        self._nursery: trio.Nursery | None = None

    async def __aenter__(self) -> Self:
        """Listen, and return the proxy itself."""
        if self._nursery is not None:
            raise RuntimeError("a FaultProxy is entered once; make another")
        self._nursery = await self._nursery_manager.__aenter__()
        self.refuse()
        self.accept()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop listening, and reset all connections."""
        assert self._nursery is not None
        assert self._socket is not None
        self._socket.close()
        self.cut(reset=True)
        self._nursery.cancel_scope.cancel()
        # The body's own error goes past the nursery, which would wrap it into a group.
        if isinstance(exc_value, Exception):
            exc_type = exc_value = traceback = None
        await self._nursery_manager.__aexit__(exc_type, exc_value, traceback)

    def cut(self, *, reset: bool = False) -> int:
        """Close all connections, on both sides; return how many.

        What was read and not passed on is lost. New connections are accepted as before.

        Args:
            reset: whether the sides see a reset instead of the end of the stream.
        """
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            for stream in connection:
                _close(stream.socket, reset=reset)
        return len(connections)

    def refuse(self) -> None:
        """Refuse new connections, until `accept`; those that are open go on."""
        holder = socket.socket()
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._socket is not None:
            self._socket.close()
        holder.bind((self.host, self.port))
        self.port = holder.getsockname()[1]
        self._socket = trio.socket.from_stdlib_socket(holder)
        self._listens = False

    def accept(self) -> None:
        """Accept new connections, as a new proxy does."""
        assert self._nursery is not None
        assert self._socket is not None
        if not self._listens:
            self._socket.listen(_BACKLOG)
            self._listens = True
            self._nursery.start_soon(self._listen, self._socket)

    async def lose_reply(self) -> None:
        """Wait until the target answers a request, and cut instead of passing that on.

        The target did what it was asked, and the client does not know. A cancel leaves `to_client`
        swallowing.
        """
        self.to_client.swallow()
        await self.to_client.wait_seen()
        self.cut(reset=True)
        self.to_client.release()

    def statistics(self) -> FaultProxyStatistics:
        """Return what went through so far."""
        return FaultProxyStatistics(
            connections=len(self._connections),
            accepted=self._accepted,
            to_target_bytes=self.to_target.seen_bytes,
            to_client_bytes=self.to_client.seen_bytes,
            swallowed_bytes=self.to_target.swallowed_bytes + self.to_client.swallowed_bytes,
        )

    async def _listen(self, listener: trio.socket.SocketType) -> None:
        assert self._nursery is not None
        # Closed where connections are refused from now on.
        with suppress(trio.ClosedResourceError):
            while listener.fileno() != -1:
                client, _ = await listener.accept()
                self._accepted += 1
                self._nursery.start_soon(self._connect, trio.SocketStream(client))

    async def _connect(self, client: trio.SocketStream) -> None:
        connection = self._connections[client] = [client]
        reset = False
        try:
            target = await self._reach_target()
            connection.append(target)
            async with trio.open_nursery() as nursery:
                scope = nursery.cancel_scope
                to_target = _Forwarding(self.to_target, client, target, scope)
                to_client = _Forwarding(self.to_client, target, client, scope)
                nursery.start_soon(to_target.run, to_client)
                nursery.start_soon(to_client.run, to_target)
            reset = scope.cancel_called
        except OSError:
            # The client is told the way that an answer goes.
            await self.to_client._wait_released()
            reset = True
        finally:
            for stream in connection:
                _close(stream.socket, reset=reset)
            self._connections.pop(client, None)

    async def _reach_target(self) -> trio.SocketStream:
        if isinstance(self.target, tuple):
            return await trio.open_tcp_stream(*self.target)
        return await trio.open_unix_socket(self.target)


class _Forwarding:
    """One direction of one connection.

    Args:
        direction: what is done to it.
        source: whose data is passed on.
        sink: who gets it.
        scope: the connection's; cancelled where both sides are to be reset.
    """

    def __init__(
        self,
        direction: FaultDirection,
        source: trio.SocketStream,
        sink: trio.SocketStream,
        scope: trio.CancelScope,
    ) -> None:
        self._direction = direction
        self._source = source
        self._sink = sink
        self._scope = scope
        # Whether the other direction found `source` gone: an error of a socket is told only once.
        self._source_is_gone = False
        self._done = trio.Event()

    async def run(self, back: _Forwarding) -> None:
        """Pass on what comes, and at last the end; `back` is the other direction."""
        try:
            reset = await self._direction._pump(self._source, self._sink)
            if reset or self._source_is_gone:
                self._scope.cancel()
            else:
                await self._sink.send_eof()
        except trio.ClosedResourceError:
            self._scope.cancel()
        except trio.BrokenResourceError:
            # It is told the way that what it sent goes, and so after that.
            back._source_is_gone = True
            self._done.set()
            await back._done.wait()
            await back._direction._wait_released()
            self._scope.cancel()
        finally:
            self._done.set()


def _close(sock: trio.socket.SocketType, *, reset: bool) -> None:
    with suppress(OSError):
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        else:
            # Closing alone would send a reset where something was not read.
            sock.shutdown(socket.SHUT_WR)
    sock.close()
