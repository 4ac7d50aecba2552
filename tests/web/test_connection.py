"""A WebSocket as its handler sees it, without a network."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from trio_watchbus.web._budget import Budget
from trio_watchbus.web._quart import Inbox
from trio_watchbus.web._websocket import CloseConnection, Connection


class Gone:
    """A WebSocket whose client has gone: nothing waits, and nothing lets others run."""

    ping = None

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
    return Connection(cast("Any", websocket), trio.Event(), max_size, Budget(1000), None)


async def test_sending_lets_others_run() -> None:
    """Also where nobody is there to be sent to, so that a loop of sends stops nobody."""
    with assert_checkpoints():
        await connection_of(Gone()).send("a")


async def test_what_is_received() -> None:
    """Messages as they come; a long one ends it."""
    connection = connection_of(Gone("text", b"\xff", b"", "", b"x" * 10, "x" * 11))
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


async def test_a_message_is_counted_until_the_next_one_is_asked_for() -> None:
    """And where there is no room for it, the connection is closed with 1013."""
    budget = Budget(15)
    websocket: Any = Gone("x" * 10, "y" * 10, "z" * 10)
    connection = Connection(websocket, trio.Event(), 100, budget, None)
    for _ in range(2):
        await connection.receive()
        assert budget.held == 10
    with budget.hold() as hold:
        hold.add(5)
        assert budget.held == 15
        hold.give_back(5)
        connection._hold.release()
        hold.add(6)
        with pytest.raises(CloseConnection) as caught:
            await connection.receive()
    assert (caught.value.code, budget.held, budget.refused) == (1013, 0, 1)


async def test_what_a_handler_received_last_is_given_back_when_it_ends() -> None:
    """Also where it closes the connection because of that message."""
    budget = Budget(15)
    websocket: Any = Gone("x" * 10)
    connection = Connection(websocket, trio.Event(), 100, budget, None)

    async def refuse(connection: Connection) -> None:
        await connection.receive()
        raise CloseConnection(1008, "nothing is to be sent here")

    await connection.serve(refuse, heartbeat=math.inf)
    assert websocket.closed == [(1008, "nothing is to be sent here")]
    assert budget.held == 0
