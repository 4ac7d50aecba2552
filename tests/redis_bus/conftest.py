"""Servers for the tests of the bus over Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis_bus.servers import KINDS, RedisServer, running


@pytest.fixture(scope="module", params=KINDS)
def any_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server of each kind in turn, without persistence, shared by a module's tests."""
    with running(request.param) as server:
        yield server


@pytest.fixture
def server(any_server: RedisServer) -> RedisServer:
    """A server of each kind in turn, empty."""
    any_server.call("FLUSHALL")
    return any_server
