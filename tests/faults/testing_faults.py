"""Faults of the tools for tests: each would make some other fault pass unseen."""

from __future__ import annotations

from faults.fault import Fault, drop, replace

TESTING = ("tests/test_testing.py",)
PROXY = ("tests/test_fault_proxy.py",)

FAULTS = [
    Fault(
        "a check may leave a watch",
        "WatchBusCheck.__call__",
        drop("assert_no_watches(handles)"),
        TESTING,
    ),
    Fault(
        "a check that hangs fails as too slow, and does not say what it checks",
        "WatchBusCheck.__call__",
        replace("trio.TooSlowError", "ZeroDivisionError"),
        TESTING,
    ),
    Fault(
        "a thread passes as idle by the beginning of its name",
        "_Held.now",
        replace("_IDLE_THREAD.fullmatch(...)", "_IDLE_THREAD.match(t.name)"),
        TESTING,
    ),
    Fault(
        "one quick attempt ends the cancelling",
        "cancel_everywhere",
        replace("_LATE_STEPS", "1"),
        TESTING,
    ),
    Fault(
        "a reset that the way back finds overtakes what was held",
        "_Forwarding.run",
        drop("await back._done.wait()"),
        PROXY,
    ),
    Fault(
        "a reset that the way back finds is passed on as an end",
        "_Forwarding.run",
        drop("back._source_is_gone = True"),
        PROXY,
    ),
]
