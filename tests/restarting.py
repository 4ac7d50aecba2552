"""``watchbus serve`` in a process that is ended and started again, each time on the same port."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from command import Running, running
from redis_bus.servers import free_port


class RestartedServer:
    """A server that can be stopped and started.

    Args:
        bus_url: what it serves.
        arguments: further ones of ``watchbus serve``.

    Attributes:
        port: where it is, always.
        url: the same as a bus URL.
    """

    def __init__(self, bus_url: str, *arguments: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._arguments = ("--bind", f"127.0.0.1:{self.port}", "--bus", bus_url, *arguments)
        self._process: Running | None = None
        self._left = AsyncExitStack()

    async def start(self) -> None:
        """Start it; it serves on return."""
        self._process = await self._left.enter_async_context(running("serve", *self._arguments))
        assert f"served at {self.url}" in await self._process.error_line()
        assert "curl" in await self._process.error_line()

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it by a signal; SIGTERM lets it say goodbye, which it does without a complaint."""
        assert self._process is not None
        self._process.process.send_signal(number)
        ended = await self._process.end()
        if number == signal.SIGTERM:
            [line] = ended.err.splitlines()
            assert line.startswith("watchbus: SIGTERM: draining ")
            assert ended.status == 0
        else:
            assert (ended.status, ended.err) == (-number, "")
        await self._left.aclose()

    async def aclose(self) -> None:
        """Kill it, if it runs."""
        await self._left.aclose()


@asynccontextmanager
async def restarted_server(bus_url: str, *arguments: str) -> AsyncIterator[RestartedServer]:
    """Serve a bus by a server that can be restarted; left, it is killed."""
    server = RestartedServer(bus_url, *arguments)
    try:
        await server.start()
        yield server
    finally:
        await server.aclose()
