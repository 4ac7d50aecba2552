"""What the commands say when they fail: one line, and no secret in it."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import click

from .._errors import BusUnavailableError, HistoryLostError, PublishUnknownError

# Up to the last @, as a password may have some; spaces too.
_USER = re.compile(r"(?<=://)[^/?#]*@")
_QUERY = re.compile(r"(?<=://)([^\s?]*)\?\S*")


class CommandError(click.ClickException):
    """A command cannot do what it was asked; the message says why and what to do."""

    exit_code = 1


class MissingExtraError(click.ClickException):
    """What the command needs is not installed; the message names the extra that it comes with."""

    exit_code = 2


@contextmanager
def blaming(option: str) -> Iterator[None]:
    """Have what is wrong with the value of `option`, one that names a bus, told as its fault.

    Raises:
        MissingExtraError: such a bus needs what is not installed.
        click.UsageError: there is no such bus.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(str(error)) from None
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from None


def failure_of(error: BaseException) -> CommandError:
    """Return what is said of `error`, or of the first one in a group of them.

    With what to do where the bus cannot be used, or not from where it was to be.
    """
    text = one_line(error)
    first = next(_leaves(error))
    if isinstance(first, BusUnavailableError) and not isinstance(first, PublishUnknownError):
        refused = os.strerror(errno.ECONNREFUSED).lower() in text.lower()
        hint = "start it, or name another with --bus" if refused else "check --bus"
        # What a backend says may be a sentence of its own.
        text = f"{text.rstrip('.')}; {hint}"
    elif isinstance(first, HistoryLostError):
        text = f"{text}; leave out --after, or give --after {first.oldest}"
    return CommandError(text)


def masked(text: str) -> str:
    """Return `text` with what may be secret in its URLs masked: user, password and query.

    The query up to a space, behind which the text may go on.
    """
    return _QUERY.sub(r"\1?***", _USER.sub("***@", text))


def shown_url(bus_url: str) -> str:
    """Return a bus URL without what may be secret in it."""
    # A query may have spaces, and all of it is secret.
    return masked(bus_url.partition("?")[0])


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
