"""A watch over a WebSocket without a subprotocol: one frame a message, and nothing else.

There is no place in it to say that messages were lost: the connection is closed then, with 1013
and the reason, and the client decides where to go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import inf

import trio

from .._errors import HistoryLostError, WatchLaggedError
from .._message import Message
from .._protocol import CloseCode
from ..abc import WatchBus, WatchOptions
from ._connection import CloseConnection, Connection
from ._drain import Drain
from ._query import StreamQuery
from ._stream import BUFFER_SIZE, CHUNK_SIZE

_LOST = 1013
"""The close code that says to come back another time."""

_INBOUND_BOUND = 1000
"""Messages that a client may send in a minute: it has nothing to say, but some send pings of their
own making."""


async def serve_raw(
    bus: WatchBus,
    connection: Connection,
    query: StreamQuery,
    encode: Callable[[Message], str | bytes],
    drain: Drain,
) -> None:
    """Send what `query` asks for, until the client goes away.

    Raises:
        CloseConnection: the stream is over, and why.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_discard_inbound, connection)
        await _send_messages(bus, connection, query, encode, drain)


async def _send_messages(
    bus: WatchBus,
    connection: Connection,
    query: StreamQuery,
    encode: Callable[[Message], str | bytes],
    drain: Drain,
) -> None:
    how: WatchOptions = {"buffer_size": BUFFER_SIZE}
    if query.after is None:
        how["history"] = query.history
    else:
        how["after"] = query.after
    try:
        async with bus.watch_any(query.keys, query.prefixes, **how) as watch:
            with drain.interrupting(inf):
                while True:
                    for frames in _in_chunks(map(encode, await watch.receive_batch())):
                        await connection.send(*frames)
    except HistoryLostError as lost:
        raise CloseConnection(_LOST, f"messages are lost: {lost.reason}") from None
    except WatchLaggedError as lagged:
        count = "some" if lagged.missed is None else lagged.missed
        raise CloseConnection(_LOST, f"{count} messages are lost: {lagged.reason}") from None
    except trio.EndOfChannel:
        raise CloseConnection(CloseCode.DRAIN, "the bus was closed") from None
    except trio.BrokenResourceError:
        # The bus raises why where it was opened.
        raise CloseConnection(CloseCode.FAULT, "the bus failed") from None
    raise CloseConnection(CloseCode.DRAIN, "shutdown")


def _in_chunks(frames: Iterable[str | bytes]) -> Iterator[list[str | bytes]]:
    """Group what is sent together, so that a client that stopped reading holds little memory."""
    chunk: list[str | bytes] = []
    size = 0
    for frame in frames:
        chunk.append(frame)
        size += len(frame)
        if size >= CHUNK_SIZE:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


async def _discard_inbound(connection: Connection) -> None:
    """Receive, as otherwise it would not be noticed when the client goes away."""
    while True:
        with trio.move_on_after(60):
            for _ in range(_INBOUND_BOUND):
                await connection.receive()
            raise CloseConnection(CloseCode.POLICY, "nothing is to be sent here")
