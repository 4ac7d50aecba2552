"""Everything that is imported from ``trio_watchbus``."""

from __future__ import annotations

from . import abc
from ._errors import (
    BusUnavailableError,
    HistoryLostError,
    InvalidKeyError,
    InvalidPositionError,
    MessageTooLargeError,
    PublishUnknownError,
    WatchBusError,
    WatchLaggedError,
)
from ._memory import InMemoryWatchBus
from ._message import Message
from ._open import open_watchbus
from ._redis._bus import RedisWatchBus
from ._redis._open import open_redis_watchbus
from ._remote._bus import RemoteWatchBus
from ._remote._open import open_remote_watchbus
from ._retention import Retention
from ._statistics import BusStatistics, RedisBusStatistics, RemoteBusStatistics, WatchStatistics

__all__ = [
    "BusStatistics",
    "BusUnavailableError",
    "HistoryLostError",
    "InMemoryWatchBus",
    "InvalidKeyError",
    "InvalidPositionError",
    "Message",
    "MessageTooLargeError",
    "PublishUnknownError",
    "RedisBusStatistics",
    "RedisWatchBus",
    "RemoteBusStatistics",
    "RemoteWatchBus",
    "Retention",
    "WatchBusError",
    "WatchLaggedError",
    "WatchStatistics",
    "abc",
    "open_redis_watchbus",
    "open_remote_watchbus",
    "open_watchbus",
]

# Tracebacks and reprs show the name that users import.
for _name in __all__:
    if _name != "abc":
        globals()[_name].__module__ = __package__
del _name
