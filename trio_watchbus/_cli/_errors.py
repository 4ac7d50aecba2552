"""What the commands say when they fail: one line, and no secret in it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

# Up to the last @, as a password may have some; spaces too.
_USER = re.compile(r"(?<=://)[^/?#]*@")
_QUERY = re.compile(r"(?<=://)([^\s?]*)\?\S*")


class CommandError(click.ClickException):
    """A command cannot do what it was asked; the message says why and what to do."""

    exit_code = 1


def masked(text: str) -> str:
    """Return `text` with what may be secret in its URLs masked: user, password and query.

    The query up to a space, behind which the text may go on.
    """
    return _QUERY.sub(r"\1?***", _USER.sub("***@", text))


def one_line(error: BaseException) -> str:
    """Return what `error` says, or what the first one in a group of them does, on one line."""
    error = next(_leaves(error))
    text = str(error) or type(error).__name__
    cause = str(error.__cause__ or "")
    if cause not in text:
        text = f"{text}: {cause}"
    return " ".join(masked(text).split())


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
