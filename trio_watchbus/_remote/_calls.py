"""Requests that wait for their answer, across reconnects."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, final

import trio
from trio.lowlevel import checkpoint_if_cancelled, enable_ki_protection

from .. import _protocol as protocol
from .._errors import BusUnavailableError, PublishUnknownError

if TYPE_CHECKING:
    from ._link import Link

Answer = protocol.Published | protocol.LatestMessage | protocol.WatchedKeySet
"""The answer to a request, unless that is an error."""

A = TypeVar("A", bound=Answer)


@final
class _Call:
    """One request.

    Attributes:
        frame: its text, the same on every connection.
        idempotency_key: that of what it publishes; None for a query.
        link: the connection that it was sent on, or is queued for.
        reached: whether it may have reached a server over a connection that is gone.
        answer: what came.
        done: set once there is an answer, or there will be none.
    """

    def __init__(self, frame: str, idempotency_key: str | None) -> None:
        self.frame = frame
        self.idempotency_key = idempotency_key
        self.link: Link | None = None
        self.reached = False
        self.answer: Answer | protocol.Error | None = None
        self.done = trio.Event()

    def send(self, link: Link) -> None:
        link.send(self.frame)
        self.link = link

    def leave(self) -> None:
        """Take it back from its connection, or note that it may have been sent."""
        if self.link is not None and not self.link.withdraw(self.frame):
            self.reached = True
        self.link = None


@final
class Calls:
    """All requests that wait for their answer.

    Args:
        timeout: seconds that each may wait, over all attempts.
        ending: returns the error that is raised once the bus has ended.
    """

    def __init__(self, timeout: float, ending: Callable[[], Exception | None]) -> None:
        self._timeout = timeout
        self._ending = ending
        self._link: Link | None = None
        # In the order in which they were made: they are sent again in the same order.
        self._calls: dict[int, _Call] = {}
        # As many as the server handles at once: with more, it would stop reading.
        self._slots = trio.Semaphore(protocol.REQUESTS_AT_ONCE)

    async def ask(
        self,
        identifier: int,
        frame: str,
        kind: type[A],
        idempotency_key: str | None = None,
        count: int = 1,
    ) -> A:
        """Send a request, on each new connection again, until it is answered; return the answer.

        Args:
            identifier: its id.
            frame: its text.
            kind: the type of its answer.
            idempotency_key: that of what it publishes; None for a query.
            count: how many messages it publishes, if it does.

        A cancel before it was sent withdraws it; after that it is done completely or not at all.

        Raises:
            PublishUnknownError: it publishes, and the messages may or may not be stored.
            BusUnavailableError: it was not answered in time, and nothing was stored.
            Exception: what the server's bus raised, and what `ending` gives.
        """
        await checkpoint_if_cancelled()
        call = _Call(frame, idempotency_key)
        with trio.move_on_after(self._timeout):
            async with self._slots:
                try:
                    self._begin(identifier, call)
                    if self._ending() is None:
                        await call.done.wait()
                finally:
                    self._finish(identifier, call)
        answer = call.answer
        if isinstance(answer, kind) and (
            not isinstance(answer, protocol.Published) or len(answer.ids()) == count
        ):
            return answer
        raise self._error(call)

    @enable_ki_protection
    def _begin(self, identifier: int, call: _Call) -> None:
        self._calls[identifier] = call
        if self._link is not None:
            call.send(self._link)

    @enable_ki_protection
    def _finish(self, identifier: int, call: _Call) -> None:
        if self._calls.pop(identifier, None) is not None and call.answer is None:
            call.leave()

    def connect(self, link: Link) -> None:
        """Send everything that waits over a new connection."""
        self._link = link
        for call in self._calls.values():
            call.send(link)

    def disconnect(self) -> None:
        """Note that the connection is gone."""
        self._link = None
        for call in self._calls.values():
            call.leave()

    def take(self, answer: Answer | protocol.Error) -> bool:
        """Hand an answer to the call that waits for it; return whether there is one."""
        call = self._calls.get(answer.id) if answer.id is not None else None
        if call is None or call.answer is not None:
            return False
        call.answer = answer
        call.done.set()
        return True

    def fail(self, identifier: int, reason: str) -> None:
        """End a call whose answer cannot be read."""
        self.take(protocol.Error(id=identifier, code="failed", detail=reason))

    def end(self) -> None:
        """Make all calls raise what `ending` returns."""
        for call in self._calls.values():
            call.done.set()

    def _error(self, call: _Call) -> Exception:
        """Return what is raised where the answer is an error, or there is none."""
        reached = call.reached
        if isinstance(call.answer, protocol.Error):
            error = protocol.error_of(call.answer, call.idempotency_key)
            if not isinstance(error, BusUnavailableError):
                return error
            reached = reached or call.answer.code == "failed"
        elif call.answer is not None:
            reached = True
            error = BusUnavailableError("the server's answer does not fit the request")
        else:
            ending = self._ending()
            if ending is not None:
                return ending
            error = BusUnavailableError(f"no answer within {self._timeout:g} seconds")
        if reached and call.idempotency_key is not None:
            return PublishUnknownError(
                f"{error}; the message may or may not be stored",
                idempotency_key=call.idempotency_key,
            )
        return error
