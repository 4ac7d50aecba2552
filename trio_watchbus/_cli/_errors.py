"""What the commands say when they fail: one line, and no secret in it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

_PASSWORD = re.compile(r"(?<=://)([^/@\s]*):[^@\s]*@")


class CommandError(click.ClickException):
    """A command cannot do what it was asked; the message says why and what to do."""

    exit_code = 1


def masked(text: str) -> str:
    """Return `text` with the passwords of the URLs in it masked."""
    return _PASSWORD.sub(r"\1:***@", text)


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
