"""Batches requests to Redis; retries until each one's deadline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, cast

import trio
from trio.lowlevel import (
    Abort,
    Task,
    checkpoint,
    current_task,
    enable_ki_protection,
    reschedule,
    wait_task_rescheduled,
)

from .._backoff import Backoff
from .._errors import BusUnavailableError
from ._backend_errors import (
    BackendError,
    BusyError,
    NotConnectedError,
    PermanentError,
    RefusedError,
    UnfinishedError,
    UnreachableError,
)
from ._layout import Command
from ._states import BATCH, MAY_BE_DONE, BatchEvent, BatchState
from ._worker import Worker

Request = TypeVar("Request")
Answer = TypeVar("Answer")

_FEW = 32
"""Requests that are not worth two batches: Redis needs less time for them than a trip does."""

PAUSES = (0.02, 1.0)
"""Seconds of the first pause between attempts, and of the longest."""


class Waiting(Generic[Request, Answer]):
    """A request whose caller waits for the answer.

    Attributes:
        request: what is requested.
        weight: how much it adds to a batch.
        deadline: the time, on Trio's clock, at which its caller is told that there is no answer.
        task: the task that waits; None once it has its outcome or has left.
        place: its place in its batch, from 1; 0 until it is in one.
        outcome: the answer, or an error to raise instead; set once.
    """

    __slots__ = ("deadline", "outcome", "place", "request", "task", "weight")

    def __init__(self, request: Request, weight: int, deadline: float, task: Task) -> None:
        self.request = request
        self.weight = weight
        self.deadline = deadline
        self.task: Task | None = task
        self.place = 0
        self.outcome: Answer | Exception | None = None

    def settle(self, outcome: Answer | Exception) -> None:
        """Let the caller go on with `outcome`, if it still waits."""
        if self.task is not None:
            self.outcome = outcome
            task, self.task = self.task, None
            reschedule(task)


class Pipeline(ABC, Generic[Request, Answer]):
    """Carries one batch of requests at a time to Redis, and the answers back.

    Everything here happens in Trio's thread; the worker's thread gets commands and gives replies.
    The next batch is on its way before the callers of the last one go on, so that Redis works on
    one while they work on the other.
    """

    largest_batch = 1000
    """The weight of a batch at most, unless a single request weighs more."""

    def __init__(self, worker: Worker, timeout: float) -> None:
        self._worker = worker
        self._timeout = timeout
        self._queue: deque[Waiting[Request, Answer]] = deque()
        self._batch: list[Waiting[Request, Answer]] = []
        self._state = BatchState.IDLE
        self._wake = trio.Event()
        self._ending: Callable[[], Exception] | None = None
        self._backoff = Backoff(*PAUSES)
        # Why the newest attempt failed; None once one succeeded.
        self._failure: BackendError | None = None

    @property
    def may_be_done(self) -> bool:
        """Whether Redis may have done something of the batch that is under way."""
        return self._state in MAY_BE_DONE

    @enable_ki_protection
    async def request(self, request: Request, weight: int = 1) -> Answer:
        """Return the answer to `request`, which adds `weight` to a batch.

        A cancel before it is sent takes it back; after that it is done whole or not at all.

        Raises:
            BusUnavailableError: Redis refused it, or no answer came in time.
        """
        if self._ending is not None:
            await checkpoint()
            raise self._ending()
        return await self._wait_for(request, weight)

    @enable_ki_protection
    async def _wait_for(self, request: Request, weight: int) -> Answer:
        deadline = trio.current_time() + self._timeout
        waiting: Waiting[Request, Answer] = Waiting(request, weight, deadline, current_task())
        self._queue.append(waiting)
        self._wake.set()

        def abort(_: object) -> Abort:
            waiting.task = None
            return Abort.SUCCEEDED

        await wait_task_rescheduled(abort)
        if isinstance(waiting.outcome, Exception):
            raise waiting.outcome
        return cast(Answer, waiting.outcome)

    async def run(self) -> None:
        """Carry batches until cancelled.

        Raises:
            PermanentError: Redis refuses, and will go on to.
        """
        while True:
            if not self._queue:
                self._wake = trio.Event()
                await self._wake.wait()
            self._batch = self._next_batch()
            if self._batch:
                self._move(BatchEvent.TAKE)
                await self._carry(self._batch)
                self._batch = []

    async def expire(self) -> None:
        """Tell callers when their deadline has passed, until cancelled."""
        while True:
            now = trio.current_time()
            # No request that comes from now on has an earlier deadline.
            next_deadline = now + self._timeout
            late = False
            for waiting in self._all_waiting():
                if waiting.deadline > now:
                    next_deadline = waiting.deadline
                    break
                late = True
                self._fail(waiting, self._late())
            if late and self._batch and all(each.task is None for each in self._batch):
                self._worker.link.cut()
            await trio.sleep_until(next_deadline)

    def close(self, ending: Callable[[], Exception]) -> None:
        """Raise an error that `ending` makes for all who wait and for all later requests."""
        self._ending = ending
        for waiting in self._all_waiting():
            self._fail(waiting, ending())

    async def connect(self) -> None:
        """Connect, and do what comes before any request on a new connection.

        Raises:
            BackendError: it failed.
        """
        await self._worker.connect()

    @abstractmethod
    def compose(self, requests: list[Request], *, again: bool) -> list[Command]:
        """Return what to send for `requests`; called for each attempt.

        Args:
            requests: those of one batch.
            again: whether Redis may have done an earlier attempt, so that this one has to be the
                same call.
        """

    @abstractmethod
    def read(self, requests: list[Request], replies: list[Any]) -> Sequence[Answer | Exception]:
        """Return an answer for each of `requests`.

        Raises:
            UnfinishedError: the next attempt, at once, is to go on from here.
            RefusedError: Redis did none of them.
        """

    def unanswered(self, waiting: Waiting[Request, Answer], error: Exception) -> Exception:  # noqa: ARG002
        """Return what to raise for a caller whose answer will not come, because of `error`."""
        return error

    def _move(self, event: BatchEvent) -> None:
        self._state = BATCH[self._state][event]

    def _all_waiting(self) -> list[Waiting[Request, Answer]]:
        """Return the requests whose callers wait, oldest first."""
        return [each for each in (*self._batch, *self._queue) if each.task is not None]

    def _late(self) -> BusUnavailableError:
        reason = "" if self._failure is None else f": {self._failure}"
        error = BusUnavailableError(f"Redis gave no answer in {self._timeout:g} s{reason}")
        error.__cause__ = self._failure
        return error

    def _fail(self, waiting: Waiting[Request, Answer], error: Exception) -> None:
        waiting.settle(self.unanswered(waiting, error))

    def _next_batch(self) -> list[Waiting[Request, Answer]]:
        batch: list[Waiting[Request, Answer]] = []
        weight = 0
        # Half of what waits, so that Redis works on one half while the callers of the other go on.
        most = max(_FEW, len(self._queue) // 2)
        while self._queue:
            waiting = self._queue[0]
            if waiting.task is not None:
                weight += waiting.weight
                if batch and (weight > self.largest_batch or len(batch) >= most):
                    break
                batch.append(waiting)
            self._queue.popleft()
        return batch

    async def _carry(self, batch: list[Waiting[Request, Answer]]) -> None:
        """Attempt `batch` until it is answered or nobody waits for it."""
        while any(each.task is not None for each in batch):
            try:
                answers = await self._attempt(batch)
            except PermanentError:
                raise
            except UnfinishedError:
                self._failure = None
                self._backoff.reset()
            except BackendError as error:
                self._failure = error
                if isinstance(error, RefusedError) and not isinstance(error, BusyError):
                    for waiting in batch:
                        if waiting.task is not None:
                            self._fail(waiting, refused(error))
                else:
                    await self._backoff.pause()
            else:
                self._failure = None
                self._backoff.reset()
                for waiting, answer in zip(batch, answers, strict=True):
                    waiting.settle(answer)
        if self._state is not BatchState.IDLE:
            self._move(BatchEvent.DROP)

    async def _attempt(self, batch: list[Waiting[Request, Answer]]) -> Sequence[Answer | Exception]:
        try:
            return await self._send(batch)
        except NotConnectedError:
            # While this takes its time, callers may leave: nothing of theirs was sent.
            await self.connect()
            return await self._send(batch)

    async def _send(self, batch: list[Waiting[Request, Answer]]) -> Sequence[Answer | Exception]:
        again = self.may_be_done
        if not again:
            # Who has left may have been told that nothing was stored.
            batch[:] = [each for each in batch if each.task is not None]
            if not batch:
                return []
            for place, waiting in enumerate(batch, 1):
                waiting.place = place
        requests = [each.request for each in batch]
        commands = self.compose(requests, again=again)
        self._move(BatchEvent.SEND)
        try:
            answers = self.read(requests, await self._worker.exchange(*commands))
        except (NotConnectedError, RefusedError):
            self._move(BatchEvent.REFUSE)
            raise
        except UnreachableError:
            self._move(BatchEvent.LOSE)
            raise
        self._move(BatchEvent.ANSWER)
        return answers


def refused(refusal: RefusedError) -> BusUnavailableError:
    """Return what to raise for callers whose request Redis refused."""
    error = BusUnavailableError(f"Redis refused: {refusal}")
    error.__cause__ = refusal
    return error
