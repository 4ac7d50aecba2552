"""Notices when clients end their side of a connection, without reading from it."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import final

import trio
from trio.lowlevel import enable_ki_protection

from ._client import ClientStream

_AT_ONCE = 64
"""Ends that are handled before other tasks run: ending a stream takes some 100 µs, and a proxy that
restarts ends thousands at once."""

_GONE = select.EPOLLHUP | select.EPOLLERR


@final
class Ends:
    """Watches the connections of all streams in one task.

    A task of its own for each stream would take more memory than the stream. And an epoll of its
    own sees an end behind bytes that nobody reads, which Trio's, waiting for input, does not.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, tuple[ClientStream, Callable[[], None]]] = {}

    @contextmanager
    @enable_ki_protection
    def watching(self, client: ClientStream, ended: Callable[[], None]) -> Iterator[None]:
        """Call `ended` when the client ends its side; cut it when it has gone altogether.

        The two look alike at first: only what is sent to a client that has gone is answered with
        a reset.
        """
        number = client.fileno()
        entry = client, ended
        self._watched[number] = entry
        try:
            # Edge-triggered: an end is told once, and a reset once more.
            self._epoll.register(number, select.EPOLLRDHUP | select.EPOLLET)
            yield
        finally:
            # A socket that was cut is not there any more, and its number may be another's.
            if self._watched.get(number) is entry:
                del self._watched[number]
            if client.fileno() == number:
                self._epoll.unregister(number)

    @enable_ki_protection
    async def run(self) -> None:
        """Notice ends, until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            for number, events in self._epoll.poll(0, _AT_ONCE):
                if number in self._watched:
                    client, ended = self._watched[number]
                    if events & _GONE:
                        client.cut()
                    else:
                        ended()

    def close(self) -> None:
        """Watch nothing any more."""
        self._epoll.close()
