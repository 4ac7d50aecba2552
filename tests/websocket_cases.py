"""The cases of `kosoku`, a suite that tries a WebSocket server or client, and their verdicts.

Its command is run, not its module, which changes the interpreter that imports it.
"""

from __future__ import annotations

import json
import sysconfig
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


def assert_conforms(report: Path) -> None:
    """Assert that all cases were run, and passed or needed compression."""
    [(_, cases)] = json.loads((report / "index.json").read_text()).items()
    assert len(cases) >= _CASES
    others = {}
    for case, verdict in cases.items():
        behavior, closing = verdict["behavior"], verdict["behaviorClose"]
        if case.partition(".")[0] in _COMPRESSION:
            expected = behavior == "UNIMPLEMENTED" and closing == "OK"
        else:
            expected = {behavior, closing} <= _PASSED
        if not expected:
            others[case] = (behavior, closing)
    assert others == {}
