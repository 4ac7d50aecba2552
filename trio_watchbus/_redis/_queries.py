"""Reads from Redis, those of many callers in one exchange."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ._backend_errors import BusyError, PermanentError, RefusedError
from ._layout import Command
from ._pipeline import Pipeline, refused


class Queries(Pipeline[Sequence[Command], list[Any]]):
    """Each request is some commands that change nothing; its answer is their replies."""

    def compose(self, requests: list[Sequence[Command]], *, again: bool) -> list[Command]:  # noqa: ARG002
        return [command for request in requests for command in request]

    def read(
        self, requests: list[Sequence[Command]], replies: list[Any]
    ) -> list[list[Any] | Exception]:
        answers: list[list[Any] | Exception] = []
        at = 0
        for request in requests:
            answer = replies[at : at + len(request)]
            at += len(request)
            refusal = next((reply for reply in answer if isinstance(reply, RefusedError)), None)
            if refusal is None:
                answers.append(answer)
            elif isinstance(refusal, BusyError) or (
                # A key of another type concerns only the caller who requested it.
                isinstance(refusal, PermanentError) and "WRONGTYPE" not in str(refusal)
            ):
                raise refusal
            else:
                answers.append(refused(refusal))
        return answers
