"""Options that say what a bus keeps are refused where the bus has none of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("publish", "--retain-keys", "5", "k", "x"),
            "--retain-keys: a served bus has the settings",
        ),
        (("watch", "k", "--namespace", "n"), "--namespace: a served bus has the settings"),
        (("serve", "--namespace", "n"), "--namespace: only a bus over Redis has this"),
        (("serve", "--change-retention"), "--change-retention: only a bus over Redis has this"),
        (("serve", "--retain-messages", "0"), "'--retain-messages'"),
    ],
)
def test_what_a_bus_does_not_have_is_refused(arguments: tuple[str, ...], said: str) -> None:
    refused = subprocess.run(
        [sys.executable, "-m", "trio_watchbus", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert refused.returncode == 2
    assert said in refused.stderr
