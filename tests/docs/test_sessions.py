"""Pages for contributors name the sessions of nox that there are."""

from __future__ import annotations

import re

from page_session import ROOT

# Each with whether nox leaves it out when it is run alone.
SESSIONS = {
    name: "default=False" in options
    for options, name in re.findall(
        r"^@nox\.session\b(.*)\n(?:@.*\n)*def (\w+)\(",
        (ROOT / "noxfile.py").read_text(),
        re.MULTILINE,
    )
}
NO_CHECKS = {"diagrams", "wheel"}


def named(page: str) -> list[str]:
    """The sessions that a page of the project runs by name."""
    runs = re.findall(r"\bnox -s ([a-z]+(?: [a-z]+)*)", (ROOT / page).read_text())
    return " ".join(runs).split()


def test_each_session_is_described_first_those_that_nox_runs_alone() -> None:
    described = list(dict.fromkeys(named("CONTRIBUTING.md")))
    assert sorted(described) == sorted(SESSIONS)
    assert sorted(described, key=lambda name: SESSIONS[name]) == described


def test_a_release_waits_for_every_session_that_checks() -> None:
    """`nox` runs the others."""
    left_out = {name for name, left_out in SESSIONS.items() if left_out}
    assert set(named("docs/release.md")) == left_out - NO_CHECKS
