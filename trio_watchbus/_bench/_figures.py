"""What was measured, and how it is shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How much work one run does.

    Attributes:
        clients: watches, SSE streams or WebSockets; for publishing, connections.
        keys: different keys that are watched or published to, in turn.
        size: bytes of data in each message.
        rate: messages published a second; 0 for as fast as it goes.
        messages: messages published.
        seconds: when the run stops, whatever has come by then.
    """

    clients: int
    keys: int
    size: int
    rate: float
    messages: int
    seconds: float

    def expected(self) -> int:
        """Return how many deliveries a run makes that loses nothing.

        Client number i watches key number i modulo `keys`; messages go to the keys in turn.
        """
        rounds, rest = divmod(self.messages, self.keys)
        watched, odd = divmod(self.clients, self.keys)
        return rounds * self.clients + rest * watched + min(rest, odd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Seconds, at percentiles.

    Attributes:
        samples: deliveries or requests that were timed.
        p50: half of them took at most so long.
        p90: as `p50`, nine in ten.
        p99: as `p50`, 99 in 100.
        highest: the longest of them.
    """

    samples: int
    p50: float
    p90: float
    p99: float
    highest: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency | None:
        """Return the percentiles of `seconds`, or None when nothing was timed."""
        if not seconds:
            return None
        ordered = sorted(seconds)
        p50, p90, p99 = (
            ordered[min(len(ordered) * percent // 100, len(ordered) - 1)]
            for percent in (50, 90, 99)
        )
        return cls(samples=len(ordered), p50=p50, p90=p90, p99=p99, highest=ordered[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One row: what a run did.

    Attributes:
        bench: which one.
        load: what it was asked to do.
        expected: deliveries, or for publishing accepted messages, that should have been.
        delivered: how many there were.
        seconds: from the first publish to the last delivery; where some are missing, perhaps until
            the run ended.
        latency: from publish to delivery, sampled; for publishing, from request to response.
        cpu: seconds of processor that the bus or server took meanwhile; None when it is another's.
        memory: the most bytes that its process had resident; None when it is another's.
    """

    bench: str
    load: Load
    expected: int
    delivered: int
    seconds: float
    latency: Latency | None
    cpu: float | None
    memory: int | None

    @property
    def per_second(self) -> float:
        """Delivered a second."""
        return self.delivered / self.seconds if self.seconds > 0 else 0.0


_SHARED_SECONDS = 0.5
"""Seconds that a run takes of which the share of a processor is shown: Linux counts in hundredths
of one, and the process is asked a little before and after the run."""

_COLUMNS = (
    *("bench", "clients", "keys", "bytes", "rate", "delivered", "lost", "per second"),
    *("p50 ms", "p90 ms", "p99 ms", "max ms", "CPU", "memory"),
)


def as_json(rows: Sequence[Figures]) -> str:
    """Return the rows as a JSON array of objects; times in seconds, memory in bytes."""
    return json.dumps([{**asdict(row), "per_second": row.per_second} for row in rows], indent=2)


def as_table(rows: Sequence[Figures]) -> str:
    """Return the rows as text in columns."""
    cells = [_COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in cells
    )


def _cells(row: Figures) -> tuple[str, ...]:
    load, latency = row.load, row.latency
    times = (latency.p50, latency.p90, latency.p99, latency.highest) if latency else (None,) * 4
    return (
        row.bench,
        f"{load.clients:,}",
        f"{load.keys:,}",
        f"{load.size:,}",
        f"{load.rate:,g}" if load.rate else "full",
        f"{row.delivered:,}",
        f"{row.expected - row.delivered:,}",
        f"{row.per_second:,.0f}",
        *("-" if time is None else f"{time * 1000:.2f}" for time in times),
        "-" if row.cpu is None or row.seconds < _SHARED_SECONDS else f"{row.cpu / row.seconds:.0%}",
        "-" if row.memory is None else f"{row.memory / 2**20:,.0f} MiB",
    )
