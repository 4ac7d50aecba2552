"""One thread for each connection to Redis.

The thread sends, receives and parses. It changes no state but the connection's own: what came goes
back to Trio, where the caller looks at it.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, cast

import trio
from trio.lowlevel import (
    Abort,
    Task,
    TrioToken,
    current_task,
    enable_ki_protection,
    reschedule,
    wait_task_rescheduled,
)

from ._backend_errors import UnreachableError
from ._layout import Command

if TYPE_CHECKING:
    from ._connection import Link

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _Call:
    """A function for the thread to call, and the task that waits for what it returns."""

    __slots__ = ("arguments", "error", "function", "result", "task")

    def __init__(self, function: Callable[..., Any], arguments: Any, task: Task) -> None:
        self.function = function
        self.arguments = arguments
        self.task: Task | None = task
        self.result: Any = None
        self.error: BaseException | None = None

    def settle(self, result: Any, error: BaseException | None) -> None:
        """Let the task go on; in Trio's thread."""
        if self.task is not None:
            self.result, self.error = result, error
            task, self.task = self.task, None
            reschedule(task)


class Worker:
    """Runs one connection's calls in order, in one thread that lives as long as the connection.

    A call costs about a third of what `trio.to_thread.run_sync` costs, and calls of several
    pipelines that share the connection wait for each other in the thread's queue.

    Attributes:
        link: the connection.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()

    @enable_ki_protection
    async def run(self) -> None:
        """Run the thread until `end`; no cancel ends it before that."""
        limiter = trio.CapacityLimiter(1)
        token = trio.lowlevel.current_trio_token()
        await trio.to_thread.run_sync(self._serve, token, limiter=limiter)

    def end(self) -> None:
        """Cut the connection, let nothing connect any more, and end the thread."""
        self.link.end()
        self._calls.put(None)

    async def connect(self) -> None:
        """Connect, if it is not connected.

        Raises:
            BackendError: it failed.
        """
        await self.call(self.link.connect)

    async def exchange(self, *commands: Command) -> list[Any]:
        """Send `commands` together, and return their replies; a refusal is among them.

        Raises:
            NotConnectedError: there is no connection, and nothing was sent.
            UnreachableError: the connection failed; what was sent may have been done.
        """
        return await self.call(self.link.exchange_if_connected, *commands)

    @enable_ki_protection
    async def call(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """Call a function in the thread, and return what it returns, or raise what it raises.

        A cancel does not wait for the thread, which finishes the call; nobody hears of its result.
        """
        if self.link.ended:
            await trio.lowlevel.checkpoint()
            raise UnreachableError("this connection was ended")
        call = _Call(function, arguments, current_task())
        self._calls.put(call)

        def abort(_: object) -> Abort:
            call.task = None
            return Abort.SUCCEEDED

        await wait_task_rescheduled(abort)
        if call.error is not None:
            raise call.error
        return cast(T, call.result)

    # In the thread

    def _serve(self, token: TrioToken) -> None:
        while (call := self._calls.get()) is not None:
            self._serve_one(call, token)
            # Else a large reply stays until the next one comes.
            del call

    def _serve_one(self, call: _Call, token: TrioToken) -> None:
        result, error = None, None
        try:
            result = call.function(*call.arguments)
        except BaseException as raised:  # noqa: BLE001, the caller raises it
            error = raised
        token.run_sync_soon(call.settle, result, error)
