"""Whatever is done to a bus, it does what the naive model does."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from typing import ClassVar

import fakeredis
import pytest
from bus_machine import BusMachine
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test
from redis_bus.servers import RedisServer, binaries, fake_client, running

from trio_watchbus import InMemoryWatchBus, Retention, open_redis_watchbus
from trio_watchbus.abc import WatchBus


class MemoryMachine(BusMachine):
    """The embedded bus."""

    factory = InMemoryWatchBus


TestMemory = MemoryMachine.TestCase
TestMemory.settings = settings(settings.default, stateful_step_count=40)


class RedisMachine(BusMachine):
    """A bus over Redis, which keeps at least what it is asked to, and so is asked for all."""

    retentions = st.just(Retention(per_key=1000))
    patience = 10


class FakeRedisMachine(RedisMachine):
    """A bus over a fake server of its own."""

    @staticmethod
    def factory(*, retention: Retention) -> AbstractAsyncContextManager[WatchBus]:
        return open_redis_watchbus(fake_client(fakeredis.FakeServer()), retention=retention)


class RealRedisMachine(RedisMachine):
    """A bus over a namespace of its own on a real server."""

    server: ClassVar[RedisServer]
    numbers = itertools.count()

    @classmethod
    def factory(cls, *, retention: Retention) -> AbstractAsyncContextManager[WatchBus]:
        return open_redis_watchbus(
            f"unix://{cls.server.path}",
            namespace=f"watchbus{next(cls.numbers)}",
            retention=retention,
        )


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with running(min(binaries())) as server:
        yield server


_examples = settings().max_examples
few = settings(max_examples=_examples // 4, stateful_step_count=25)


def test_fake_redis() -> None:
    run_state_machine_as_test(FakeRedisMachine, settings=few)


def test_a_real_server(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RealRedisMachine, "server", server, raising=False)
    run_state_machine_as_test(RealRedisMachine, settings=few)
