"""From a URL to a bus."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import urlsplit

from ._memory import InMemoryWatchBus
from .abc import WatchBus


def open_watchbus(url: str, **options: Any) -> AbstractAsyncContextManager[WatchBus]:
    """Return the bus that `url` names, to be entered with ``async with``.

    Args:
        url: ``memory://``.
        **options: passed on: see `InMemoryWatchBus`.

    Raises:
        TypeError: `url` is not a ``str``, or an option is unknown.
        ValueError: no bus has such a URL.
    """
    if not isinstance(url, str):
        raise TypeError(f"a bus URL is a str, not {type(url).__name__}")
    scheme = urlsplit(url).scheme
    if scheme == "memory":
        if url != "memory://":
            raise ValueError("memory:// takes nothing after it; pass options as arguments")
        return InMemoryWatchBus(**options)
    raise ValueError(f"no bus has the URL scheme {scheme!r}; known is memory")
