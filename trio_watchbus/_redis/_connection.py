"""Connections to Redis: made by redis-py, used in threads, cut from the Trio side.

The only module that imports redis-py.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from hashlib import sha1
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry

from ._layout import SCRIPT, Command
from ._trouble import (
    BusyError,
    HopelessError,
    ReplicaError,
    TroubleError,
    UnknownScriptError,
    UnreachableError,
    refusal,
)

_SCRIPT_TEXT = (
    resources.files("trio_watchbus").joinpath("_redis", "_script.lua").read_text(encoding="utf-8")
)
_SCRIPT_NAME = sha1(_SCRIPT_TEXT.encode(), usedforsecurity=False).hexdigest()

_CONNECT_TIMEOUT = 5.0
"""Seconds in which a host has to accept, unless the client or URL says otherwise: one lost packet
costs one or three."""

_KINDS: list[tuple[type[RedisError], type[TroubleError]]] = [
    (AuthenticationError, HopelessError),
    (AuthorizationError, HopelessError),
    (NoPermissionError, HopelessError),
    (NoScriptError, UnknownScriptError),
    (BusyLoadingError, BusyError),
    (ReadOnlyError, ReplicaError),
]


def connection_maker(
    url_or_client: str | redis.Redis, *, timeout: float, name: str
) -> Callable[[], Link]:
    """Return what makes connections of this bus's own to the Redis that is named.

    A client's pool is neither used nor changed: its connections' class and arguments are taken.

    Args:
        url_or_client: ``redis://``, ``rediss://`` or ``unix://``, or a client of redis-py's.
        timeout: seconds that one answer may take.
        name: what ``CLIENT LIST`` shows.

    Raises:
        TypeError: it is neither.
        ValueError: the URL is none, names a database by more than a number, or the client decodes
            responses.
    """
    if isinstance(url_or_client, str):
        pool = _pool_of(url_or_client)
    elif isinstance(url_or_client, redis.Redis):
        pool = url_or_client.connection_pool
    else:
        raise TypeError(
            "a Redis bus takes a URL or a redis.Redis client of one server (not one of"
            f" redis.asyncio, and not a cluster's), not {type(url_or_client).__name__}"
        )
    arguments = {
        key: value
        for key, value in pool.connection_kwargs.items()
        # Of the pool's own matters, and of RESP3's notices to it.
        if key != "max_connections" and not key.startswith(("maint", "oss_cluster", "orig_"))
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
        # Answers alone, nothing pushed between them.
        "protocol": 2,
    }
    connection_class = _cuttable(pool.connection_class)
    try:
        connection_class(**arguments)
    except TypeError:
        problem = "it has an option that redis-py does not know"
    else:
        return lambda: Link(connection_class(**arguments))
    raise ValueError(f"not the URL of a Redis server: {problem}; look at what follows the ?")


def _pool_of(url: str) -> Any:
    try:
        pool = redis.ConnectionPool.from_url(url)
        # Where it is no number, redis-py takes database 0 without a word; a socket's is a file.
        if url.startswith("unix:") or re.fullmatch("/?[0-9]*", urlsplit(url).path):
            return pool
        problem = "the path of a Redis server's URL is the number of a database, or empty"
    except (ValueError, TypeError):
        problem = "not the URL of a Redis server"
    # Outside of the handler, as what redis-py and urllib say quotes parts of the URL.
    raise ValueError(
        f"{problem}; wanted redis://user:password@host:port/db, of which all but the host may be"
        " left out, rediss:// likewise, or unix:///path; a password's special characters are"
        " percent-encoded"
    )


class _Cuttable:
    """Holds a second handle on a connection's socket, by which another thread can shut it down.

    A handle of its own, as TLS takes the first one over, and held from before the connection is
    made. `_connect` is not redis-py's public interface, but has been the one place where it makes
    its socket since its version 2.
    """

    _handle: socket.socket | None = None
    _ended = False

    def _hold(self, made: socket.socket) -> None:
        self._handle = made.dup()
        if self._ended:
            raise ConnectionAbortedError("this connection was ended")

    def _release(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()

    def disconnect(self, *args: Any, **kwargs: Any) -> None:
        self._release()
        super().disconnect(*args, **kwargs)  # type: ignore[misc]


class _CuttableConnection(_Cuttable, redis.Connection):
    def _connect(self) -> socket.socket:
        problem = OSError(f"{self.host} has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(
            self.host, self.port, self.socket_type, socket.SOCK_STREAM
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
            return type(connection_class.__name__, (connection_class, cuttable), {})
    return connection_class


class Link:
    """One connection to Redis: used by one thread at a time, cut from another.

    It connects when it has to, and is disconnected by every failure.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._connected = False
        # In the connection, which looks at it when it has a socket that could be cut.
        connection._ended = False

    def connect(self) -> None:
        """Connect, if it is not connected; blocks.

        Between exchanges nothing comes but the end, so that a connection on which something came
        is replaced before anything is sent that nobody would know the fate of.

        Raises:
            TroubleError: it failed.
        """
        if self._connected and self._quiet():
            return
        self.disconnect()
        self._check()
        try:
            self._connection.connect()
        except (RedisError, OSError) as error:
            self.disconnect()
            raise _trouble(error) from error
        except UnicodeError:
            self.disconnect()
            problem = "the host's name, the user or the password has what none may have"
        except BaseException:
            self.disconnect()
            raise
        else:
            self._connected = True
            return
        # Outside of the handler, as that error quotes part of what may be secret.
        raise HopelessError(problem)

    def _quiet(self) -> bool:
        try:
            return not self._connection.can_read(0)
        except (RedisError, OSError):
            return False

    def exchange(self, *commands: Command) -> list[Any]:
        """Send `commands` together, and return their answers; blocks.

        A refusal is among the answers, as an exception.

        Raises:
            TroubleError: the connection failed; what was sent may have been done.
        """
        if not self._connected:
            self.connect()
        self._check()
        answers = self._exchange(
            [_called(command, "EVALSHA", _SCRIPT_NAME) for command in commands]
        )
        unknown = [i for i, answer in enumerate(answers) if isinstance(answer, UnknownScriptError)]
        if unknown:
            again = self._exchange([_called(commands[i], "EVAL", _SCRIPT_TEXT) for i in unknown])
            for i, answer in zip(unknown, again, strict=True):
                answers[i] = answer
        return answers

    def _exchange(self, commands: list[Command]) -> list[Any]:
        connection = self._connection
        try:
            connection.send_packed_command(
                connection.pack_commands(commands)
                if len(commands) > 1
                else connection.pack_command(*commands[0]),
                check_health=False,
            )
            return [self._answer() for _ in commands]
        except (RedisError, OSError) as error:
            self.disconnect()
            raise _trouble(error) from error
        except BaseException:
            self.disconnect()
            raise

    def _answer(self) -> Any:
        try:
            return self._connection.read_response()
        except ResponseError as error:
            return _trouble(error)

    @property
    def address(self) -> str:
        """Where it is, or was, connected: `host:port` or a path, if it has one; no secret."""
        pieces = dict(self._connection.repr_pieces())
        if "host" in pieces:
            return f"{pieces['host']}:{pieces['port']}"
        return str(pieces.get("path", "Redis"))

    @property
    def ended(self) -> bool:
        """Whether nothing connects any more."""
        ended: bool = self._connection._ended
        return ended

    def cut(self) -> None:
        """Wake the thread that is in `connect` or `exchange`, which fails; from any thread."""
        for held in (getattr(self._connection, "_handle", None), self._connection._sock):
            if held is not None:
                try:
                    held.shutdown(socket.SHUT_RDWR)
                except (OSError, ValueError):
                    # It is not connected, was closed meanwhile, or is fakeredis's.
                    continue

    def end(self) -> None:
        """Cut, and let nothing connect any more."""
        self._connection._ended = True
        self.cut()

    def disconnect(self) -> None:
        """Close the socket; does not block."""
        self._connected = False
        self._connection.disconnect()

    def _check(self) -> None:
        if self.ended:
            raise UnreachableError("this connection was ended")


def _called(command: Command, how: str, what: str) -> Command:
    """Return `command` as it is sent, a call of the script by `how` with `what`."""
    if command[0] != SCRIPT:
        return command
    return (how, what, 1, *command[1:])


def _trouble(error: RedisError | OSError) -> TroubleError:
    for kind, trouble in _KINDS:
        if isinstance(error, kind):
            return trouble(f"{error}")
    if isinstance(error, ResponseError):
        return refusal(f"{error}")
    found = refusal(f"{error}")
    # What a connection's failure says is Redis's word only where it is one of the known ones.
    return found if isinstance(found, (HopelessError, BusyError)) else UnreachableError(f"{error}")
