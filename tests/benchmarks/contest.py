"""The same work done by this project and by a peer, in turn, each time in a new process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

_QUICK = 50
"""What counts are divided by where only the benchmarks themselves are tried."""
_COUNTS = ("messages", "watches", "clients", "prefixes")
_SECONDS = 180
"""What one run may take: several times what the slowest takes."""


@dataclass(frozen=True)
class Work:
    """A function of a module of this folder that does some work and returns a figure.

    Attributes:
        module: its module.
        function: its name there.
        arguments: what it is called with.
    """

    module: str
    function: str
    arguments: dict[str, int | str]

    def quick(self) -> Work:
        """Return a fraction of this work."""
        small = {
            name: max(10, value // _QUICK) if name in _COUNTS and isinstance(value, int) else value
            for name, value in self.arguments.items()
        }
        return replace(self, arguments=small)

    def run(self) -> float:
        """Do it in a process of its own."""
        command = [sys.executable, "-m", "benchmarks.work", self.module, self.function]
        command += [f"{name}={value}" for name, value in self.arguments.items()]
        folder = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            command,
            # What is installed is measured, not what the current folder has.
            env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
            stdout=subprocess.PIPE,
            text=True,
            timeout=_SECONDS,
            check=True,
        )
        return float(done.stdout.split()[-1])


def work(module: str, function: str, **arguments: int | str) -> Work:
    """Return the work of calling a function with these arguments."""
    return Work(module, function, arguments)


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        title: what is done.
        unit: of the figures.
        ours: how this project does it.
        peer: who else does it; empty where the figure is to be judged by itself.
        theirs: how they do it.
        target: what the ratio, or else the figure, should be; None where it is only told.
        at_most: whether it should be at most that, not at least.
    """

    title: str
    unit: str
    ours: Work
    peer: str = ""
    theirs: Work | None = None
    target: float | None = None
    at_most: bool = False


@dataclass(frozen=True)
class Result:
    """What came of a row.

    Attributes:
        row: the row.
        ours: this project's figures, one a run; empty where one failed.
        theirs: the peer's, likewise; empty without a peer too.
    """

    row: Row
    ours: Sequence[float]
    theirs: Sequence[float]

    @property
    def ratio(self) -> float | None:
        """This project's median by the peer's."""
        return median(self.ours) / median(self.theirs) if self.ours and self.theirs else None

    @property
    def met(self) -> bool | None:
        """Whether the target is met, or None where there is none."""
        if self.row.target is None or not self.ours:
            return None
        if self.row.theirs is not None and not self.theirs:
            return None
        value = median(self.ours) if self.ratio is None else self.ratio
        return value <= self.row.target if self.row.at_most else value >= self.row.target


def hold(row: Row, runs: int, *, quick: bool, tell: Callable[[str], None]) -> Result:
    """Run both sides of a row in turn, `runs` times each."""
    sides = [side for side in (row.ours, row.theirs) if side is not None]
    if quick:
        sides = [side.quick() for side in sides]
    figures: list[list[float]] = [[] for _ in sides]
    for number in range(runs):
        tell(f"{row.title} ({number + 1}/{runs})")
        for side, measured in zip(sides, figures, strict=True):
            # One that failed once is left out of the rest: its error is printed.
            if len(measured) == number:
                with suppress(subprocess.SubprocessError):
                    measured.append(side.run())
    figures = [measured if len(measured) == runs else [] for measured in figures]
    return Result(row, figures[0], figures[1] if len(figures) > 1 else [])


def as_markdown(results: Sequence[Result]) -> str:
    """Return a table of medians and ratios, with the range over the runs where there are some."""
    lines = [
        "| work | unit | this project | peer | its figure | ratio | target | |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: | --- |",
    ]
    for result in results:
        row = result.row
        target = ""
        if row.target is not None:
            target = f"{'≤' if row.at_most else '≥'} {row.target:,g}"
        cells = [
            row.title,
            row.unit,
            _figure(result.ours),
            row.peer,
            _figure(result.theirs) if row.theirs else "",
            "" if result.ratio is None else f"{result.ratio:.2f}",
            target,
            {None: "", True: "met", False: "not met"}[result.met],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _figure(figures: Sequence[float]) -> str:
    if not figures:
        return "failed"
    middle, low, high = median(figures), min(figures), max(figures)
    form = ",.0f" if middle >= 100 else ".1f" if middle >= 10 else ".2f"
    return f"{middle:{form}}" if low == high else f"{middle:{form}} ({low:{form}} to {high:{form}})"
