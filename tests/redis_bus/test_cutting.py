"""What no thread can be woken from is left: looking up names, and asking Sentinels."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from redis.sentinel import Sentinel
from redis_bus.servers import RedisServer, free_port
from served import until

from trio_watchbus import BusUnavailableError, open_redis_watchbus
from trio_watchbus._redis import _redis_py
from trio_watchbus._redis._abandonable import Abandonable
from trio_watchbus.testing import FaultProxy


class Resolver:
    """A resolver that can be made to hang.

    Attributes:
        hangs: whether it does.
        lookups: how many lookups of `localhost` hang.
    """

    def __init__(self) -> None:
        self.hangs = False
        self.lookups = 0
        self._release = threading.Event()
        self._real = socket.getaddrinfo

    def getaddrinfo(self, host: Any, *arguments: Any, **options: Any) -> Any:
        if self.hangs and host == "localhost":
            self.lookups += 1
            self._release.wait(60)
        return self._real(host, *arguments, **options)

    def release(self) -> None:
        self.hangs = False
        self._release.set()


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    resolver = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver.getaddrinfo)
    # Nothing but the end of the bus ends the wait.
    monkeypatch.setattr(_redis_py, "_CONNECT_TIMEOUT", 1000)
    yield resolver
    resolver.release()


async def test_a_bus_is_left_while_a_name_is_looked_up(
    server: RedisServer, resolver: Resolver
) -> None:
    """All of its connections may hang in that."""
    async with FaultProxy(("127.0.0.1", server.port)) as proxy:
        with trio.fail_after(20):
            async with open_redis_watchbus(f"redis://localhost:{proxy.port}", timeout=3000) as bus:
                resolver.hangs = True
                proxy.refuse()
                proxy.cut()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(bus.publish, "k", b"")
                    nursery.start_soon(bus.latest, "k")
                    await until(lambda: resolver.lookups == 3)
                    nursery.cancel_scope.cancel()


async def test_opening_is_cancelled_while_a_name_is_looked_up(resolver: Resolver) -> None:
    resolver.hangs = True
    with trio.fail_after(20), trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def cancel_in_time() -> None:
                await until(lambda: resolver.lookups > 0)
                scope.cancel()

            nursery.start_soon(cancel_in_time)
            async with open_redis_watchbus("redis://localhost:1", timeout=3000):
                pytest.fail("it opened")
    assert scope.cancelled_caught


async def test_a_lookup_that_hangs_is_waited_for_by_later_attempts(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They begin no other one, however many there are; and the error says what hangs."""
    monkeypatch.setattr(_redis_py, "_CONNECT_TIMEOUT", 0.05)
    resolver.hangs = True
    with pytest.raises(BusUnavailableError, match="looking up localhost took longer"):
        async with open_redis_watchbus("redis://localhost:1", timeout=1):
            pytest.fail("it opened")
    assert resolver.lookups == 1


async def test_opening_is_cancelled_while_sentinels_say_nothing() -> None:
    """Though the client of the Sentinels, which is the application's, has no timeout."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        sentinel: Any = Sentinel([silent.getsockname()])  # type: ignore[no-untyped-call]
        with trio.fail_after(20), trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def cancel_in_time() -> None:
                    accepting = trio.socket.from_stdlib_socket(silent.dup())
                    accepted, _ = await accepting.accept()
                    with accepting, accepted:
                        scope.cancel()

                nursery.start_soon(cancel_in_time)
                async with open_redis_watchbus(sentinel.master_for("mine"), timeout=3000):
                    pytest.fail("it opened")
        assert scope.cancelled_caught


def test_another_call_does_not_begin_before_the_one_that_hangs_has_ended() -> None:
    calls = Abandonable()
    hang = threading.Event()
    with pytest.raises(OSError, match="took longer"):
        calls.call("hanging", 0.01, hang.wait)
    with pytest.raises(OSError, match="has not ended"):
        calls.call("another", 60, free_port)
    hang.set()
    assert calls.call("hanging", 60, hang.wait) is True
    assert calls.call("another", 60, int) == 0


def test_what_a_call_raises_is_raised() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        Abandonable().call("reading", 60, int, "x")


def test_nobody_waits_after_the_end() -> None:
    calls = Abandonable()
    calls.wake(end=True)
    hang = threading.Event()
    with pytest.raises(OSError, match="was given up"):
        calls.call("hanging", 60, hang.wait)
    hang.set()
