"""A chat room: every page watches and publishes over one WebSocket."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import trio
from quart_trio import QuartTrio

from trio_watchbus import InMemoryWatchBus, Retention
from trio_watchbus.web import watchbus_blueprint

PAGE = (Path(__file__).parent / "page.html").read_text()

# Who comes in sees the last 50 lines.
bus = InMemoryWatchBus(retention=Retention(per_key=50))
app = QuartTrio(__name__)
app.register_blueprint(watchbus_blueprint(bus))


@app.get("/")
async def page() -> str:
    return PAGE


if __name__ == "__main__":
    trio.run(partial(app.run_task, port=8000))
