"""A WebSocket as its handler sees it, without a network."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import pytest
import trio
from quart import Websocket
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from trio_watchbus.web._connection import CloseConnection, Connection, Inbox
from trio_watchbus.web._drain import Drain


class Gone:
    """A WebSocket whose client has gone: nothing waits, and nothing lets others run."""

    scope: ClassVar[dict[str, Any]] = {}

    def __init__(self, *messages: str | bytes | None) -> None:
        self.messages = list(messages)
        self.closed: list[tuple[int, str]] = []

    async def receive(self) -> str | bytes | None:
        return self.messages.pop(0)

    async def send(self, data: str | bytes) -> None:
        pass

    async def close(self, code: int, reason: str) -> None:
        self.closed.append((code, reason))


def connection_of(websocket: Gone, max_size: int = 10) -> Connection:
    return Connection(cast("Websocket", websocket), Drain(), max_size)


async def test_sending_lets_others_run() -> None:
    """Also where nobody is there to be sent to, so that a loop of sends stops nobody."""
    with assert_checkpoints():
        await connection_of(Gone()).send("a")


async def test_closing_again_does_nothing() -> None:
    websocket = Gone()
    connection = connection_of(websocket)
    await connection.close(1001, "first")
    with assert_checkpoints():
        await connection.close(1011, "second")
    assert websocket.closed == [(1001, "first")]


async def test_what_is_received() -> None:
    """Messages as they come; none at all is the empty binary one; a long one ends it."""
    connection = connection_of(Gone("text", b"\xff", None, "", b"x" * 10, "x" * 11))
    assert [await connection.receive() for _ in range(5)] == ["text", b"\xff", b"", "", b"x" * 10]
    with pytest.raises(CloseConnection) as caught:
        await connection.receive()
    assert caught.value.code == 1009
    assert len(caught.value.reason.encode()) <= 123


async def test_an_inbox_keeps_order_and_has_room_for_few() -> None:
    """Who puts more has to wait until one was taken; a cancel on either side loses nothing."""
    inbox = Inbox()
    put: list[int] = []

    async def fill() -> None:
        for number in range(50):
            await inbox.put(number)
            put.append(number)

    with trio.move_on_after(0):
        await inbox.get()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fill)
        await wait_all_tasks_blocked()
        room = len(put)
        assert room == 10
        got: list[Any] = [await inbox.get()]
        await wait_all_tasks_blocked()
        assert len(put) == room + 1
        with trio.CancelScope() as scope:
            scope.cancel()
            await inbox.get()
        while len(got) < 50:
            got.append(await inbox.get())
    assert got == list(range(50))
