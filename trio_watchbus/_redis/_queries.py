"""Questions to Redis, those of many callers in one exchange."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ._layout import Command
from ._line import Line, refused
from ._trouble import BusyError, HopelessError, RefusedError


class Queries(Line[Sequence[Command], list[Any]]):
    """Each ask is some commands that change nothing; its answer is their replies."""

    def compose(self, asks: list[Sequence[Command]], *, again: bool) -> list[Command]:  # noqa: ARG002
        return [command for ask in asks for command in ask]

    def read(
        self, asks: list[Sequence[Command]], replies: list[Any]
    ) -> list[list[Any] | Exception]:
        answers: list[list[Any] | Exception] = []
        at = 0
        for ask in asks:
            answer = replies[at : at + len(ask)]
            at += len(ask)
            refusal = next((reply for reply in answer if isinstance(reply, RefusedError)), None)
            if refusal is None:
                answers.append(answer)
            elif isinstance(refusal, BusyError) or (
                # One key of another type is a matter of whoever asked for it.
                isinstance(refusal, HopelessError) and "WRONGTYPE" not in str(refusal)
            ):
                raise refusal
            else:
                answers.append(refused(refusal))
        return answers
