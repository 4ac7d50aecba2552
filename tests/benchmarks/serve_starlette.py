"""The peer: Starlette, sse-starlette and broadcaster on uvicorn with uvloop and httptools."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from broadcaster import Broadcast
from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from trio_watchbus._bench._stamp import stamped

from .server_process import KEY, Order


class Service:
    """The routes, around one bus."""

    def __init__(self) -> None:
        # Its annotations say that a subscriber may be None.
        self.bus: Any = Broadcast("memory://")
        self.watchers = 0

    async def sse(self, request: Request) -> EventSourceResponse:
        """Stream a key; a comment comes first, when it is subscribed to."""

        async def events() -> AsyncIterator[dict[str, str]]:
            async with self.bus.subscribe(request.query_params["key"]) as subscriber:
                self.watchers += 1
                yield {"comment": "subscribed"}
                async for event in subscriber:
                    yield {"data": event.message}

        return EventSourceResponse(events())

    async def websocket(self, websocket: WebSocket) -> None:
        """Send a frame a message."""
        await websocket.accept()
        async with self.bus.subscribe(websocket.query_params["key"]) as subscriber:
            self.watchers += 1
            async for event in subscriber:
                await websocket.send_text(event.message)

    async def publish(self, request: Request) -> JSONResponse:
        """Publish the body."""
        await self.bus.publish(request.query_params["key"], (await request.body()).decode())
        return JSONResponse({})

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Connect the bus, and take orders."""
        async with self.bus:
            orders = asyncio.create_task(self.take_orders())
            yield
            orders.cancel()

    async def take_orders(self) -> None:
        """Publish what is ordered."""
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            order = Order.parse(line)
            while self.watchers < order.watchers:  # noqa: ASYNC110 - it is not told
                await asyncio.sleep(0.05)
            start = loop.time()
            for number in range(order.count):
                await self.bus.publish(KEY, stamped(order.size).decode())
                due = start + (number + 1) / order.rate - loop.time() if order.rate else 0
                await asyncio.sleep(max(0, due))


def main() -> None:
    """Serve until killed."""
    service = Service()
    app = Starlette(
        routes=[
            Route("/sse", service.sse),
            Route("/publish", service.publish, methods=["POST"]),
            WebSocketRoute("/ws", service.websocket),
        ],
        lifespan=service.lifespan,
    )
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen(4096)
    sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    config = uvicorn.Config(app, log_level="warning", loop="uvloop", http="httptools", backlog=4096)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
