"""The cases of `kosoku`, a suite that tries a WebSocket server or client, and their verdicts.

Its command is run, not its module, which changes the interpreter that imports it.
"""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Sequence
from pathlib import Path

KOSOKU = str(Path(sysconfig.get_path("scripts"), "kosoku"))

AT_ONCE = 4
"""Cases under way at a time: some wait."""

_PASSED = {"OK", "NON-STRICT", "INFORMATIONAL"}
"""What the suite itself takes for conforming."""

_COMPRESSION = {"12", "13"}
"""Groups of cases for compression, to which neither side agrees: see `_refuse_compression`."""

_CASES = 517
"""How many cases there are, so that none is left out unseen; a later suite may have more."""


_CLOCKS = ("wasServerConnectionDropTimeout", "wasOpenHandshakeTimeout", "wasCloseHandshakeTimeout")
"""What the suite says of a case in which something took more than the second that it gives."""

_CUT = "UNCLEAN"
"""Its verdict on a closing that it did not wait for either, without saying that a clock ran out."""


def assert_conforms(report: Path, cases: Sequence[str] = ()) -> list[str]:
    """Assert that all cases, or these, were run, and passed or needed compression.

    Returns:
        those that were not waited for to their end, on a busy machine: they are to be tried again
        by themselves, and then have to pass.
    """
    [(_, verdicts)] = json.loads((report / "index.json").read_text()).items()
    if cases:
        assert set(verdicts) == set(cases)
    else:
        assert len(verdicts) >= _CASES
    late = []
    failed = {}
    for case, verdict in verdicts.items():
        behavior, closing = verdict["behavior"], verdict["behaviorClose"]
        if case.partition(".")[0] in _COMPRESSION:
            expected = behavior == "UNIMPLEMENTED" and closing == "OK"
        else:
            expected = {behavior, closing} <= _PASSED
        if expected:
            continue
        details = json.loads((report / verdict["reportfile"]).read_text())
        if closing == _CUT or any(details[clock] for clock in _CLOCKS):
            late.append(case)
        else:
            failed[case] = (behavior, closing)
    assert not failed, failed
    return late


def only(cases: Sequence[str]) -> list[str]:
    """Return the arguments by which the suite runs these cases alone; all, if there are none."""
    return [argument for case in cases for argument in ("--include", case)]
