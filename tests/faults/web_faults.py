"""Faults of what is served: what a client is left with, and what is left of a client."""

from __future__ import annotations

from faults.fault import Fault, drop, replace

STREAM = ("tests/web/test_stream.py", "tests/e2e/test_reference.py")
RAW = ("tests/e2e/test_bad_input_websocket.py",)

FAULTS = [
    Fault(
        "a watch outlives the stream of a client that left",
        "EventStream.__aexit__",
        replace("self._is_open", "False"),
        STREAM,
    ),
    Fault(
        "a stream begins with the position of the bus, with messages yet to come",
        "EventStream._open",
        replace("opening(self._position(), ...)", "opening(self._bus.position, _retry())"),
        ("tests/test_cancel.py::test_a_served_request",),
    ),
    Fault(
        "a client that is cut amid the history resumes from a message of it",
        "EventStream._chunk",
        drop("event = at_position(...)"),
        STREAM,
    ),
    Fault(
        "a client that leaves a plain WebSocket goes unnoticed",
        "serve_raw",
        drop("nursery.start_soon(_discard_inbound, connection)"),
        RAW,
    ),
    Fault(
        "an empty binary frame counts as a fault of the server",
        "Connection.receive",
        drop("if message is None:\n    ..."),
        ("tests/web/test_connection.py", "tests/e2e/test_bad_input_websocket.py"),
    ),
]
