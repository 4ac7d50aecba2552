"""A live dashboard: readings are published, and a page shows the newest of each."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import trio
from quart_trio import QuartTrio

from trio_watchbus import InMemoryWatchBus
from trio_watchbus.web import watchbus_blueprint

PAGE = (Path(__file__).parent / "page.html").read_text()

bus = InMemoryWatchBus()
app = QuartTrio(__name__)
app.register_blueprint(watchbus_blueprint(bus))


@app.get("/")
async def page() -> str:
    return PAGE


@app.before_serving
async def start() -> None:
    for room in ("cellar", "kitchen", "roof"):
        app.nursery.start_soon(measure, room)


async def measure(room: str) -> None:
    """Publish what a thermometer in `room` would say, for ever."""
    degrees = random.uniform(15, 25)
    while True:
        degrees += random.uniform(-0.5, 0.5)
        await bus.publish(f"temperature/{room}", f"{degrees:.1f}".encode())
        await trio.sleep(random.uniform(0.5, 1.5))


if __name__ == "__main__":
    trio.run(partial(app.run_task, port=8000))
