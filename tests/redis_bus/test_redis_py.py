"""The private parts of redis-py that the bus relies on are there, each by its name."""

from __future__ import annotations

import inspect
import socket
from typing import Any

import pytest
import redis
from redis.connection import AbstractConnection, SSLConnection
from redis.sentinel import Sentinel, SentinelConnectionPoolProxy, SentinelManagedConnection

from trio_watchbus._redis import _redis_py


@pytest.mark.parametrize(
    "connection_class", [redis.Connection, SSLConnection, redis.UnixDomainSocketConnection]
)
@pytest.mark.parametrize(
    "name",
    [
        "_connect",
        "can_read",
        "connect",
        "disconnect",
        "pack_command",
        "pack_commands",
        "read_response",
        "repr_pieces",
        "send_packed_command",
    ],
)
def test_a_connection_has_the_methods(
    connection_class: type[AbstractConnection], name: str
) -> None:
    assert callable(getattr(connection_class, name))


@pytest.mark.parametrize(
    "name",
    [
        "_sock",
        "host",
        "port",
        "socket_connect_timeout",
        "socket_keepalive_options",
        "socket_timeout",
        "socket_type",
    ],
)
def test_a_connection_has_the_attributes(name: str) -> None:
    connection: Any = redis.Connection
    assert hasattr(connection(), name)


def no_handshake(*_: object) -> None:
    """Take a connection as it is."""


@pytest.mark.parametrize("connection_class", [redis.Connection, redis.UnixDomainSocketConnection])
def test_connecting_makes_the_socket_in_one_place(
    connection_class: type[AbstractConnection],
) -> None:
    """So that what is made there is what `disconnect` closes, and what a cut shuts down."""
    made, other = socket.socketpair()
    connection: Any = connection_class(redis_connect_func=no_handshake)
    connection._connect = lambda: made
    connection.connect()
    assert connection._sock is made
    connection.disconnect()
    assert made.fileno() == -1
    other.close()


def test_sending_takes_no_health_check() -> None:
    parameters = inspect.signature(redis.Connection.send_packed_command).parameters
    assert "check_health" in parameters


@pytest.mark.parametrize("name", ["connection_class", "connection_kwargs"])
def test_a_pool_has_the_attributes(name: str) -> None:
    assert hasattr(redis.ConnectionPool(), name)


def test_a_connection_by_sentinel_asks_its_pool_for_the_address() -> None:
    """Through an attribute that can be replaced."""
    client = Sentinel([("127.0.0.1", 1)]).master_for("mine")  # type: ignore[no-untyped-call]
    pool = client.connection_pool
    assert issubclass(pool.connection_class, SentinelManagedConnection)
    connection = pool.connection_class(**pool.connection_kwargs)
    assert isinstance(connection.connection_pool, SentinelConnectionPoolProxy)

    class Pool:
        is_master = True

        def get_master_address(self) -> tuple[str, int]:
            raise ZeroDivisionError

    connection.connection_pool = Pool()
    with pytest.raises(ZeroDivisionError):
        connection._connect_retry()
    client.close()


def test_every_connection_of_these_classes_can_be_cut() -> None:
    """With TLS and Sentinels too; what makes sockets of its own stands above."""
    for connection_class in (
        redis.Connection,
        SSLConnection,
        redis.UnixDomainSocketConnection,
        SentinelManagedConnection,
    ):
        cuttable = _redis_py._cuttable(connection_class)
        assert issubclass(cuttable, (_redis_py._Cuttable, connection_class))
        assert issubclass(cuttable, _redis_py._Cuttable)
