"""Many clients of a server process at once, of which some misbehave."""

from __future__ import annotations

import trio
from load.crowd import Crowd, assert_served, serve_crowds

CEILING = 100 * 2**20
"""Bytes of memory: a third more than it takes, and less than if all that is sent to the ten who do
not read or hardly (5 MB each) were held for them."""


async def test_bad_clients_cost_the_others_no_message_and_the_server_little_memory() -> None:
    """Of 100, 5 never read, 5 read a byte a second, and 10 vanish while messages are on the way."""
    crowd = Crowd(good=80, bad=20, messages=100, pause=0.02, size=50_000)
    [outcome] = await trio.to_thread.run_sync(serve_crowds, [crowd], "--write-timeout", "1")
    assert_served(crowd, outcome, CEILING)
