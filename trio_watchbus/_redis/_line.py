"""Many callers, one connection: those who come while a call is under way share the next one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import trio
from trio.lowlevel import (
    Abort,
    Task,
    checkpoint,
    current_task,
    reschedule,
    wait_task_rescheduled,
)

from .._backoff import Backoff
from .._errors import BusUnavailableError
from ._layout import Command
from ._trouble import BusyError, HopelessError, RefusedError, UnreachableError

if TYPE_CHECKING:
    from ._connection import Link

Ask = TypeVar("Ask")
Answer = TypeVar("Answer")

_FEW = 32
"""Asks that are not worth two groups: Redis needs less time for them than a trip does."""

PAUSES = (0.02, 1.0)
"""Seconds of the first pause between attempts, and of the longest."""


class Job(Generic[Ask, Answer]):
    """One caller's part of a call.

    Attributes:
        ask: what it asks.
        weight: how much that is of what a group may weigh.
        deadline: the time, on Trio's clock, at which it is told that there is no answer.
        task: the task that waits for the answer; None once it has it or has left.
        answer: what came.
        error: what came instead.
    """

    __slots__ = ("answer", "ask", "deadline", "error", "task", "weight")

    def __init__(self, ask: Ask, weight: int, deadline: float, task: Task) -> None:
        self.ask = ask
        self.weight = weight
        self.deadline = deadline
        self.task: Task | None = task
        self.answer: Answer | None = None
        self.error: Exception | None = None

    def finish(self, answer: Answer) -> None:
        """Let its caller go on with `answer`, if it still waits."""
        self.answer = answer
        self._resume()

    def fail(self, error: Exception) -> None:
        """Let `error` be raised to its caller, if it still waits."""
        self.error = error
        self._resume()

    def _resume(self) -> None:
        task, self.task = self.task, None
        if task is not None:
            reschedule(task)


class Line(ABC, Generic[Ask, Answer]):
    """Carries asks to Redis and answers back, a group at a time, retrying until they are late.

    Attributes:
        sent: whether something of the call under way may have reached Redis and been done.
    """

    heaviest = 1000
    """How much one group may weigh, unless a single ask weighs more."""

    def __init__(self, link: Link, limiter: trio.CapacityLimiter, timeout: float) -> None:
        self._link = link
        self._limiter = limiter
        self._timeout = timeout
        self._queue: deque[Job[Ask, Answer]] = deque()
        self._group: list[Job[Ask, Answer]] = []
        self._wake = trio.Event()
        self._ending: Callable[[], Exception] | None = None
        self.sent = False

    async def ask(self, ask: Ask, weight: int = 1) -> Answer:
        """Return the answer to `ask`, which is so much of what a group may weigh.

        A cancel before it is sent takes it back; after that it is done whole or not at all.

        Raises:
            BusUnavailableError: Redis refused it, or no answer came in time.
        """
        if self._ending is not None:
            await checkpoint()
            raise self._ending()
        deadline = trio.current_time() + self._timeout
        job: Job[Ask, Answer] = Job(ask, weight, deadline, current_task())
        self._queue.append(job)
        self._wake.set()

        def abort(_: object) -> Abort:
            job.task = None
            return Abort.SUCCEEDED

        await wait_task_rescheduled(abort)
        if job.error is not None:
            raise job.error
        return cast(Answer, job.answer)

    async def connect(self) -> None:
        """Connect already, to see that it can.

        Raises:
            TroubleError: it cannot.
        """
        await trio.to_thread.run_sync(self._link.connect, limiter=self._limiter)

    async def run(self) -> None:
        """Carry until cancelled; raises what is hopeless."""
        while True:
            self._group = await self._next_group()
            await self._carry(self._group)
            self._group = []

    async def expire(self) -> None:
        """Tell callers that they are late, until cancelled."""
        while True:
            now = trio.current_time()
            # What is asked from now on is late no sooner than this.
            next_deadline = now + self._timeout
            late = False
            for job in (*self._group, *self._queue):
                if job.task is not None:
                    if job.deadline > now:
                        next_deadline = job.deadline
                        break
                    late = True
                    error = BusUnavailableError(f"Redis gave no answer in {self._timeout:g} s")
                    job.fail(self.unanswered(job, error))
            if late and all(job.task is None for job in self._group):
                self._link.cut()
            await trio.sleep_until(next_deadline)

    def close(self, ending: Callable[[], Exception]) -> None:
        """Let all who wait, and all who ask from now on, get an error that `ending` makes."""
        self._ending = ending
        for job in (*self._group, *self._queue):
            job.fail(self.unanswered(job, ending()))

    @abstractmethod
    def compose(self, asks: list[Ask]) -> list[Command]:
        """Return what to send for `asks`; called for each attempt."""

    @abstractmethod
    def read(self, asks: list[Ask], replies: list[Any]) -> Sequence[Answer | Exception]:
        """Return an answer for each of `asks`, from the replies to what was sent for them.

        Raises:
            RefusedError: there is an answer to none of them.
        """

    def unanswered(self, job: Job[Ask, Answer], error: Exception) -> Exception:  # noqa: ARG002
        """Return what the caller is told whose answer will not come, because of `error`."""
        return error

    def given_up(self) -> None:
        """Take note that the call under way was not answered and will not be sent again."""

    async def _next_group(self) -> list[Job[Ask, Answer]]:
        group: list[Job[Ask, Answer]] = []
        weight = 0
        while not group:
            if not self._queue:
                self._wake = trio.Event()
                await self._wake.wait()
            # Half of what waits, so that Redis is at one half while callers are at the other.
            most = max(_FEW, len(self._queue) // 2)
            while self._queue:
                job = self._queue[0]
                if job.task is not None:
                    weight += job.weight
                    if group and (weight > self.heaviest or len(group) >= most):
                        break
                    group.append(job)
                self._queue.popleft()
        return group

    async def _carry(self, group: list[Job[Ask, Answer]]) -> None:
        # The same on every attempt, whoever has left meanwhile.
        asks = [job.ask for job in group]
        backoff = Backoff(*PAUSES)
        self.sent = False
        while any(job.task is not None for job in group):
            before = self.sent
            try:
                replies = await trio.to_thread.run_sync(
                    self._attempt, self.compose(asks), limiter=self._limiter
                )
                answers = self.read(asks, replies)
            except HopelessError:
                raise
            except RefusedError as refusal:
                # This attempt was not done.
                self.sent = before
                if not isinstance(refusal, BusyError):
                    for job in group:
                        job.fail(self.unanswered(job, refused(refusal)))
                    break
            except UnreachableError:
                pass
            else:
                for job, answer in zip(group, answers, strict=True):
                    if isinstance(answer, Exception):
                        job.fail(answer)
                    else:
                        job.finish(answer)
                return
            await backoff.pause()
        self.given_up()

    def _attempt(self, commands: list[Command]) -> list[Any]:
        self._link.connect()
        self.sent = True
        return self._link.exchange(*commands)


def refused(refusal: RefusedError) -> BusUnavailableError:
    """Return what callers are told whom Redis refused."""
    error = BusUnavailableError(f"Redis refused: {refusal}")
    error.__cause__ = refusal
    return error
