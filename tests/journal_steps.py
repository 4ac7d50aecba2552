"""Counts what of a journal a task looks at before others run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from trio_watchbus._core._journal import Journal


class Steps(trio.abc.Instrument):
    """Notes how much of a journal one task looks at, at most, before others run."""

    def __init__(self, journal: Journal) -> None:
        self.most = 0
        self._journal = journal
        self._before = journal.scanned

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._before = self._journal.scanned

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.most = max(self.most, self._journal.scanned - self._before)


@contextmanager
def steps_of(journal: Journal) -> Iterator[Steps]:
    steps = Steps(journal)
    trio.lowlevel.add_instrument(steps)
    yield steps
    trio.lowlevel.remove_instrument(steps)
