"""The states of a remote bus, and what moves it from one to another."""

from __future__ import annotations

from enum import Enum, auto


class State(Enum):
    """Whether a bus has a connection, is to have one, or has ended."""

    OPENING = auto()
    """There was no connection yet. If the first attempt fails, opening the bus fails."""

    CONNECTED = auto()
    """There is a connection."""

    DISCONNECTED = auto()
    """The connection is lost; the bus is about to connect again."""

    CLOSING = auto()
    """The bus is closed; the closing handshake of its connection is under way."""

    CLOSED = auto()
    """The bus is closed, and has no connection."""

    FAILED = auto()
    """The bus cannot be used again: the server refuses it for good, or there is a bug."""

    @property
    def ended(self) -> bool:
        """Whether the bus takes no more calls."""
        return self in _ENDED


_ENDED = frozenset({State.CLOSING, State.CLOSED, State.FAILED})


class Event(Enum):
    """What moves a bus from one state to another."""

    CONNECT = auto()
    """A connection was established."""

    DISCONNECT = auto()
    """A connection has ended, or an attempt to connect has failed."""

    CLOSE = auto()
    FAIL = auto()


# Left out is what cannot happen: a second connection beside the first, or after a failure.
TRANSITIONS: dict[State, dict[Event, State]] = {
    State.OPENING: {
        Event.CONNECT: State.CONNECTED,
        Event.DISCONNECT: State.OPENING,
        Event.CLOSE: State.CLOSED,
        Event.FAIL: State.FAILED,
    },
    State.CONNECTED: {
        Event.DISCONNECT: State.DISCONNECTED,
        Event.CLOSE: State.CLOSING,
        Event.FAIL: State.FAILED,
    },
    State.DISCONNECTED: {
        Event.CONNECT: State.CONNECTED,
        Event.DISCONNECT: State.DISCONNECTED,
        Event.CLOSE: State.CLOSED,
        Event.FAIL: State.FAILED,
    },
    State.CLOSING: {
        Event.DISCONNECT: State.CLOSED,
        Event.CLOSE: State.CLOSING,
        Event.FAIL: State.CLOSING,
    },
    State.CLOSED: {
        # The bus was closed while it was connecting.
        Event.CONNECT: State.CLOSING,
        Event.DISCONNECT: State.CLOSED,
        Event.CLOSE: State.CLOSED,
        Event.FAIL: State.CLOSED,
    },
    State.FAILED: {
        Event.DISCONNECT: State.FAILED,
        Event.CLOSE: State.FAILED,
        Event.FAIL: State.FAILED,
    },
}
