"""The states of a remote bus are one table."""

from __future__ import annotations

import pytest
from served import served, until

from trio_watchbus import open_remote_watchbus
from trio_watchbus._remote._state import TRANSITIONS, Event, State
from trio_watchbus.testing import FaultProxy


def test_a_bus_that_has_ended_stays_so_whatever_happens() -> None:
    """It may still lose, and even make, a connection: that is closed at once."""
    ended = {State.CLOSING, State.CLOSED, State.FAILED}
    assert {state for state in State if state.ended} == ended
    for state in ended:
        assert set(TRANSITIONS[state].values()) <= ended
    assert set(TRANSITIONS[State.FAILED].values()) == {State.FAILED}


def test_any_state_can_lose_a_connection_be_closed_and_fail() -> None:
    for state, moves in TRANSITIONS.items():
        assert moves.keys() >= {Event.DISCONNECT, Event.CLOSE, Event.FAIL}
        assert moves[Event.CLOSE].ended
        assert moves[Event.FAIL].ended
        assert moves[Event.DISCONNECT] not in (State.CONNECTED, State.CLOSING), state
    assert TRANSITIONS.keys() == set(State)


@pytest.mark.parametrize("connected", [True, False])
async def test_its_repr_says_where_it_stands(connected: bool) -> None:
    async with (
        served() as server,
        FaultProxy(("127.0.0.1", server.port)) as proxy,
        open_remote_watchbus(f"http://127.0.0.1:{proxy.port}") as bus,
        bus.watch("k"),
    ):
        assert repr(bus).endswith(": 1 watches>")
        if not connected:
            proxy.refuse()
            proxy.cut()
            await until(lambda: not bus.statistics().connected)
            assert repr(bus).endswith(": disconnected>")
        bus.close()
        assert repr(bus).endswith(": closing>" if connected else ": closed>")
        assert not bus.statistics().connected
        proxy.accept()
        await until(lambda: repr(bus).endswith(": closed>"))
