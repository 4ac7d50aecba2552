"""From a URL to a bus."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

from ._memory import InMemoryWatchBus
from ._redis._open import open_redis_watchbus
from ._remote._open import open_remote_watchbus
from .abc import WatchBus


def open_watchbus(url: str, **options: Any) -> AbstractAsyncContextManager[WatchBus]:
    """Return the bus that `url` names, to be entered with ``async with``.

    Args:
        url: ``memory://``; ``redis://…``, ``rediss://…`` or ``unix://…``; ``http://…``,
            ``https://…``, ``ws://…`` or ``wss://…``.
        **options: passed on: see `InMemoryWatchBus`, `open_redis_watchbus` and
            `open_remote_watchbus`.

    Raises:
        TypeError: `url` is not a ``str``, or an option is unknown.
        ValueError: `url` is not a bus URL.
        ImportError: what the bus needs is not installed; it says what.
    """
    if not isinstance(url, str):
        raise TypeError(f"a bus URL is a str, not {type(url).__name__}")
    # Not by urlsplit, whose errors quote a password that may be there.
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower() if separator else ""
    if scheme == "memory":
        if rest:
            raise ValueError("memory:// takes nothing after it; pass options as arguments")
        return InMemoryWatchBus(**options)
    if scheme in ("redis", "rediss", "unix"):
        return open_redis_watchbus(url, **options)
    if scheme in ("http", "https", "ws", "wss"):
        return open_remote_watchbus(url, **options)
    raise ValueError(
        "no bus has such a URL; wanted is one that starts with memory://, redis://, rediss://,"
        " unix://, http://, https://, ws:// or wss://"
    )
