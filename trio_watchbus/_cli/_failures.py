"""What the commands say when a bus fails."""

from __future__ import annotations

import errno
import os

import click

from .._errors import BusUnavailableError, HistoryLostError, PublishUnknownError
from .._retention import DifferentSettingsError
from ._errors import CommandError, leaves, one_line, source_of
from ._settings import named_by_options


def failure_of(error: BaseException) -> CommandError:
    """Return what to say about `error`, or about the first one in a group.

    If the bus cannot be used, or cannot resume from the position asked for, that includes what to
    do.
    """
    text = one_line(error)
    first = next(leaves(error))
    if isinstance(first, BusUnavailableError) and not isinstance(first, PublishUnknownError):
        bus = _source_of_bus()
        refused = os.strerror(errno.ECONNREFUSED).lower() in text.lower()
        hint = f"start it, or name another with {bus}" if refused else f"check {bus}"
        # What a backend says may be a sentence of its own.
        text = f"{text.rstrip('.')}; {hint}"
    elif isinstance(first, DifferentSettingsError):
        text = named_by_options(text)
    elif isinstance(first, HistoryLostError):
        text = f"{text}; leave out --after, or give --after {first.position}"
    return CommandError(text)


def _source_of_bus() -> str:
    context = click.get_current_context(silent=True)
    return "--bus" if context is None else source_of(context, "bus_url")
