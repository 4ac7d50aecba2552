"""What the commands say when they fail: one line, that names the option, without secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import click
from click.core import ParameterSource

from ._printable import printable

# Up to the last @, as a password may have some; spaces too.
_USER = re.compile(r"(?<=://)[^/?#]*@")
_QUERY = re.compile(r"(?<=://)([^\s?]*)\?\S*")


class CommandError(click.ClickException):
    """A command cannot do what it was asked; the message says why and what to do."""

    exit_code = 1


class MissingExtraError(click.ClickException):
    """What the command needs is not installed; the message names the extra that it comes with."""

    exit_code = 2


def say(message: str) -> None:
    """Print a message on standard error: one line, without secrets or control characters."""
    click.echo(f"watchbus: {printable(masked(' '.join(message.split())))}", err=True)


@contextmanager
def blaming(parameter: str) -> Iterator[None]:
    """Turn errors about a value into usage errors that name where the value came from.

    Args:
        parameter: the argument of the command's function that has the value.

    Raises:
        MissingExtraError: the value needs an extra that is not installed.
        click.UsageError: the value is wrong.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(str(error)) from None
    except ValueError as error:
        source = source_of(click.get_current_context(), parameter)
        raise click.UsageError(f"{source}: {error}") from None


def source_of(context: click.Context, parameter: str) -> str:
    """Return what gave a parameter its value: the option, or the environment variable."""
    for option in context.command.params:
        if option.name == parameter and isinstance(option, click.Option):
            if context.get_parameter_source(parameter) is ParameterSource.ENVIRONMENT:
                return str(option.envvar)
            return option.opts[0]
    return parameter


def masked(text: str) -> str:
    """Return `text` with everything that may be secret in its URLs masked: user, password, query.

    The query ends at a space, after which the text may go on.
    """
    return _QUERY.sub(r"\1?***", _USER.sub("***@", text))


def shown_url(bus_url: str) -> str:
    """Return a bus URL without what may be secret in it."""
    # A query may have spaces, and all of it is secret.
    return masked(bus_url.partition("?")[0])


def one_line(error: BaseException) -> str:
    """Return the message of `error`, or of the first one in a group, on one line."""
    error = next(leaves(error))
    text = str(error) or type(error).__name__
    cause = str(error.__cause__ or "")
    if cause not in text:
        text = f"{text}: {cause}"
    return " ".join(masked(text).split())


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Return the errors in a group of them, or the one that is none."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error
