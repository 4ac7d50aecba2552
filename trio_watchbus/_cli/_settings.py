"""The options of every command that say what a bus keeps and takes."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import click

from .._retention import Retention
from ._errors import blaming, source_of

Function = TypeVar("Function", bound=Callable[..., Any])

BusSettings = dict[str, Any]
"""Those options of `open_watchbus` that were given."""

_COUNT = click.IntRange(min=1)
_AMOUNT = click.IntRange(min=0)

_OPTIONS = {
    "retain_messages": (_COUNT, "Messages to resume from."),
    "retain_bytes": (_COUNT, "Bytes of those."),
    "retain_seconds": (click.FloatRange(min=0, min_open=True), "Age of those."),
    "retain_per_key": (_AMOUNT, "Newest messages kept of each key."),
    "retain_keys": (_AMOUNT, "Keys of which they are kept."),
    "retain_kept_bytes": (_COUNT, "Bytes of those."),
    "max_message_size": (_COUNT, "Bytes of data in one message."),
    "namespace": (str, "What the names of the bus's keys in Redis start with."),
}

_ONLY_REDIS = {"namespace", "change_retention"}


def settings_options(function: Function) -> Function:
    """Add the options that say what a bus keeps; `function` gets what was given as `settings`.

    None has a default here: what is not given is what is stored with the log.
    """

    @wraps(function)
    def gather(*args: Any, **options: Any) -> Any:
        given = {name: options.pop(name) for name in (*_OPTIONS, "change_retention")}
        given = {name: value for name, value in given.items() if value not in (None, False)}
        return function(*args, settings=_settings(options["bus_url"], given), **options)

    changed: Any = click.option(
        "--change-retention",
        is_flag=True,
        help="Replace what is stored with the log, for all processes.",
    )(gather)
    for name, (kind, text) in reversed(_OPTIONS.items()):
        changed = click.option("--" + name.replace("_", "-"), name, type=kind, help=text)(changed)
    return changed  # type: ignore[no-any-return]


def named_by_options(message: str) -> str:
    """Return an error's text with each setting named by its option."""
    message = message.replace("change_retention=True", "--change-retention")
    message = message.replace("max_message_size=", "--max-message-size ")
    return re.sub(
        r"retention\.(\w+)=", lambda name: f"--retain-{name[1].replace('_', '-')} ", message
    )


def _settings(bus_url: str, given: dict[str, Any]) -> BusSettings:
    """Return `given` as arguments of `open_watchbus`.

    Raises:
        click.UsageError: the bus does not have them, or a value is wrong.
    """
    scheme = bus_url.partition(":")[0].lower()
    for name in given:
        if scheme in ("http", "https", "ws", "wss"):
            raise click.UsageError(
                f"{_source(name)}: a served bus has the settings that its server was given"
            )
        if scheme == "memory" and name in _ONLY_REDIS:
            raise click.UsageError(f"{_source(name)}: only a bus over Redis has this")
    retained = {
        name.removeprefix("retain_"): value
        for name, value in given.items()
        if name.startswith("retain_")
    }
    settings = {name: value for name, value in given.items() if not name.startswith("retain_")}
    if retained:
        with blaming("retain_seconds"):
            settings["retention"] = Retention(**retained)
    return settings


def _source(name: str) -> str:
    return source_of(click.get_current_context(), name)
