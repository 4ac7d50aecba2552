"""Many callers, one connection: those who come while a call is under way share the next one."""

from __future__ import annotations

import threading
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
from ._trouble import BusyError, HopelessError, RefusedError, ReplicaError, TroubleError

if TYPE_CHECKING:
    from ._connection import Link

Ask = TypeVar("Ask")
Answer = TypeVar("Answer")

_FEW = 32
"""Asks that are not worth two groups: Redis needs less time for them than a trip does."""

_GROUPS_A_TURN = 16
"""Groups that are carried before another line of the same connection gets its turn."""

PAUSES = (0.02, 1.0)
"""Seconds of the first pause between attempts, and of the longest."""


class Job(Generic[Ask, Answer]):
    """One caller's part of a call.

    Attributes:
        ask: what it asks.
        weight: how much that is of what a group may weigh.
        deadline: the time, on Trio's clock, at which it is told that there is no answer.
        task: the task that waits for the answer; None once it goes on or has left.
        place: which of its call's asks it is, from 1; 0 until it is part of one.
        outcome: what came, an error instead of an answer maybe; it is set once.
    """

    __slots__ = ("ask", "deadline", "outcome", "place", "task", "weight")

    def __init__(self, ask: Ask, weight: int, deadline: float, task: Task) -> None:
        self.ask = ask
        self.weight = weight
        self.deadline = deadline
        self.task: Task | None = task
        self.place = 0
        self.outcome: Answer | Exception | None = None

    def wake(self) -> None:
        """Let its caller go on with the outcome, if it still waits."""
        if self.task is not None:
            task, self.task = self.task, None
            reschedule(task)


