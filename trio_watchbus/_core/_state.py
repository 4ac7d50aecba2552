"""The states of a watch, and what moves it from one to another."""

from __future__ import annotations

from enum import Enum, auto


class State(Enum):
    """What a watch does with the next message.

    The first two words are those of etcd's watchable store.
    """

    # That of an Enum is a call in Python, and closing or losing moves each of many watches.
    __hash__ = object.__hash__

    SYNCED = auto()
    """Its source feeds it as messages come in."""

    BEHIND = auto()
    """What comes in is only counted. Whenever its consumer has emptied the buffer, its source
    refills it, until it has caught up."""

    ENDING = auto()
    """Behind, and its source has ended: nothing comes in, and there is some left to catch up."""

    ENDED = auto()
    """Nothing follows what is in the buffer."""

    CLOSED = auto()
    """Its consumer wants no more."""


class Event(Enum):
    """What moves a watch from one state to another."""

    __hash__ = object.__hash__

    FALL_BEHIND = auto()
    CATCH_UP = auto()
    END = auto()
    CLOSE = auto()


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.SYNCED: {
        Event.FALL_BEHIND: State.BEHIND,
        Event.CATCH_UP: State.SYNCED,
        Event.END: State.ENDED,
        Event.CLOSE: State.CLOSED,
    },
    State.BEHIND: {
        Event.FALL_BEHIND: State.BEHIND,
        Event.CATCH_UP: State.SYNCED,
        Event.END: State.ENDING,
        Event.CLOSE: State.CLOSED,
    },
    State.ENDING: {
        Event.FALL_BEHIND: State.ENDING,
        Event.CATCH_UP: State.ENDED,
        Event.END: State.ENDING,
        Event.CLOSE: State.CLOSED,
    },
    State.ENDED: {
        Event.FALL_BEHIND: State.ENDED,
        Event.CATCH_UP: State.ENDED,
        Event.END: State.ENDED,
        Event.CLOSE: State.CLOSED,
    },
    State.CLOSED: dict.fromkeys(Event, State.CLOSED),
}
