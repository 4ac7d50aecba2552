"""Pauses between attempts, which those who lost one server do not all make alike."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from trio_watchbus._backoff import Backoff


async def pauses(count: int, backoff: Backoff) -> list[float]:
    """Pause so often; return how long each pause took."""
    took = []
    for _ in range(count):
        start = trio.current_time()
        await backoff.pause()
        took.append(trio.current_time() - start)
    return took


@pytest.mark.parametrize(("number", "longest"), [*enumerate([1.0, 2.0, 4.0, 5.0, 5.0, 5.0])])
async def test_pauses_double_up_to_a_bound_and_each_is_shorter_by_up_to_half(
    autojump_clock: MockClock, number: int, longest: float
) -> None:
    """So that who lost the same server does not come back at the same time."""
    seen = [(await pauses(number + 1, Backoff(1.0, 5.0)))[-1] for _ in range(50)]
    assert all(longest / 2 <= pause <= longest for pause in seen)
    assert len({round(pause, 6) for pause in seen}) > 40


async def test_pauses_begin_anew_after_a_reset(autojump_clock: MockClock) -> None:
    backoff = Backoff(1.0, 5.0)
    await pauses(5, backoff)
    backoff.reset()
    [pause] = await pauses(1, backoff)
    assert pause <= 1.0
