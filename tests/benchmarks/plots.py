"""How cost grows with the work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from .charts import line_chart
from .contest import Work, work

_WATCHES = (1000, 3000, 10_000, 30_000, 100_000)
_SIZES = (16, 256, 1024, 4096, 16_384, 65_536)
_CLIENTS = (100, 300, 1000, 2000, 5000)
_DELIVERIES = 300_000
"""In one run in memory."""
_SENT = 60_000
"""Deliveries in one run over sockets."""
_SENT_BYTES = 200_000_000
"""The most that one run sends."""


@dataclass(frozen=True)
class Plot:
    """A chart to be measured.

    Attributes:
        name: of its file.
        title: what is shown.
        x_label: what grows.
        y_label: what is measured.
        values: how it grows.
        lines: by the name of each line, the work at a value.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    values: tuple[int, ...]
    lines: dict[str, Callable[[int], Work]]


def draw(folder: Path, runs: int, *, quick: bool, tell: Callable[[str], None]) -> None:
    """Measure and write every plot, as ``benchmarks-….svg`` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for plot in PLOTS:
        lines: dict[str, list[tuple[float, float]]] = {name: [] for name in plot.lines}
        for value in plot.values[:2] if quick else plot.values:
            sides = {name: at(value) for name, at in plot.lines.items()}
            figures: dict[str, list[float]] = {name: [] for name in sides}
            for number in range(runs):
                tell(f"{plot.title}: {value:,} ({number + 1}/{runs})")
                for name, side in sides.items():
                    figures[name].append((side.quick() if quick else side).run())
            for name in sides:
                lines[name].append((value, median(figures[name])))
        chart = line_chart(plot.title, plot.x_label, plot.y_label, lines)
        (folder / f"benchmarks-{plot.name}.svg").write_text(chart)


def _on_one_key(module: str, function: str, **how: int | str) -> Callable[[int], Work]:
    return lambda watches: work(
        module,
        function,
        watches=watches,
        keys=1,
        messages=max(3, _DELIVERIES // watches),
        **how,
    )


def _streams(server: str, kind: str) -> Callable[[int], Work]:
    return lambda clients: work(
        "served",
        "throughput",
        server=server,
        kind=kind,
        clients=clients,
        messages=max(10, _SENT // clients),
    )


def _of_size(server: str, kind: str) -> Callable[[int], Work]:
    clients = 200
    return lambda size: work(
        "served",
        "throughput",
        server=server,
        kind=kind,
        clients=clients,
        messages=min(_SENT, _SENT_BYTES // size) // clients,
        size=size,
    )


_SERVED: dict[str, tuple[str, str]] = {
    "SSE": ("serve_trio_watchbus", "sse"),
    "SSE, Starlette": ("serve_starlette", "sse"),
    "watchbus.v1": ("serve_trio_watchbus", "v1"),
    "WebSocket, Starlette": ("serve_starlette", "ws"),
}

PLOTS = [
    Plot(
        "watches",
        "In memory: watches of one key, all consumed with async for",
        "watches",
        "delivered a second",
        _WATCHES,
        {
            "trio-watchbus": _on_one_key("memory_bus", "delivered", burst=100),
            "broadcaster": _on_one_key("memory_peers", "broadcaster", loop="asyncio"),
            "Trio channels by hand": _on_one_key("memory_peers", "trio_channels", burst=100),
        },
    ),
    Plot(
        "keys",
        "In memory: publishing, as more keys are watched",
        "watched keys",
        "ns for each watch reached",
        _WATCHES,
        {
            "publish_nowait, reaching one": lambda keys: work(
                "memory_bus", "publish_nowait", watches=keys, messages=300_000
            ),
            "publish_prefix_nowait, reaching 1,000": lambda keys: work(
                "memory_bus", "publish_prefix", watches=keys, reached=1000, messages=200
            ),
        },
    ),
    Plot(
        "sizes",
        "200 clients of one key at full speed",
        "bytes of data in a message",
        "delivered a second",
        _SIZES,
        {name: _of_size(*side) for name, side in _SERVED.items()},
    ),
    Plot(
        "clients",
        "Clients of one key at full speed, 16 bytes a message",
        "clients",
        "delivered a second",
        _CLIENTS,
        {name: _streams(*side) for name, side in _SERVED.items()},
    ),
]
