"""From a URL to a bus."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import urlsplit

from ._memory import InMemoryWatchBus
from ._redis._bus import open_redis_watchbus
from .abc import WatchBus


def open_watchbus(url: str, **options: Any) -> AbstractAsyncContextManager[WatchBus]:
    """Return the bus that `url` names, to be entered with ``async with``.

    Args:
        url: ``memory://``, ``redis://…``, ``rediss://…`` or ``unix://…``.
        **options: passed on: see `InMemoryWatchBus` and `open_redis_watchbus`.

    Raises:
        TypeError: `url` is not a ``str``, or an option is unknown.
        ValueError: no bus has such a URL.
        ImportError: what the bus needs is not installed; it says what.
    """
    if not isinstance(url, str):
        raise TypeError(f"a bus URL is a str, not {type(url).__name__}")
    scheme = urlsplit(url).scheme
    if scheme == "memory":
        if url != "memory://":
            raise ValueError("memory:// takes nothing after it; pass options as arguments")
        return InMemoryWatchBus(**options)
    if scheme in ("redis", "rediss", "unix"):
        return open_redis_watchbus(url, **options)
    raise ValueError(
        f"no bus has the URL scheme {scheme!r}; known are memory, redis, rediss and unix"
    )
