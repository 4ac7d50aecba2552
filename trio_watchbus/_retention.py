"""How much of the past a bus keeps."""

from __future__ import annotations

from dataclasses import dataclass, fields

_LEAST = {"messages": 1, "bytes": 1, "per_key": 0, "keys": 0, "kept_bytes": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class FilledRetention:
    """A `Retention` whose every field is given: the defaults, where nobody gave another."""

    messages: int = 10_000
    bytes: int = 64 * 1024 * 1024
    seconds: float | None = None
    per_key: int = 1
    keys: int = 100_000
    kept_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much of the past a bus keeps.

    A field that is None is what the bus's log has stored, or else the default.

    The first three bound the journal, the tail of all messages from which watches resume and
    catch up: whichever is reached first drops the oldest. The others bound what is kept for
    each key beside it, for `history` and `latest`; messages sent to a prefix are not among those.

    Attributes:
        messages: messages in the journal, at least 1; 10,000 by default, which is some seconds of
            a busy service: the time in which a client that lost its connection is back.
        bytes: bytes of data and characters of keys in the journal, at least 1; 64 MiB by default.
        seconds: age of a message in the journal; no bound by default. Looked at when a message
            comes in, so that a quiet bus keeps what it has. In memory, ages are told by a clock
            that never goes back.
        per_key: newest messages kept for each key, 0 for none; 1 by default.
        keys: the number of most recently published keys for which they are kept; 100,000 by
            default.
        kept_bytes: bytes of data and characters of keys kept for all of those, at least 1; 64 MiB
            by default. Beyond it, the keys that were not published to for longest are given up.
    """

    messages: int | None = None
    bytes: int | None = None
    seconds: float | None = None
    per_key: int | None = None
    keys: int | None = None
    kept_bytes: int | None = None

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"Retention.{name} must be an int, not {type(value).__name__}")
            if value < least:
                raise ValueError(f"Retention.{name} must be at least {least}, not {value}")
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"Retention.seconds must be positive or None, not {self.seconds}")

    def filled(self) -> FilledRetention:
        """Return this with the default for each field that is None."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return FilledRetention(**{k: value for k, value in values.items() if value is not None})


class DifferentSettingsError(ValueError):
    """A log is used with other settings than those given; nothing was changed."""


def check_retention(retention: Retention | None) -> Retention:
    """Return `retention`, or the default where it is None.

    Raises:
        TypeError: it is something else.
    """
    if retention is None:
        return Retention()
    if not isinstance(retention, Retention):
        raise TypeError(f"retention must be a Retention, not {type(retention).__name__}")
    return retention
