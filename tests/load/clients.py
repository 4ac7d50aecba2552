"""Clients of a server, hundreds in one process, some of which misbehave.

As a program, ``python clients.py URL KIND COUNT``, it opens so many connections of one kind, says
``open`` once all are served, and goes on as it is told, a line of standard input at a time:

``watch``
    Reads everything. Says ``ready`` once each connection had a message. At ``until NUMBER`` it
    goes on until each had the message of that number, or none comes any more, and says as JSON
    what they had.
``misbehave``
    A fourth never reads, a fourth reads a byte a second, and the rest, at ``vanish``, is gone a
    few at a time: half of it by closing, and half without a goodbye.
``idle``
    Reads only at ``read``, up to the end of each stream, and says as JSON how many ended in good
    order.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import cycle, islice
from typing import final

from trio_watchbus._bench._connections import Opening, Poller, Server

KEY = "load"

_TIMEOUT = 30.0
"""Seconds that anything may take before it has failed: far longer than it does."""

_AT_ONCE = 100
"""Connections that are asked for before the first of them is waited for."""

_MESSAGE = re.compile(rb"<([0-9]{7}) ([0-9]{15})")
_MESSAGE_SIZE = 24

_PONG = bytes([0x8A, 0x80, 0, 0, 0, 0])
_PONG_SECONDS = 2.0
"""How often to give a sign of life over WebSocket, asked or not: well within the time that a server
waits for it."""

_GOOD_END = re.compile(
    rb'\r\nretry: [0-9]+\nevent: end\ndata: {"reason":"shutdown"}\n\n\r\n0\r\n\r\n\Z'
)


def message(number: int, size: int) -> bytes:
    """Return a message that says its number, and when it was made."""
    return (b"<%07d %015d" % (number, time.monotonic_ns() // 1000)).ljust(size, b"x")


@final
class Connection:
    """One connection, opened but for the answer.

    Args:
        server: where to.
        opening: what is said there.
        receive_buffer: bytes that the system may hold unread; None for what it likes.
    """

    def __init__(self, server: Server, opening: Opening, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(_TIMEOUT)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(server.address)
        self._steps = list(opening.steps)
        self.is_websocket = b"Upgrade: websocket" in self._steps[0][0]
        self.socket.sendall(self._steps[0][0])
        # What came after the answer, and may be a part of a message.
        self._tail = b""
        # The numbers that came, from the first to the last.
        self.first = 0
        self.last = 0
        self.delays: list[tuple[int, float]] = []
        self.fault = ""

    def finish_opening(self) -> None:
        """Wait until it is served."""
        while self._steps:
            _, wanted = self._steps.pop(0)
            received = b""
            while wanted not in received:
                more = self.socket.recv(65536)
                assert more, f"refused: {received!r}"
                received += more
            if self._steps:
                self.socket.sendall(self._steps[0][0])
            else:
                self._take(received)

    def read(self) -> None:
        """Take what has come."""
        try:
            data = self.socket.recv(256 * 1024)
        except OSError as error:
            self.fault = self.fault or f"broken: {error}"
            return
        if not data:
            self.fault = self.fault or f"ended after {self.last}"
        self._take(data)

    def _take(self, data: bytes) -> None:
        now = time.monotonic()
        data = self._tail + data
        end = 0
        for match in _MESSAGE.finditer(data):
            end = match.end()
            number = int(match[1])
            if self.last and number != self.last + 1:
                self.fault = self.fault or f"{number} after {self.last}"
            self.first = self.first or number
            self.last = number
            self.delays.append((number, now - int(match[2]) / 1e6))
        # One byte less than what is found: none is found twice.
        self._tail = data[max(end, len(data) - _MESSAGE_SIZE + 1) :]

    def say_alive(self) -> None:
        """Give a sign of life, where the server asks for one."""
        if self.is_websocket:
            with suppress(OSError):
                self.socket.send(_PONG)

    def vanish(self, *, reset: bool) -> None:
        """Close the socket."""
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def opened(
    server: Server, openings: Sequence[Opening], receive_buffer: int | None = None
) -> list[Connection]:
    """Return a connection for each of these openings, all served."""
    connections: list[Connection] = []
    for start in range(0, len(openings), _AT_ONCE):
        connections += [
            Connection(server, opening, receive_buffer)
            for opening in openings[start : start + _AT_ONCE]
        ]
        for connection in connections[start:]:
            connection.finish_opening()
    return connections


def mixed(server: Server, count: int) -> list[Opening]:
    """Return as many openings, of all three ways to watch in turn."""
    ways = (server.sse, server.websocket, server.watchbus_v1)
    return [way(KEY) for way in islice(cycle(ways), count)]


def say(word: str) -> None:
    """Tell whoever started this."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def steps(poller: Poller, seconds: float) -> Iterator[str]:
    """Poll for ever, and give the line of standard input that came meanwhile, or nothing."""
    lines: list[str] = []

    def read() -> None:
        line = sys.stdin.readline()
        if not line:
            # Whoever started this is gone.
            raise SystemExit(1)
        lines.append(line)

    poller.add(sys.stdin.fileno(), read)
    while True:
        poller.poll(seconds)
        line, lines[:] = "".join(lines), []
        yield line.strip()


