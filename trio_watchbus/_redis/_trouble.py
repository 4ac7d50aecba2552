"""What can go wrong between the bus and Redis, sorted by what to do about it."""

from __future__ import annotations

import re


class TroubleError(Exception):
    """Something that came instead of an answer from Redis.

    Its text names no secret: it is either Redis's own, or names an address.
    """


class UnreachableError(TroubleError):
    """The connection failed: before anything was sent, or while the answer was awaited."""


class RefusedError(TroubleError):
    """Redis answered that it will not; what it was asked was not done."""


class HopelessError(RefusedError):
    """Redis will refuse this for as long as nobody changes its settings or this bus's."""


class BusyError(RefusedError):
    """Redis will not now: it is loading or busy."""


class ReplicaError(BusyError):
    """This server is a replica: until it takes over, or for as long as the address names it."""


class UnknownScriptError(RefusedError):
    """Redis does not hold the script that was called by its name; nothing was run."""


# Inside a script the code may stand anywhere in the text: before Redis 7 its errors are quoted in
# others.
_KINDS: list[tuple[type[RefusedError], re.Pattern[str]]] = [
    (UnknownScriptError, re.compile(r"\bNOSCRIPT\b|No matching script")),
    (
        HopelessError,
        re.compile(
            r"\b(NOAUTH|WRONGPASS|NOPERM|WRONGTYPE|DENIED|NOPROTO)\b"
            r"|Authentication required|invalid username-password|invalid password"
            r"|has no permissions|can't run this command|can't access at least one of the keys"
            r"|without any password configured|CERTIFICATE_VERIFY_FAILED"
            # A server that is too old, or where commands were renamed away.
            r"|[Uu]nknown (Redis )?command|syntax error"
            r"|DB index is out of range|Client names cannot contain"
        ),
    ),
    (ReplicaError, re.compile(r"\b(READONLY|MASTERDOWN|UNBLOCKED)\b|read only replica")),
    (
        BusyError,
        re.compile(
            r"\b(LOADING|BUSY|TRYAGAIN|CLUSTERDOWN|NOREPLICAS|STALE)\b"
            r"|max number of clients|is loading the dataset"
        ),
    ),
]


def refusal(text: str) -> RefusedError:
    """Return an error for what Redis answered."""
    for kind, pattern in _KINDS:
        if pattern.search(text):
            return kind(text)
    return RefusedError(text)
