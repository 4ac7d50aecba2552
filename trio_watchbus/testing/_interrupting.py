"""Interrupting an operation at every place where Ctrl-C can."""

from __future__ import annotations

import dis
import gc
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import trio

_ATTEMPTS = 20_000
"""Attempts after which an operation is taken to never complete uninterrupted."""

_LATE_ATTEMPTS = 3
"""Uninterrupted attempts in a row after which no place is left: with threads or sockets, one
attempt may miss a place that the next one reaches."""

_PACKAGE = Path(__file__).parents[1]

_CALLS = {"CALL", "CALL_KW", "CALL_FUNCTION_EX"}

_ENTRY_RESUMES = {0, 1}
"""Arguments of ``RESUME`` with which it calls signal handlers: at the start of a function and after
a ``yield``, not after an ``await``."""

_BEGINS = {"GET_AWAITABLE", "GET_ITER", "GET_AITER", "BEFORE_WITH", "BEFORE_ASYNC_WITH"}
"""What follows a call that only made a coroutine or a generator."""

_PARKS: frozenset[CodeType] = frozenset({trio.lowlevel.wait_task_rescheduled.__code__})
"""What parks a task: what it calls, before it parks and once it was woken, is interrupted too."""

_CONSTRUCTORS = {"__init__", "__new__", "__post_init__"}


