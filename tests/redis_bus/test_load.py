"""The checker of the fault tests finds what it is there to find."""

from __future__ import annotations

import pytest
from redis_bus.load import END, LOST, Account, Seen, check

STORED = [("a", False, f"e-{number}", f"m{number}") for number in range(1, 101)]


def saw(*events: tuple[str, str] | range, covers: tuple[list[str], list[str]] = ([], [""])) -> None:
    """Check what a watch saw: messages by their numbers, and losses; then the end."""
    seen = Seen(*covers)
    for event in events:
        if isinstance(event, range):
            seen.events += [(f"e-{number}", f"m{number}") for number in event]
        else:
            seen.events.append(event)
    seen.events.append(("e-101", END))
    check([Account(stored=STORED, seen=[seen])])


@pytest.mark.parametrize("covers", [([], [""]), (["a"], [])], ids=["everything", "one key"])
def test_what_is_whole_or_told_passes(covers: tuple[list[str], list[str]]) -> None:
    saw(range(1, 101), covers=covers)
    saw(range(1, 41), (LOST, "50"), range(91, 101), covers=covers)
    saw(range(1, 41), (LOST, "20"), (LOST, "30"), range(91, 101), covers=covers)
    saw(range(1, 41), (LOST, ""), range(91, 101), covers=covers)


@pytest.mark.parametrize("covers", [([], [""]), (["a"], [])], ids=["everything", "one key"])
@pytest.mark.parametrize(
    ("events", "problem"),
    [
        ([range(51, 101)], "lost unseen"),
        ([range(1, 51)], "lost unseen"),
        ([range(1, 41), range(42, 101)], "lost unseen"),
        ([range(1, 41), (LOST, "49"), range(91, 101)], "than"),
        ([range(1, 41), (LOST, "1"), (LOST, "48"), range(91, 101)], "than"),
        ([range(1, 101), range(100, 101)], "twice"),
        ([range(1, 40), range(41, 42), range(40, 41), range(42, 101)], "out of order"),
        ([("e-1", "nobody's"), range(2, 101)], "nobody published"),
    ],
)
def test_what_is_not_is_found(
    events: list[tuple[str, str] | range], problem: str, covers: tuple[list[str], list[str]]
) -> None:
    with pytest.raises(AssertionError, match=problem):
        saw(*events, covers=covers)
