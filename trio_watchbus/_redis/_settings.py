"""The bounds that are stored with the log, and so are the same for all who use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from .._message import MAX_MESSAGE_SIZE
from .._retention import DifferentSettingsError, Retention
from ._layout import Command, Names

_FIELDS = ("messages", "bytes", "milliseconds", "per_key", "keys", "kept_bytes")

_STORED = (*(f"retain_{name}" for name in _FIELDS), "max_message_size")
"""Names in Redis, in the order in which the script answers with their values."""


class Settings:
    """What a log keeps and takes: what is stored with it, or else the defaults.

    Args:
        retention: the fields that are not None are to be stored.
        max_message_size: likewise.
        change: whether to replace what is stored already.

    Attributes:
        retention: what is stored; a field is None where nothing is.
        max_message_size: bytes of data that one message may have.
    """

    retention: Retention
    max_message_size: int

    def __init__(
        self, names: Names, retention: Retention, max_message_size: int | None, *, change: bool
    ) -> None:
        self._names = names
        self._change = change
        self._given = _stored_values(retention, max_message_size)
        self.retention = retention
        self.max_message_size = max_message_size or MAX_MESSAGE_SIZE

    def opening(self) -> Command:
        """Return the command with which a bus opens."""
        return self._command("change" if self._change else "open")

    def keeping(self) -> Command:
        """Return the command of a bus that comes back, or whose log was lost."""
        return self._command("keep")

    def opened(self, reply: Sequence[Any]) -> None:
        """Take what Redis answered to `opening`.

        Raises:
            DifferentSettingsError: other values than those given are stored; nothing was changed.
        """
        differing, values = reply
        stored = dict(zip(_STORED, values, strict=True))
        if differing:
            differences = ", ".join(
                f"{_shown(name.decode(), stored[name.decode()])} and not"
                f" {_value_of(name.decode(), self._given[name.decode()])}"
                for name in differing
            )
            raise DifferentSettingsError(
                f"the log of namespace {self._names.namespace!r} is used with {differences}: give"
                " the same, leave it out to take what is stored, or change it for everybody with"
                " change_retention=True"
            )
        self.adopt(reply)

    def adopt(self, reply: Sequence[Any]) -> list[str]:
        """Take what Redis answered to either; return what changed by that, for a log."""
        _, values = reply
        before = self._in_use()
        stored = {
            name: int(value)
            for name, value in zip(_STORED, values, strict=True)
            # Others may have written anything.
            if value is not None and value.isdigit() and len(value) <= 18
        }
        self.retention, self.max_message_size = _read(stored)
        after = self._in_use()
        # What somebody changed for everybody is what to store if the log is lost.
        self._given = {name: after[name] for name in self._given}
        return [
            f"{_shown(name, after[name])} instead of {_value_of(name, before[name])}"
            for name in _STORED
            if before[name] != after[name]
        ]

    def _in_use(self) -> dict[str, int]:
        # That a default is no bound on age is stored as 0 where it is given.
        unbounded = {"retain_milliseconds": 0}
        return unbounded | _stored_values(self.retention.filled(), self.max_message_size)

    def _command(self, how: str) -> Command:
        pairs = (item for pair in self._given.items() for item in pair)
        return self._names.script("settings", how, *pairs)


def _stored_values(retention: Any, max_message_size: int | None) -> dict[str, int]:
    """Return the values that are not None, as Redis has them."""
    seconds = retention.seconds
    values = {
        "retain_messages": retention.messages,
        "retain_bytes": retention.bytes,
        "retain_per_key": retention.per_key,
        "retain_keys": retention.keys,
        "retain_kept_bytes": retention.kept_bytes,
        "max_message_size": max_message_size,
    }
    if seconds is not None:
        values["retain_milliseconds"] = 0 if seconds == inf else max(1, round(seconds * 1000))
    return {name: value for name, value in values.items() if value is not None}


def _read(stored: Mapping[str, int]) -> tuple[Retention, int]:
    """Return the stored values; those that are out of range count as not stored."""
    fields: dict[str, Any] = {}
    for name in _FIELDS:
        value = stored.get(f"retain_{name}")
        if value is None:
            continue
        if name == "milliseconds":
            name, value = "seconds", value / 1000 if value else inf  # type: ignore[assignment]  # noqa: PLW2901
        try:
            Retention(**{name: value})
        except ValueError:
            continue
        fields[name] = value
    return Retention(**fields), stored.get("max_message_size") or MAX_MESSAGE_SIZE


def _shown(name: str, value: object) -> str:
    option = name if name == "max_message_size" else name.replace("retain_", "retention.")
    return f"{option.replace('milliseconds', 'seconds')}={_value_of(name, value)}"


def _value_of(name: str, value: object) -> str:
    number = int(value)  # type: ignore[call-overload]
    if name == "retain_milliseconds":
        return f"{number / 1000:g}" if number else "inf"
    return str(number)
