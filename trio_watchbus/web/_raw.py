"""A watch over a WebSocket without a subprotocol: one frame a message, and nothing else.

It has no frame that says that messages were lost: the connection is closed then, with 1013 and the
reason, and the client decides where to go on.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import trio
from trio.lowlevel import enable_ki_protection

from .._errors import WatchLaggedError
from .._message import Message
from .._protocol import CloseCode
from ..abc import Watch
from ._drain import Drain
from ._formats import as_text
from ._stream import BUFFER_SIZE, CHUNK_SIZE
from ._watches import take_waiting
from ._websocket import CloseConnection, Connection

LOST = 1013
"""The close code that says to come back another time."""

_INBOUND_BOUND = 1000
"""Messages that a client may send in a minute: it has nothing to say, but some send pings of their
own making."""


async def serve_raw(
    watch: Watch, encode: Callable[[Message], str | bytes], drain: Drain, connection: Connection
) -> None:
    """Send what `watch` receives, until the client goes away.

    Raises:
        CloseConnection: the stream is over, and why.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_discard_inbound, connection)
        await _send_messages(watch, encode, drain, connection)


async def _send_messages(
    watch: Watch, encode: Callable[[Message], str | bytes], drain: Drain, connection: Connection
) -> None:
    try:
        while True:
            message = None
            with drain.interrupting(inf):
                message = await watch.receive()
            if message is None:
                raise CloseConnection(CloseCode.DRAIN, "shutdown")
            messages = [message]
            loss = take_waiting(watch, messages, BUFFER_SIZE, CHUNK_SIZE)
            await connection.send(*map(encode, messages))
            if loss is not None:
                raise loss
    except WatchLaggedError as lagged:
        count = "some" if lagged.missed is None else lagged.missed
        raise CloseConnection(LOST, f"{count} messages are lost: {lagged.reason}") from None
    except trio.EndOfChannel:
        raise CloseConnection(CloseCode.DRAIN, "the bus was closed") from None
    except trio.BrokenResourceError:
        # The bus raises why where it was opened.
        raise CloseConnection(CloseCode.FAULT, "the bus failed") from None


@enable_ki_protection
async def _discard_inbound(connection: Connection) -> None:
    """Receive, as otherwise nobody would notice when the client goes away."""
    while True:
        with trio.move_on_after(60):
            for _ in range(_INBOUND_BOUND):
                await connection.receive()
            raise CloseConnection(CloseCode.POLICY, "nothing is to be sent here")


def raw_frame(message: Message) -> str | bytes:
    """Return the data of `message`, as text if it is UTF-8."""
    text = as_text(message.data)
    return message.data if text is None else text
