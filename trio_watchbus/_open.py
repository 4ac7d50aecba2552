"""A bus by its URL."""

from __future__ import annotations

import re
from contextlib import AbstractAsyncContextManager
from typing import Any

from ._memory import InMemoryWatchBus
from ._redis._open import open_redis_watchbus
from ._remote._open import open_remote_watchbus
from .abc import WatchBus

_QUOTED = 80
"""Characters of an unknown URL that the error quotes."""


def open_watchbus(url: str, **options: Any) -> AbstractAsyncContextManager[WatchBus]:
    """Return the bus that `url` names, to be entered with ``async with``.

    Args:
        url: ``memory://``; ``redis://…``, ``rediss://…`` or ``unix://…``; ``http://…``,
            ``https://…``, ``ws://…`` or ``wss://…``.
        **options: passed on; see `InMemoryWatchBus`, `open_redis_watchbus` and
            `open_remote_watchbus`.

    Raises:
        TypeError: `url` is not a ``str``, or an option is unknown.
        ValueError: `url` is not a bus URL.
        ImportError: the bus needs an extra that is not installed; the error names it.
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
        f"unknown bus URL {_masked(url)!r}; supported: memory://, redis://, rediss://, unix://,"
        " http://, https://, ws://, wss://"
    )


def _masked(url: str) -> str:
    """Return what an error may quote of `url`: no user, password or query, and no great length."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    # Up to the last @, as a password may have some, and a ? or # too.
    _, at, rest = rest.rpartition("@")
    rest = re.split("[?#]", rest, maxsplit=1)[0]
    text = f"{scheme}{separator}{'***@' if at else ''}{rest}"
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…"
