"""All faults, those that are quick to try first."""

from __future__ import annotations

from faults import core_faults, redis_faults, remote_faults, testing_faults, web_faults
from faults.fault import Fault, LuaFault

FAULTS: list[Fault | LuaFault] = [
    *core_faults.FAULTS,
    *testing_faults.FAULTS,
    *remote_faults.FAULTS,
    *web_faults.FAULTS,
    *redis_faults.FAULTS,
]
