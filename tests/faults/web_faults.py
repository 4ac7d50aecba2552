"""Faults of what is served: what a client is left with, and what is left of a client."""

from __future__ import annotations

from faults.fault import Fault, drop, replace

STREAM = ("tests/web/test_stream.py",)
WAYS = "tests/e2e/test_ways.py"
SLOW = "tests/e2e/test_slow_clients.py"
RAW = ("tests/e2e/test_bad_input_websocket.py",)
WORKERS = ("tests/cli/test_serve.py::test_a_signal_to_the_whole_group_is_one",)

LATE_STREAM = """
class Late:
    def __init__(self):
        self.stream, self.begun = None, False
    def close(self):
        if self.stream is not None:
            self.stream.close()
    def ask_client(self):
        if self.stream is not None:
            self.stream.ask_client()
    def finish(self):
        if self.stream is not None:
            self.stream.finish()
    def __aiter__(self):
        return self
    async def __anext__(self):
        if not self.begun:
            self.begun = True
            return b':' + bytes([10, 10])
        if self.stream is None:
            self.stream = await opening
        return await anext(self.stream)
    async def send_all(self, send):
        async for chunk in self:
            await send(chunk)
opening = open_stream(
    self._bus, query, encode, self.drain, self.options.heartbeat, self._openings, self._turn
)
stream = Late()
"""
"""A stream that says something, and opens its watch after that."""

FAULTS = [
    Fault(
        "a stream is answered with 200 before its watch is open",
        "App._sse",
        replace("stream = await open_stream(...)", LATE_STREAM),
        (f"{WAYS}::test_the_watch_is_open_before_the_answer",),
    ),
    Fault(
        "a watch outlives the stream of a client that left",
        "web._connection._send_stream",
        replace("closing(stream)", "trio.CancelScope()"),
        ("tests/e2e/test_reference.py",),
    ),
    Fault(
        "a stream begins with the position of the bus, with messages yet to come",
        "open_stream",
        replace("watch.position", "bus.position"),
        ("tests/test_cancel.py::test_a_served_request", *STREAM),
    ),
    Fault(
        "a client that is cut amid the history resumes from a message of it",
        "EventStream._history_chunk",
        replace("at_position(...)", "event"),
        STREAM,
    ),
    Fault(
        "an end of input cancels a request that came whole",
        "ConnectionServer._read_data",
        drop("if not data and ...:\n    await self._answered.wait()"),
        (f"{WAYS}::test_a_half_closed_request_is_answered",),
    ),
    Fault(
        "the message that a WebSocket handler ended with stays in the budget",
        "web._websocket.Connection.serve",
        drop("self._hold.release()"),
        ("tests/web/test_connection.py",),
    ),
    Fault(
        "a message that was arriving stays in the budget when its client is cut",
        "ClientStream.cut",
        drop("self.inbound.release()"),
        (f"{SLOW}::test_websocket_messages_in_flight_are_in_the_budget",),
    ),
    Fault(
        "a client that leaves a plain WebSocket goes unnoticed",
        "serve_raw",
        drop("nursery.start_soon(_discard_inbound, connection)"),
        RAW,
    ),
    # The command that serves
    Fault(
        "workers hear a signal to the whole group beside what their parent passes on",
        "_run_child",
        replace(
            "stop = StopRequests(...)",
            "signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))\n"
            "stop = StopRequests(next_from_parent(requests), install_streams())",
        ),
        WORKERS,
    ),
]
