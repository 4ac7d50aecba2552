"""Helpers for testing a bus, and programs that use one."""

from __future__ import annotations

from ._cancelling import cancel_everywhere
from ._checks import WatchBusCheck, WatchBusFactory
from ._conformance import WATCHBUS_CHECKS, check_watchbus
from ._interrupting import interrupt_everywhere
from ._left import assert_nothing_left
from ._proxy import FaultDirection, FaultProxy, FaultProxyStatistics

__all__ = [
    "FaultDirection",
    "FaultProxy",
    "FaultProxyStatistics",
    "WATCHBUS_CHECKS",
    "WatchBusCheck",
    "WatchBusFactory",
    "assert_nothing_left",
    "cancel_everywhere",
    "check_watchbus",
    "interrupt_everywhere",
]

# Tracebacks and reprs show the name that users import.
for _name in __all__:
    if _name != "WATCHBUS_CHECKS":
        globals()[_name].__module__ = __name__
del _name
