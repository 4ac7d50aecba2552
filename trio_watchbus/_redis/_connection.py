"""Connections to Redis: made by redis-py, used in threads, cut from the Trio side."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import redis
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

from . import _script
from ._backend_errors import (
    BackendError,
    BusyError,
    MisconfiguredError,
    NotConnectedError,
    PermanentError,
    RefusedError,
    ReplicaError,
    UnknownScriptError,
    UnreachableError,
    refusal,
)
from ._layout import SCRIPT, Command
from ._redis_py import (
    address_of,
    connection_factory,
    cut,
    find_closing_command,
    take_last_words,
    was_accepted,
)

_KINDS: list[tuple[type[RedisError], type[BackendError]]] = [
    (AuthenticationError, PermanentError),
    (AuthorizationError, PermanentError),
    (NoPermissionError, PermanentError),
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
    try:
        make = connection_factory(pool, timeout=timeout, name=name)
    except TypeError:
        problem = "it has an option that redis-py does not know"
    else:
        return lambda: Link(make())
    # Outside of the handler, as what redis-py says may quote parts of the URL.
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


class Link:
    """One connection to Redis: used by one thread at a time, cut from any.

    It connects when it has to, and is disconnected by every failure.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._connected = False
        self._ended = False

    def connect(self) -> None:
        """Connect, if it is not connected; blocks.

        Raises:
            BackendError: it failed.
        """
        if self._is_usable():
            return
        self.disconnect()
        self._check()
        try:
            self._connection.connect()
        except (RedisError, OSError) as error:
            self.disconnect()
            raise _why_not_connected(error, take_last_words(self._connection)) from error
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
        raise PermanentError(problem)

    def _is_usable(self) -> bool:
        """Whether it is connected and quiet.

        Between exchanges nothing comes but the end, so a connection on which something came is
        replaced before anything is sent that nobody would know the fate of.
        """
        try:
            return self._connected and not self._connection.can_read(0)
        except (RedisError, OSError):
            return False

    def exchange_if_connected(self, *commands: Command) -> list[Any]:
        """As `exchange`, but it does not connect.

        Raises:
            NotConnectedError: there is no usable connection; nothing was sent.
        """
        if not self._is_usable():
            raise NotConnectedError("there is no connection")
        return self.exchange(*commands)

    def exchange(self, *commands: Command) -> list[Any]:
        """Send `commands` together, and return their replies; blocks.

        A refusal is among the replies, as an exception.

        Raises:
            BackendError: the connection failed; what was sent may have been done.
        """
        if not self._connected:
            self.connect()
        self._check()
        replies = self._exchange(
            [_called(command, "EVALSHA", _script.DIGEST) for command in commands]
        )
        unknown = [i for i, reply in enumerate(replies) if isinstance(reply, UnknownScriptError)]
        if unknown:
            again = self._exchange([_called(commands[i], "EVAL", _script.TEXT) for i in unknown])
            for i, reply in zip(unknown, again, strict=True):
                replies[i] = reply
        if any(isinstance(reply, ReplicaError) for reply in replies):
            # A server that became one keeps its connections; the address may lead to another.
            self.disconnect()
        return replies

    def _exchange(self, commands: list[Command]) -> list[Any]:
        connection = self._connection
        try:
            connection.send_packed_command(
                connection.pack_commands(commands)
                if len(commands) > 1
                else connection.pack_command(*commands[0]),
                check_health=False,
            )
            return [self._reply() for _ in commands]
        except (RedisError, OSError) as error:
            self.disconnect()
            raise _backend_error(error) from error
        except BaseException:
            self.disconnect()
            raise

    def _reply(self) -> Any:
        try:
            return self._connection.read_response()
        except ResponseError as error:
            return _backend_error(error)

    def check_scripts_are_allowed(self) -> None:
        """Run a script that the server cannot have cached: a cached one takes no ``EVAL``.

        Raises:
            BackendError: it failed.
        """
        [reply] = self.exchange(("EVAL", "return 1", 0))
        if isinstance(reply, RefusedError):
            raise reply

    @property
    def was_closed(self) -> bool:
        """Whether the newest connection was accepted, and closed by the server since."""
        return was_accepted(self._connection) and not self._connected

    def check_for_proxy(self) -> None:
        """Find out why the server closed a connection that it had accepted; blocks.

        Raises:
            MisconfiguredError: it is a proxy that does not know what the bus needs.
        """
        with suppress(RedisError, OSError):
            command = find_closing_command(self._connection)
            if command is not None:
                raise MisconfiguredError(
                    f"{self.address} answers PING, but closes the connection on {command}, as a"
                    " proxy such as twemproxy does that does not pass on scripts and streams;"
                    " give the bus the address of Redis itself"
                )

    @property
    def address(self) -> str:
        """Where it is, or was, connected: `host:port` or a path, if it has one; no secret."""
        return address_of(self._connection)

    @property
    def ended(self) -> bool:
        """Whether nothing connects any more."""
        return self._ended

    def cut(self) -> None:
        """Wake the thread that is in `connect` or `exchange`, which fails; from any thread."""
        cut(self._connection)

    def end(self) -> None:
        """Cut, and let nothing connect any more; from any thread."""
        self._ended = True
        cut(self._connection, end=True)

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


def _why_not_connected(error: RedisError | OSError, last_words: str) -> BackendError:
    """Return an error for why no connection was made, with what the server said, if anything."""
    found = _backend_error(error)
    if not last_words or isinstance(found, RefusedError):
        return found
    said = refusal(last_words)
    if isinstance(said, (PermanentError, BusyError)):
        return said
    return UnreachableError(f"{error} ({last_words})")


def _backend_error(error: RedisError | OSError) -> BackendError:
    for kind, ours in _KINDS:
        if isinstance(error, kind):
            return ours(f"{error}")
    found = refusal(f"{error}")
    if isinstance(error, ResponseError) or isinstance(found, (PermanentError, BusyError)):
        return found
    # What a connection's failure says is Redis's word only where it is one of the known ones.
    return UnreachableError(f"{error}")
