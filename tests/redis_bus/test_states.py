"""The tables of states: whole, and with the paths that the promises need."""

from __future__ import annotations

from enum import Enum
from typing import Any

import pytest

from trio_watchbus._redis._states import (
    BATCH,
    BUS,
    MAY_BE_DONE,
    BatchEvent,
    BatchState,
    BusEvent,
    BusState,
)


@pytest.mark.parametrize(
    ("table", "states", "events"),
    [(BATCH, BatchState, BatchEvent), (BUS, BusState, BusEvent)],
    ids=["batch", "bus"],
)
def test_every_state_and_event_is_in_its_table(
    table: dict[Any, dict[Any, Any]], states: type[Enum], events: type[Enum]
) -> None:
    assert set(table) == set(states)
    assert {event for row in table.values() for event in row} == set(events)
    assert {state for row in table.values() for state in row.values()} | {
        next(iter(states))
    } == set(states)


def after(*events: BatchEvent) -> BatchState:
    """The state of a batch after these events."""
    state = BatchState.IDLE
    for event in events:
        state = BATCH[state][event]
    return state


def test_what_was_lost_once_stays_unknown_though_a_later_attempt_is_refused() -> None:
    sent = (BatchEvent.TAKE, BatchEvent.SEND)
    assert after(*sent, BatchEvent.LOSE, BatchEvent.SEND, BatchEvent.REFUSE) in MAY_BE_DONE
    assert after(*sent, BatchEvent.LOSE) in MAY_BE_DONE


def test_what_was_refused_whenever_it_was_sent_is_not_done() -> None:
    sent = (BatchEvent.TAKE, BatchEvent.SEND)
    assert after(BatchEvent.TAKE) not in MAY_BE_DONE
    assert after(*sent, BatchEvent.REFUSE) not in MAY_BE_DONE
    assert after(*sent) in MAY_BE_DONE


def test_a_bus_that_has_ended_stays_as_it_ended() -> None:
    for end in (BusState.CLOSED, BusState.FAILED):
        assert set(BUS[end].values()) == {end}
