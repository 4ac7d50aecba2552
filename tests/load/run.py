"""Serves a thousand clients of which some misbehave, and thousands that idle, and measures it.

Takes two minutes. Fails where a client misses a message, where the bad ones slow the others down,
and where the server takes more memory than it should or does not end in good order.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from load.crowd import Crowd, assert_served, clients_of, serve_crowds, server

from trio_watchbus._bench._usage import memory

GOOD, BAD = 800, 200
MESSAGES, PAUSE, SIZE = 100, 0.5, 4000

CEILING = 120 * 2**20
"""Bytes of memory with a thousand clients: a fifth more than it takes."""

SLOWER = 2.0
FLOOR = 0.1
"""How many times as late as without the bad clients a message may be with them; or, where that is
less, within how many seconds: what other processes take of a busy machine."""

IDLE = 5000
BYTES_EACH = 40_000
GRACE = 5.0
SPARE = 2.0
"""Seconds that the process may take beside its grace: it cuts what is left, and ends."""

HEARTBEAT = 5.0


def compare_crowds() -> None:
    """Show that bad clients are no other client's trouble."""
    crowds = [Crowd(GOOD, bad, MESSAGES, PAUSE, SIZE) for bad in (0, BAD)]
    outcomes = serve_crowds(crowds, "--write-timeout", "2")
    for crowd, outcome in zip(crowds, outcomes, strict=True):
        print(
            f"{GOOD} clients beside {crowd.bad} bad ones: each message once to {outcome.complete},"
            f" median {outcome.quantile(0.5) * 1000:.0f} ms,"
            f" p99 {outcome.quantile(0.99) * 1000:.0f} ms,"
            f" {outcome.cut} bad ones cut or gone, peak {outcome.peak / 2**20:.0f} MiB",
            flush=True,
        )
        assert_served(crowd, outcome, CEILING)
    for share in (0.5, 0.99):
        without, beside = (outcome.quantile(share) for outcome in outcomes)
        assert beside <= max(SLOWER * without, FLOOR), f"{beside:.3f} s instead of {without:.3f} s"


def idle() -> None:
    """Show what an idle stream costs, and that all of them end in good order."""
    limits = ("--grace", f"{GRACE:g}", "--heartbeat", f"{HEARTBEAT:g}")
    with server(*limits) as serving:
        before = memory(serving.pid)
        with clients_of(serving, "idle", IDLE) as clients:
            # What idle streams are sent counts too.
            time.sleep(2 * HEARTBEAT)
            each = (memory(serving.pid) - before) / IDLE
            begin = time.monotonic()
            serving.terminate()
            clients.tell("read")
            ended = json.loads(clients.hear())
            seconds = time.monotonic() - begin
            serving.end()
            exit_seconds = time.monotonic() - begin
    print(
        f"{IDLE} idle streams: {each / 1000:.1f} kB each,"
        f" {ended['good']} ended in good order within {seconds:.1f} s of SIGTERM,"
        f" the server after {exit_seconds:.1f} s"
    )
    assert ended == {"good": IDLE, "problems": []}
    assert each <= BYTES_EACH
    assert seconds < GRACE
    assert exit_seconds < GRACE + SPARE


if __name__ == "__main__":
    compare_crowds()
    idle()
