"""Requests that wait for their answer, without a network."""

from __future__ import annotations

import trio
import trio.testing

from trio_watchbus import BusUnavailableError, PublishUnknownError
from trio_watchbus import _protocol as protocol
from trio_watchbus._remote._address import Address
from trio_watchbus._remote._calls import Calls
from trio_watchbus._remote._link import Link, LinkOptions


def link() -> Link:
    """A connection that has sent nothing yet of what it was given."""
    return Link(LinkOptions(Address.parse("http://localhost"), (), None, 1, 1, 1, 65_536))


def waiting(connection: Link) -> list[str]:
    """What a connection was given."""
    return list(connection._outbox)


class Asking:
    """Publishes that wait for their answer, and what became of each."""

    def __init__(self, calls: Calls, nursery: trio.Nursery) -> None:
        self.outcomes: dict[int, str] = {}
        self._calls = calls
        self._nursery = nursery

    async def publish(self, *numbers: int) -> None:
        """Ask for these, one after the other."""
        for number in numbers:
            self._nursery.start_soon(self._publish, number)
            await trio.testing.wait_all_tasks_blocked()

    async def _publish(self, number: int) -> None:
        try:
            answer = await self._calls.ask(number, f"{number}", protocol.Published, "key")
        except (PublishUnknownError, BusUnavailableError) as error:
            self.outcomes[number] = type(error).__name__
        else:
            self.outcomes[number] = answer.ids()[0]


async def test_no_more_is_sent_at_once_than_the_server_does_at_once() -> None:
    calls, connection = Calls(60, lambda: None), link()
    calls.connect(connection)
    async with trio.open_nursery() as nursery:
        asking = Asking(calls, nursery)
        bound = protocol.REQUESTS_AT_ONCE
        await asking.publish(*range(bound + 2))
        assert waiting(connection) == [f"{number}" for number in range(bound)]
        calls.take(protocol.Published(7, "e-1"))
        await trio.testing.wait_all_tasks_blocked()
        assert asking.outcomes == {7: "e-1"}
        assert waiting(connection)[bound:] == [f"{bound}"]
        nursery.cancel_scope.cancel()


async def test_what_is_cancelled_before_it_was_sent_is_not_sent() -> None:
    calls, connection = Calls(60, lambda: None), link()
    calls.connect(connection)
    async with trio.open_nursery() as staying:
        async with trio.open_nursery() as leaving:
            await Asking(calls, staying).publish(1)
            await Asking(calls, leaving).publish(2)
            leaving.cancel_scope.cancel()
        assert waiting(connection) == ["1"]
        staying.cancel_scope.cancel()


async def test_what_is_late_is_unknown_only_where_it_was_sent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    calls, connection = Calls(1, lambda: None), link()
    calls.connect(connection)
    async with trio.open_nursery() as nursery:
        asking = Asking(calls, nursery)
        await asking.publish(1, 2)
        # As a connection does when it sends.
        assert connection._outbox.popleft() == "1"
    assert asking.outcomes == {1: "PublishUnknownError", 2: "BusUnavailableError"}


async def test_on_a_new_connection_all_that_waits_is_sent_again_in_its_order() -> None:
    calls, first, second = Calls(60, lambda: None), link(), link()
    calls.connect(first)
    async with trio.open_nursery() as nursery:
        asking = Asking(calls, nursery)
        await asking.publish(3, 1, 2)
        calls.take(protocol.Published(1, "e-1"))
        await trio.testing.wait_all_tasks_blocked()
        calls.disconnect()
        await asking.publish(4)
        calls.connect(second)
        assert waiting(second) == ["3", "2", "4"]
        nursery.cancel_scope.cancel()