@final
class Pulse:
    """Calls at most so often.

    Args:
        seconds: how often.
        action: what to call.
    """

    def __init__(self, seconds: float, action: Callable[[], None]) -> None:
        self._seconds = seconds
        self._action = action
        self._due = time.monotonic() + seconds

    def beat(self) -> None:
        """Call if it is time."""
        if time.monotonic() >= self._due:
            self._due += self._seconds
            self._action()


def watch(server: Server, count: int) -> None:
    """Read everything."""
    with Poller() as poller:
        connections = opened(server, mixed(server, count))
        for connection in connections:
            poller.add(connection.socket.fileno(), connection.read)
        say("open")

        def say_alive() -> None:
            for connection in connections:
                connection.say_alive()

        pulse = Pulse(_PONG_SECONDS, say_alive)
        ready = False
        last = 0
        deadline = float("inf")
        for line in steps(poller, 0.1):
            pulse.beat()
            if not ready and all(connection.first for connection in connections):
                ready = True
                say("ready")
            if line:
                last = int(line.removeprefix("until "))
                deadline = time.monotonic() + _TIMEOUT
            if any(connection.fault for connection in connections):
                break
            if last and all(connection.last >= last for connection in connections):
                break
            if time.monotonic() > deadline:
                break
    say(
        json.dumps(
            {
                "complete": sum(each.last == last and not each.fault for each in connections),
                "first": max(connection.first for connection in connections),
                "faults": sorted({connection.fault for connection in connections} - {""}),
                "delays": [delay for connection in connections for delay in connection.delays],
            }
        )
    )


def misbehave(server: Server, count: int) -> None:
    """Read nothing, or little, or leave."""
    quarter = count // 4
    # So little room that the server soon has to wait for them.
    bad = opened(server, mixed(server, 2 * quarter), receive_buffer=4096)
    never, slow = bad[:quarter], bad[quarter:]
    leaving = opened(server, mixed(server, count - 2 * quarter))
    resets = cycle((False, True))
    vanishing = False

    def read_a_byte() -> None:
        for connection in slow:
            with suppress(OSError):
                connection.socket.recv(1, socket.MSG_DONTWAIT)
                connection.say_alive()

    def leave() -> None:
        if vanishing and leaving:
            leaving.pop().vanish(reset=next(resets))

    with Poller() as poller:
        say("open")
        pulses = [Pulse(1, read_a_byte), Pulse(0.02, leave)]
        for line in steps(poller, 0.01):
            for pulse in pulses:
                pulse.beat()
            if line == "vanish":
                vanishing = True
            elif line == "end":
                break
    for connection in [*never, *slow]:
        connection.socket.close()


def idle(server: Server, count: int) -> None:
    """Open streams of events, and read them at the end."""
    connections = opened(server, [server.sse(KEY)] * count)
    say("open")
    sys.stdin.readline()
    good = 0
    problems: set[str] = set()
    for connection in connections:
        received = b""
        try:
            while data := connection.socket.recv(65536):
                received += data
            connection.socket.close()
        except OSError as error:
            problems.add(str(error))
            continue
        if _GOOD_END.search(received):
            good += 1
        else:
            problems.add(repr(received[-100:]))
    say(json.dumps({"good": good, "problems": sorted(problems)[:5]}))


if __name__ == "__main__":
    {"watch": watch, "misbehave": misbehave, "idle": idle}[sys.argv[2]](
        Server(sys.argv[1]), int(sys.argv[3])
    )
