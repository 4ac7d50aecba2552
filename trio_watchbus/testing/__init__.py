"""What helps to test a bus, and programs that use one."""

from __future__ import annotations

from ._proxy import FaultDirection, FaultProxy, FaultProxyStatistics

__all__ = ["FaultDirection", "FaultProxy", "FaultProxyStatistics"]

for _name in __all__:
    globals()[_name].__module__ = __name__
del _name
