"""All that relies on private parts of redis-py: connections that another thread can cut.

`tests/redis_bus/test_redis_py.py` names each of these parts. They have been there since redis-py 6;
`pyproject.toml` excludes major versions that were not tried.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import SentinelManagedConnection

from ._abandonable import Abandonable

_CONNECT_TIMEOUT = 5.0
"""Seconds in which a host has to be found and to accept, unless the client or URL says otherwise:
one lost packet costs one or three."""

_OF_THE_POOL = ("maint", "oss_cluster", "orig_")
"""How the names of arguments begin that a pool gives its connections for its own matters, and for
notices of RESP3."""


def connection_factory(pool: Any, *, timeout: float, name: str) -> Callable[[], Any]:
    """Return what makes connections like those of `pool`, which can be cut.

    Args:
        pool: a pool of redis-py's; it is neither used nor changed.
        timeout: seconds that one reply may take.
        name: what ``CLIENT LIST`` shows, unless the pool has a name.

    Raises:
        TypeError: the pool has an argument that its connections do not know.
        ValueError: its connections decode responses.
    """
    arguments = {
        key: value
        for key, value in pool.connection_kwargs.items()
        if key != "max_connections" and not key.startswith(_OF_THE_POOL)
    }
    if arguments.get("decode_responses"):
        raise ValueError(
            "decode_responses=True would break data that is not text;"
            " give the bus a client or URL without it"
        )
    arguments |= {
        # The bus retries by itself: only it knows what may be sent twice.
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
        "retry_on_error": [],
        "health_check_interval": 0,
        "socket_timeout": timeout,
        "socket_connect_timeout": arguments.get("socket_connect_timeout") or _CONNECT_TIMEOUT,
        "client_name": arguments.get("client_name") or name,
        # Replies alone, nothing pushed between them.
        "protocol": 2,
    }
    connection_class = _cuttable(pool.connection_class)
    connection_class(**arguments)
    return lambda: connection_class(**arguments)


def cut(connection: Any, *, end: bool = False) -> None:
    """Wake the thread that connects or waits for a reply; with `end`, for good. From any thread."""
    if isinstance(connection, _Cuttable):
        connection.cut(end=end)
    else:
        _shut_down(connection._sock)


def _shut_down(held: Any) -> None:
    if held is not None:
        # It is not connected, or was closed meanwhile.
        with suppress(OSError, ValueError):
            held.shutdown(socket.SHUT_RDWR)


def take_last_words(connection: Any) -> str:
    """Return the error that the server sent before it closed the connection, if it was not read."""
    words: str = getattr(connection, "last_words", "")
    if words:
        connection.last_words = ""
    return words


def was_accepted(connection: Any) -> bool:
    """Return whether the host accepted the newest connection."""
    return getattr(connection, "accepted", False)


_NEEDED: list[tuple[str, ...]] = [
    ("CLIENT", "SETNAME", "watchbus"),
    ("EVAL", "return 1", "1", "watchbus:probe"),
    ("XREAD", "STREAMS", "watchbus:probe", "0-0"),
]
"""Commands of each kind that the bus needs, as any server answers them: with an error maybe."""


def find_closing_command(connection: Any) -> str | None:
    """Return a command on which the server closes the connection, although it answers PING.

    No server does that, but a proxy may that does not know the command. Opens connections of its
    own, and closes them; blocks.
    """
    for command in _NEEDED:
        made = connection._connect()
        try:
            if not _reply(made, "PING").startswith((b"+PONG", b"-NOAUTH")):
                return None
            if not _reply(made, *command):
                return " ".join(command[:2]) if command[0] == "CLIENT" else command[0]
        finally:
            made.close()
            connection.disconnect()
    return None


def _reply(made: socket.socket, *command: str) -> bytes:
    """Return the beginning of what the server answers; nothing if it closes the connection."""
    words = "".join(f"${len(word)}\r\n{word}\r\n" for word in command)
    try:
        made.sendall(f"*{len(command)}\r\n{words}".encode())
        return made.recv(1024)
    except ConnectionError:
        return b""


def address_of(connection: Any) -> str:
    """Return where it is, or was, connected: `host:port` or a path; no secret."""
    pieces = dict(connection.repr_pieces())
    if "host" in pieces:
        return f"{pieces['host']}:{pieces['port']}"
    return str(pieces.get("path", "Redis"))


class _Cuttable:
    """Holds a second handle on a connection's socket, so that another thread can shut it down.

    A handle of its own, as TLS takes the first one over, and from before it connects.
    """

    def __init__(self, **arguments: Any) -> None:
        # Held while the handle is used or closed, so that no other socket gets its number then.
        self._handle_lock = threading.Lock()
        self._handle: socket.socket | None = None
        self._sock: Any = None
        self._ended = False
        self._lookups = Abandonable()
        self.last_words = ""
        self.accepted = False
        super().__init__(**arguments)

    def cut(self, *, end: bool = False) -> None:
        self._lookups.wake(end=end)
        with self._handle_lock:
            self._ended |= end
            # fakeredis's have no handle.
            _shut_down(self._handle or self._sock)

    def _hold(self, made: socket.socket) -> None:
        with self._handle_lock:
            if self._ended:
                raise ConnectionAbortedError("this connection was ended")
            self._handle = made.dup()

    def _release(self) -> None:
        with self._handle_lock:
            handle, self._handle = self._handle, None
            if handle is not None:
                self.last_words = _unread_error(handle)
                handle.close()

    def disconnect(self, *args: Any, **kwargs: Any) -> None:
        self._release()
        super().disconnect(*args, **kwargs)  # type: ignore[misc]


def _unread_error(handle: socket.socket) -> str:
    """Return the error that is there to be read.

    A server that refuses a connection says why and closes it. To send something then may fail
    first.
    """
    try:
        data = handle.recv(1024, socket.MSG_DONTWAIT)
    except OSError:
        return ""
    line = data.partition(b"\r\n")[0]
    return line[1:].decode(errors="replace") if line.startswith(b"-") else ""


class _CuttableConnection(_Cuttable, redis.Connection):
    def _connect(self) -> socket.socket:
        self.accepted = False
        problem = OSError(f"{self.host} has no address")
        for family, kind, protocol, _, address in self._lookups.call(
            f"looking up {self.host}",
            self.socket_connect_timeout or _CONNECT_TIMEOUT,
            socket.getaddrinfo,
            self.host,
            self.port,
            self.socket_type,
            socket.SOCK_STREAM,
        ):
            made = socket.socket(family, kind, protocol)
            try:
                self._hold(made)
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in (self.socket_keepalive_options or {}).items():
                    made.setsockopt(socket.IPPROTO_TCP, option, value)
                made.settimeout(self.socket_connect_timeout)
                made.connect(address)
                made.settimeout(self.socket_timeout)
            except OSError as error:
                made.close()
                self._release()
                problem = error
            else:
                self.accepted = True
                return made
        raise problem


class _CuttableUnixConnection(_Cuttable, redis.UnixDomainSocketConnection):
    def _connect(self) -> socket.socket:
        made: socket.socket = super()._connect()  # type: ignore[no-untyped-call]
        try:
            self._hold(made)
        except OSError:
            made.close()
            raise
        return made


class _FromSentinels:
    """Asks the Sentinels for the master's address in a way that can be cut.

    Their client is the application's, and may wait for as long as its timeouts say.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.connection_pool: Any = _Sentinels(self.connection_pool, self)


class _Sentinels:
    """A pool's part that a connection uses, with another way to ask for the master's address."""

    def __init__(self, pool: Any, connection: Any) -> None:
        self._pool = pool
        self._connection = connection

    def get_master_address(self) -> Any:
        connection = self._connection
        return connection._lookups.call(
            "asking the Sentinels for the master",
            connection.socket_connect_timeout or _CONNECT_TIMEOUT,
            self._pool.get_master_address,
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


def _cuttable(connection_class: type[Any]) -> type[Any]:
    """Return a class like `connection_class` whose connections can be cut."""
    for plain, cuttable in (
        (redis.Connection, _CuttableConnection),
        (redis.UnixDomainSocketConnection, _CuttableUnixConnection),
    ):
        if connection_class is plain:
            return cuttable
        if issubclass(connection_class, plain):
            # Just above `plain`, so below TLS and Sentinel.
            bases: tuple[type[Any], ...] = (connection_class, cuttable)
            if issubclass(connection_class, SentinelManagedConnection):
                bases = (_FromSentinels, *bases)
            return type(connection_class.__name__, bases, {})
    return connection_class
