"""Servers that mean harm cost a client little: slower and slower retries, and turns for others."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio_websocket
from remote.test_opening import greeted, hear, say, scripted
from served import until

from trio_watchbus import open_remote_watchbus
from trio_watchbus._backoff import Backoff

MESSAGE = {"key": "k", "id": "e-5", "time": 0.0, "data": ""}


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [{"op": "error", "code": "later", "detail": ""}],
        [{"op": "published", "id": 99, "message_id": "e-5"}],
        [{"op": "position", "position": "e-5"}],
        [{"op": "watching", "id": 1, "position": "e-5"}],
        [
            {"op": "watching", "id": 1, "position": "e-5"},
            {"op": "messages", "id": 1, "messages": [], "position": "e-6"},
        ],
        [
            {"op": "watching", "id": 1, "position": "e-5"},
            {"op": "messages", "id": 1, "messages": [MESSAGE], "position": "e-5"},
        ],
        [{"op": "messages", "id": 1, "messages": [MESSAGE], "position": "e-5"}],
        [{"op": "messages", "id": 99, "messages": [MESSAGE], "position": "e-5"}],
        [{"op": "hello"}],
    ],
    ids=[
        *("nothing", "error", "answer-to-nobody", "bookmark", "opening", "no-messages"),
        *("out-of-order", "history", "messages-for-nobody", "nonsense"),
    ],
)
async def test_retries_slow_down_while_a_server_brings_nothing_new(
    frames: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts, greets, sends frames that bring no progress, and closes, for ever."""
    pauses: list[float] = []

    async def pause(self: Backoff) -> None:
        pauses.append(self._next)
        self._next = min(2 * self._next, self._longest)
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(Backoff, "pause", pause)

    async def speak(request: trio_websocket.WebSocketRequest) -> None:
        connection = await greeted(request)
        await hear(connection)
        for frame in frames:
            await say(connection, frame)
        await connection.aclose(1011)

    async with (
        scripted(speak) as url,
        open_remote_watchbus(url, timeout=60) as bus,
        trio.open_nursery() as nursery,
    ):

        async def watch() -> None:
            async with bus.watch("k", history=1) as watch:
                async for _ in watch:
                    pass

        nursery.start_soon(watch)
        await until(lambda: len(pauses) >= 8)
        nursery.cancel_scope.cancel()
    assert pauses[:8] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 3.0]


@pytest.mark.parametrize(
    "frame",
    [
        {"op": "advice"},
        {"op": "pong"},
        {"op": "position", "position": "e-5"},
        {"op": "error", "code": "later", "detail": ""},
    ],
    ids=lambda frame: frame["op"],
)
async def test_others_run_while_a_server_floods_its_client(frame: dict[str, Any]) -> None:
    """And leaving the bus ends it."""
    text = json.dumps(frame)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async def speak(request: trio_websocket.WebSocketRequest) -> None:
        connection = await greeted(request)
        asked = await hear(connection)
        for _ in range(1000):
            await connection.send_message(text)
        await say(connection, {"op": "latest", "id": asked["id"], "message": None})
        while True:
            await connection.send_message(text)

    async with (
        scripted(speak) as url,
        open_remote_watchbus(url, timeout=60) as bus,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(count)
        assert await bus.latest("k") is None
        assert turns >= 1000
        nursery.cancel_scope.cancel()
