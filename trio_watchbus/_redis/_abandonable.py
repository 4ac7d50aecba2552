"""Blocking calls that nothing can interrupt, such as name lookups, made so that one can leave."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar, TypeVarTuple

from trio.lowlevel import start_thread_soon

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Abandonable:
    """Makes one call at a time in a thread of its own, and waits for it no longer than one wants.

    A call that was left goes on. The next one for the same waits for it instead of beginning
    another, and nothing else begins before it is done: so there is one such thread at most, however
    long the call hangs and however often it is tried.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._call: tuple[Callable[..., Any], tuple[Any, ...]] | None = None
        self._outcome: Any = None
        self._woken = False
        self._ended = False

    def call(self, what: str, timeout: float, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """Call a function, and return what it returns or raise what it raises; blocks.

        Args:
            what: what it does, for an error's text.
            timeout: seconds to wait.
            function: the function.
            *arguments: its arguments.

        Raises:
            OSError: it took longer, or `wake` was called.
        """
        with self._changed:
            self._woken = self._ended
            if self._call is None:
                self._call = (function, arguments)
                start_thread_soon(lambda: function(*arguments), self._deliver, name=what)
            elif self._call != (function, arguments):
                raise OSError(f"another lookup has not ended: {what} waits for it")
            done = self._changed.wait_for(self._can_go_on, timeout)
            if self._outcome is None:
                reason = "was given up" if done else f"took longer than {timeout:g} s"
                raise OSError(f"{what} {reason}")
            outcome, self._outcome, self._call = self._outcome, None, None
        result: T = outcome.unwrap()
        return result

    def wake(self, *, end: bool = False) -> None:
        """Let go whoever waits; with `end`, all who come later too. From any thread."""
        with self._changed:
            self._woken = True
            self._ended |= end
            self._changed.notify_all()

    def _can_go_on(self) -> bool:
        return self._woken or self._outcome is not None

    def _deliver(self, outcome: Any) -> None:
        with self._changed:
            self._outcome = outcome
            self._changed.notify_all()
