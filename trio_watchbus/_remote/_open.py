"""Opening and leaving a remote bus."""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio

from .._errors import check_trio_runs, raise_what_ended
from ._address import Address
from ._bus import RemoteWatchBus

_LEAST_FRAME_SIZE = 65_536
"""Bytes that every frame but those of messages fits into."""

_TOKEN = re.compile("[!-~]+", re.ASCII)


def open_remote_watchbus(
    url: str,
    *,
    token: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    timeout: float = 15.0,
    connect_timeout: float = 10.0,
    heartbeat: float = 15.0,
    heartbeat_timeout: float = 10.0,
    max_frame_size: int = 8 * 1024 * 1024,
) -> AbstractAsyncContextManager[RemoteWatchBus]:
    """Return a bus that a server serves over the network, to be entered with ``async with``.

    All its watches and publishes share one WebSocket. When that breaks, the bus reconnects by
    itself, after pauses that grow until a connection brings something new or lasts some seconds.
    Watches resume where they were, or raise `WatchLaggedError` if the server no longer holds what
    follows. Publishes are sent again, and stored once. An error that needs other settings (another
    token, for example) ends the watches with `trio.BrokenResourceError`, cancels the body of the
    ``async with``, and is raised there as a `BusUnavailableError`. Leaving the bus takes less than
    a second, whatever the server does.

    A watch that replays lets the server send as many messages as its buffer has room for; the rest
    waits in the server's journal. Watches of the other overflow kinds drop messages here, and at
    the server if the network is slow.

    Args:
        url: ``http://host[:port][/path]``, or likewise with ``https``, ``ws`` or ``wss``, where
            path is what the routes are mounted under.
        token: sent as a bearer token, for a proxy or an app in front of the routes: `serve` and
            ``watchbus serve`` check none. Shown nowhere.
        ssl_context: for ``https`` and ``wss``; `ssl.create_default_context` makes one otherwise.
        timeout: seconds that a publish may take over all attempts, above 0; also the limit for
            opening a watch, for the next part of its history, and for queries. The default is
            longer than a bus over Redis needs to report that it stored nothing.
        connect_timeout: seconds within which a connection must be established, above 0.
        heartbeat: seconds of silence after which the client pings the server, above 0.
        heartbeat_timeout: seconds that the server then has to send something, above 0, before the
            connection counts as lost.
        max_frame_size: bytes of one frame of the server that are read, at least 65536. A watch
            whose messages come in a longer one raises `WatchLaggedError` and goes on after them. A
            message may take six times its size on the wire, and a server whose
            ``max_message_size`` is not raised sends no frame longer than the default. Memory grows
            with it, by up to 40 MiB at the default, and so does the time to parse such a frame,
            during which nothing else runs: 0.5 to 2 milliseconds a MiB. Frames of more than 200,000
            strings, names of fields included, are treated as too long.

    Raises:
        ImportError: trio-websocket is not installed.
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range, or the URL is not that of a served bus.
        BusUnavailableError: on entering: the server cannot be reached, or refuses; it says what.
    """
    try:
        from ._link import LinkOptions  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ImportError(
            "a remote bus needs trio-websocket: pip install 'trio-watchbus[client]'"
        ) from error
    if not isinstance(url, str):
        raise TypeError(f"a bus URL is a str, not {type(url).__name__}")
    address = Address.parse(url)
    if ssl_context is not None and not address.tls:
        raise ValueError("ssl_context is for https:// and wss:// URLs")
    for name, seconds in (
        ("timeout", timeout),
        ("connect_timeout", connect_timeout),
        ("heartbeat", heartbeat),
        ("heartbeat_timeout", heartbeat_timeout),
    ):
        if not seconds > 0:
            raise ValueError(f"{name} must be above 0 s, not {seconds}")
    if max_frame_size < _LEAST_FRAME_SIZE:
        raise ValueError(
            f"max_frame_size must be at least {_LEAST_FRAME_SIZE}, not {max_frame_size}"
        )
    options = LinkOptions(
        address=address,
        headers=() if token is None else ((b"Authorization", _bearer(token)),),
        ssl_context=ssl_context or (ssl.create_default_context() if address.tls else None),
        connect_timeout=connect_timeout,
        heartbeat=heartbeat,
        heartbeat_timeout=heartbeat_timeout,
        max_frame_size=max_frame_size,
    )
    return _opened(RemoteWatchBus(options, timeout))


@asynccontextmanager
async def _opened(bus: RemoteWatchBus) -> AsyncIterator[RemoteWatchBus]:
    """Run `bus` for as long as the body runs; raise the body's error as it is, in no group."""
    check_trio_runs()
    error: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(bus._run)
            with bus._body:
                yield bus
            await bus._leave()
        except BaseException as raised:  # noqa: BLE001
            error = raised
            bus.close()
        nursery.cancel_scope.cancel()
    raise_what_ended(error, bus._failure)


def _bearer(token: str) -> bytes:
    if not isinstance(token, str):
        raise TypeError(f"a token is a str, not {type(token).__name__}")
    if not _TOKEN.fullmatch(token):
        raise ValueError("a token is of printable ASCII characters, without spaces")
    return b"Bearer " + token.encode()