def interrupt_everywhere(
    attempt: Callable[[], Awaitable[object]],
    then: Callable[[], Awaitable[object]],
    *,
    code: Iterable[str | os.PathLike[str]] | None = None,
    seconds: float = 60,
) -> int:
    """Run an operation again and again, each time interrupted at a later place.

    It is interrupted as by Ctrl-C: the handler for SIGINT that Trio installed is called where
    Python would call it. Unprotected code gets `KeyboardInterrupt` there. For code under
    `trio.lowlevel.enable_ki_protection`, and between two steps of the scheduler, Trio holds the
    interrupt back for the main task, which runs the operation.

    CPython calls signal handlers on entry to a Python function, when a C function has returned, and
    at the end of each pass of a loop. A place is skipped where a C function has called back into
    Python. A step of the scheduler is tried twice, before it and after it; steps are one place if
    the same task takes them from the same point, while the main task waits at the same point. An
    attempt may reach a place many times: the first, second, fourth, eighth time, and so on, are
    tried, which keeps long loops affordable.

    The first attempt is not interrupted, so that modules are imported and caches are filled. Each
    attempt has a Trio run of its own, in the calling thread: call this from a test that is
    not async. Only that thread is interrupted.

    Args:
        attempt: starts the operation anew and awaits it. Runs in the main task.
        then: runs after each attempt in the same Trio run, uninterrupted: asserts that nothing is
            left or half done.
        code: files and folders whose code is interrupted; by default this package's, without
            `trio_watchbus.testing`.
        seconds: how long one attempt with its `then` may take, above 0.

    Returns:
        how many attempts were interrupted.

    Raises:
        AssertionError: an interrupted attempt ends without `KeyboardInterrupt`, hangs, or there are
            more than 20,000 attempts.
        RuntimeError: this is not the main thread, or Trio is running.
        Exception: what `attempt` or `then` raised, or `trio.TrioInternalError`; a note names the
            place that was interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "interrupt_everywhere needs the main thread: Python handles SIGINT there"
        )
    return interrupt_new_places(attempt, then, Files(code), set(), seconds)


def interrupt_new_places(
    attempt: Callable[[], Awaitable[object]],
    then: Callable[[], Awaitable[object]],
    files: Files,
    done: set[tuple[object, int]],
    seconds: float,
) -> int:
    """As `interrupt_everywhere`, at places that are not in `done`; adds them to it.

    For several operations that share much: what they share is interrupted in the first one only.
    """
    interrupted = late = 0
    # Trio installs its handler only in place of Python's own.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        trio.run(_run_once, attempt, then, None, seconds)
        for _ in range(_ATTEMPTS):
            interrupter = _Interrupter(files, done)
            try:
                trio.run(_run_once, attempt, then, interrupter, seconds)
            except BaseException as error:
                error.add_note(f"interrupted {interrupter.place or 'nowhere'}")
                raise
            if interrupter.place is not None:
                interrupted += 1
                late = 0
            else:
                late += 1
            if late == _LATE_ATTEMPTS:
                return interrupted
    finally:
        signal.signal(signal.SIGINT, previous)
    raise AssertionError(f"{attempt!r} still has places to interrupt after {_ATTEMPTS} attempts")


async def _run_once(
    attempt: Callable[[], Awaitable[object]],
    then: Callable[[], Awaitable[object]],
    interrupter: _Interrupter | None,
    seconds: float,
) -> None:
    with trio.move_on_after(seconds) as patience:
        if interrupter is None:
            await attempt()
        elif not await _interrupted(attempt, interrupter) and interrupter.place is not None:
            raise AssertionError("the operation swallowed the interrupt")
        await then()
    if patience.cancelled_caught:
        raise AssertionError(f"the operation hangs: it is not done within {seconds:g} seconds")


async def _interrupted(attempt: Callable[[], Awaitable[object]], interrupter: _Interrupter) -> bool:
    """Run `attempt`; return whether it was interrupted; raise all else that it raises."""
    came_out = False
    try:
        with interrupter.tracing():
            await attempt()
    except KeyboardInterrupt:
        came_out = True
    except BaseExceptionGroup as group:
        _, others = group.split(KeyboardInterrupt)
        if others is not None:
            raise
        came_out = True
    try:
        # Deliver an interrupt that Trio has held back.
        await trio.lowlevel.checkpoint()
    except KeyboardInterrupt:
        came_out = True
    if came_out and interrupter.place is None:
        # The user pressed Ctrl-C.
        raise KeyboardInterrupt
    return came_out


class Files:
    """Which code is interrupted."""

    def __init__(self, code: Iterable[str | os.PathLike[str]] | None) -> None:
        self._paths = [_PACKAGE] if code is None else [Path(path).resolve() for path in code]
        self._without = [Path(__file__).parent] if code is None else []
        self._known: dict[str, bool] = {}

    def has(self, name: str) -> bool:
        """Whether the code of the file called `name` is interrupted."""
        known = self._known.get(name)
        if known is None:
            path = Path(name).resolve()
            known = self._known[name] = any(map(path.is_relative_to, self._paths)) and not any(
                map(path.is_relative_to, self._without)
            )
        return known


class _Interrupter(trio.abc.Instrument):
    """Interrupts one attempt, at the first place that no attempt before was interrupted at.

    Attributes:
        place: where it was interrupted, or None.
    """

    def __init__(self, files: Files, done: set[tuple[object, int]]) -> None:
        self._files = files
        self._done = done
        self._reached: Counter[object] = Counter()
        self._main: trio.lowlevel.Task | None = None
        self._handler: Any = None
        self.place: str | None = None

    @contextmanager
    def tracing(self) -> Iterator[None]:
        """Interrupt the body."""
        self._handler = signal.getsignal(signal.SIGINT)
        before = sys.gettrace()
        # Finalizers would run at random places, and whatever they raise is swallowed.
        collecting = gc.isenabled()
        gc.disable()
        self._main = trio.lowlevel.current_task()
        trio.lowlevel.add_instrument(self)
        # Otherwise Python 3.12 would tell of no instruction until sys.settrace is called again.
        sys._getframe().f_trace_opcodes = True
        sys.settrace(self._trace)
        try:
            yield
        finally:
            sys.settrace(before)
            trio.lowlevel.remove_instrument(self)
            if collecting:
                gc.enable()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._reach_step("before", task)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._reach_step("after", task)

    def _reach_step(self, side: str, task: trio.lowlevel.Task) -> None:
        assert self._main is not None
        if self.place is None:
            where = (side, task.name, _point(task), _point(self._main))
            if self._is_new(where):
                self._interrupt(f"{side} a step of {task.name}", sys._getframe())

    def _is_new(self, where: object) -> bool:
        """Count a place that was reached; return whether to interrupt there."""
        self._reached[where] += 1
        times = self._reached[where]
        # Only powers of two.
        if times & (times - 1) or (where, times) in self._done:
            return False
        self._done.add((where, times))
        return True

    def reach(self, frame: FrameType, near: FrameType) -> None:
        """Interrupt `frame` where it is, unless that was done before.

        Args:
            frame: the running frame.
            near: itself, or its caller in code of `files`.
        """
        if self.place is not None:
            return
        code = near.f_code
        where = (code, near.f_lasti, frame.f_code)
        if not self._is_new(where):
            return
        calling = "" if frame is near else f", calling {frame.f_code.co_qualname}"
        self._interrupt(
            f"{code.co_filename}:{near.f_lineno} in {code.co_qualname}{calling}, time"
            f" {self._reached[where]}",
            frame,
        )

    def _interrupt(self, place: str, frame: FrameType) -> None:
        self.place = place
        sys.settrace(None)
        self._handler(signal.SIGINT, frame)

    def _trace(self, frame: FrameType, _event: str, _: object) -> _FrameTracer | None:
        """Be told, as `sys.settrace` has it, that a function begins or goes on."""
        if self.place is not None:
            return None
        caller = frame.f_back
        if caller is not None and isinstance(caller.f_trace, _FrameTracer):
            caller.f_trace.called_python = frame.f_code.co_name not in _CONSTRUCTORS
        near = self._nearest(frame)
        if near is None:
            return None
        places = _places(frame.f_code)
        if frame.f_lasti in places.entries:
            self.reach(frame, near)
        if near is not frame:
            return None
        # f_trace_lines stays on: without it Python 3.13 tells of no instruction at first.
        frame.f_trace_opcodes = True
        return _FrameTracer(self, places)

    def _nearest(self, frame: FrameType) -> FrameType | None:
        """Return this frame or its caller, if that is of code which is interrupted."""
        if self._files.has(frame.f_code.co_filename):
            return frame
        caller = frame.f_back
        if caller is not None and caller.f_code in _PARKS:
            caller = caller.f_back
        if caller is not None and self._files.has(caller.f_code.co_filename):
            return caller
        return None


def _point(task: trio.lowlevel.Task) -> tuple[object, ...]:
    """Return where a task stands: the code and instruction of each frame that it awaits in."""
    return tuple((frame.f_code, frame.f_lasti) for frame, _ in task.iter_await_frames())


class _Places:
    """Where, in a function's bytecode, CPython calls signal handlers, by offset.

    Attributes:
        entries: where the function begins.
        after_calls: for each place after a call, the place of that call.
        loops: where a loop jumps back.
    """

    def __init__(self, code: CodeType) -> None:
        bytecode = dis.Bytecode(code)
        instructions = list(bytecode)
        entries = bytecode.exception_entries  # type: ignore[attr-defined]

        def handler(offset: int) -> int | None:
            return next((e.target for e in entries if e.start <= offset < e.end), None)

        self.entries = {
            each.offset
            for each in instructions
            if each.opname == "RESUME" and each.arg in _ENTRY_RESUMES
        }
        # Python 3.12 leaves the jump of some loops out of the try that is around them, so that no
        # code could clean up after an interrupt there.
        self.loops = {
            each.offset
            for each in instructions
            if "JUMP_BACKWARD" in each.opname
            and "NO_INTERRUPT" not in each.opname
            and handler(each.offset) == handler(each.argval)
        }
        # The call is what an interrupt after it is raised by: no place where the next instruction
        # has another handler.
        self.after_calls = {
            after.offset: call.offset
            for call, after in pairwise(instructions)
            if call.opname in _CALLS
            and after.opname not in _BEGINS
            and handler(call.offset) == handler(after.offset)
        }


_places = cache(_Places)
"""The places of a function's code."""


class _FrameTracer:
    """Follows one frame, as the local function of `sys.settrace`.

    Attributes:
        called_python: whether Python code ran since the last instruction: a call of a Python
            function is no place, its beginning is.
    """

    __slots__ = ("_interrupter", "_last", "_places", "called_python")

    def __init__(self, interrupter: _Interrupter, places: _Places) -> None:
        self._interrupter = interrupter
        self._places = places
        self._last = -1
        self.called_python = False

    def __call__(self, frame: FrameType, event: str, _: object) -> _FrameTracer:
        if event == "opcode":
            at = frame.f_lasti
            returned = self._places.after_calls.get(at) == self._last and not self.called_python
            self._last = at
            self.called_python = False
            if returned or at in self._places.loops:
                self._interrupter.reach(frame, frame)
        return self