class Line(ABC, Generic[Ask, Answer]):
    """Carries asks to Redis and answers back, a group at a time, retrying until they are late.

    While there are asks, one thread carries group after group, and hands the answers over without
    waiting until anyone has looked at them: Redis works on one group while the callers of another
    go on. Whatever goes wrong comes back to Trio, where the group is retried.

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
        # Held where it is settled whether something is sent, and what its caller is told.
        self._lock = threading.Lock()
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
        return await self._wait_for(ask, weight)

    async def _wait_for(self, ask: Ask, weight: int) -> Answer:
        deadline = trio.current_time() + self._timeout
        job: Job[Ask, Answer] = Job(ask, weight, deadline, current_task())
        self._queue.append(job)
        self._wake.set()

        def abort(_: object) -> Abort:
            job.task = None
            return Abort.SUCCEEDED

        await wait_task_rescheduled(abort)
        if isinstance(job.outcome, Exception):
            raise job.outcome
        return cast(Answer, job.outcome)

    async def connect(self) -> None:
        """Connect already, to see that it can.

        Raises:
            TroubleError: it cannot.
        """
        await trio.to_thread.run_sync(self._link.connect, limiter=self._limiter)

    async def run(self) -> None:
        """Carry until cancelled; raises what is hopeless."""
        token = trio.lowlevel.current_trio_token()
        while True:
            if not self._queue:
                self._wake = trio.Event()
                await self._wake.wait()
            trouble = await trio.to_thread.run_sync(self._carry, token, limiter=self._limiter)
            if trouble is not None:
                await self._retry(trouble)
                self._group = []

    async def expire(self) -> None:
        """Tell callers that they are late, until cancelled."""
        while True:
            now = trio.current_time()
            # What is asked from now on is late no sooner than this.
            next_deadline = now + self._timeout
            late = False
            for job in self._waiting():
                if job.deadline > now:
                    next_deadline = job.deadline
                    break
                late = True
                self._fail(job, BusUnavailableError(f"Redis gave no answer in {self._timeout:g} s"))
            if late and self._group and all(job.task is None for job in self._group):
                self._link.cut()
            await trio.sleep_until(next_deadline)

    def close(self, ending: Callable[[], Exception]) -> None:
        """Let all who wait, and all who ask from now on, get an error that `ending` makes."""
        self._ending = ending
        for job in self._waiting():
            self._fail(job, ending())

    @abstractmethod
    def compose(self, asks: list[Ask], *, again: bool) -> list[Command]:
        """Return what to send for `asks`; called for each attempt, in the thread.

        Args:
            asks: those of one group.
            again: whether they may have been sent and done, so that the call is to be the same.
        """

    @abstractmethod
    def read(self, asks: list[Ask], replies: list[Any]) -> Sequence[Answer | Exception]:
        """Return an answer for each of `asks`, from what came for them; called in the thread.

        Raises:
            RefusedError: there is an answer to none of them.
        """

    def unanswered(self, job: Job[Ask, Answer], error: Exception) -> Exception:  # noqa: ARG002
        """Return what the caller is told whose answer will not come, because of `error`.

        Called under the lock.
        """
        return error

    def begin(self) -> None:
        """Take note that another call begins.

        Called in the thread and under the lock, before the call is composed.
        """

    def _waiting(self) -> list[Job[Ask, Answer]]:
        """Return who waits, those first who have waited for longest."""
        # The queue first, as the thread moves them from there to the group.
        queued = self._queue.copy()
        return [job for job in (*self._group, *queued) if job.task is not None]

    def _fail(self, job: Job[Ask, Answer], error: Exception) -> None:
        with self._lock:
            # Else the answer was read already, in the thread.
            if job.outcome is None:
                job.outcome = self.unanswered(job, error)
            # Under the lock: who does not wait is not sent.
            job.wake()

    async def _retry(self, trouble: TroubleError) -> None:
        """Go on with the group to which `trouble` came, until it is answered or nobody waits."""
        group = self._group
        backoff = Backoff(*PAUSES)
        sent_before = False
        while True:
            if isinstance(trouble, RefusedError):
                # The last attempt was not done.
                self.sent = sent_before
                if isinstance(trouble, HopelessError):
                    raise trouble
                if not isinstance(trouble, BusyError):
                    for job in group:
                        self._fail(job, refused(trouble))
            if all(job.task is None for job in group):
                return
            await backoff.pause()
            sent_before = self.sent
            try:
                await trio.to_thread.run_sync(self._attempt, group, limiter=self._limiter)
            except TroubleError as again:
                trouble = again
            else:
                _hand_over(group)
                return

    # In the thread

    def _carry(self, token: trio.lowlevel.TrioToken) -> TroubleError | None:
        """Carry what waits; return what went wrong with the group that is under way then."""
        for _ in range(_GROUPS_A_TURN):
            self.sent = False
            group = self._next_group()
            if not group:
                break
            try:
                self._attempt(group)
            except TroubleError as trouble:
                return trouble
            token.run_sync_soon(_hand_over, group)
            self._group = []
        return None

    def _next_group(self) -> list[Job[Ask, Answer]]:
        # At any moment a job is in one of the two at least, as others look for those who wait.
        group = self._group = []
        weight = 0
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

    def _attempt(self, group: list[Job[Ask, Answer]]) -> None:
        """Send `group` and take the answers; from when it may have been sent, it is the same."""
        self._link.connect()
        with self._lock:
            again = self.sent
            if not again:
                # Who has left meanwhile may have been told that nothing was sent.
                group[:] = [job for job in group if job.task is not None]
                if not group:
                    return
                for place, job in enumerate(group, 1):
                    job.place = place
                self.begin()
                self.sent = True
        asks = [job.ask for job in group]
        try:
            answers = self.read(asks, self._link.exchange(*self.compose(asks, again=again)))
        except ReplicaError:
            # A server that became one keeps its connections; the address may name another.
            self._link.disconnect()
            raise
        with self._lock:
            for job, answer in zip(group, answers, strict=True):
                # Else its caller was told already that no answer came.
                if job.outcome is None:
                    job.outcome = answer


def _hand_over(group: list[Job[Ask, Answer]]) -> None:
    """Let the callers of a group go on, those who still wait."""
    for job in group:
        job.wake()


def refused(refusal: RefusedError) -> BusUnavailableError:
    """Return what callers are told whom Redis refused."""
    error = BusUnavailableError(f"Redis refused: {refusal}")
    error.__cause__ = refusal
    return error
