"""How much of the past a bus keeps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much of the past a bus keeps, for resuming, replay and history.

    The first three bound the journal, the tail of all messages from which watches resume and
    catch up: whichever is reached first drops the oldest. The other two bound what is kept for
    each key beside it, for `history` and `latest`; messages sent to a prefix are not among those.

    Attributes:
        messages: messages in the journal, at least 1. The default holds some seconds of a busy
            service: the time in which a client that lost its connection is back.
        bytes: bytes of data and characters of keys in the journal, at least 1.
        seconds: age of a message in the journal, or None for no bound. Looked at when a message
            comes in, so that a quiet bus keeps what it has.
        per_key: newest messages kept for each key, 0 for none.
        keys: the number of most recently published keys for which they are kept.
    """

    messages: int = 10_000
    bytes: int = 64 * 1024 * 1024
    seconds: float | None = None
    per_key: int = 1
    keys: int = 100_000

    def __post_init__(self) -> None:
        for name, least in (("messages", 1), ("bytes", 1), ("per_key", 0), ("keys", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"Retention.{name} must be an int, not {type(value).__name__}")
            if value < least:
                raise ValueError(f"Retention.{name} must be at least {least}, not {value}")
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"Retention.seconds must be positive or None, not {self.seconds}")


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
