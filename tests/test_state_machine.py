"""Whatever is done to a bus, it does what the naive model does."""

from __future__ import annotations

from bus_machine import BusMachine
from hypothesis import settings

from trio_watchbus import InMemoryWatchBus


class MemoryMachine(BusMachine):
    """The embedded bus."""

    factory = InMemoryWatchBus


TestMemory = MemoryMachine.TestCase
TestMemory.settings = settings(settings.default, stateful_step_count=40)
