"""What can go wrong between the bus and Redis, by what to do about it.

::

    BackendError
    ├── UnreachableError
    │   └── NotConnectedError
    └── RefusedError
        ├── UnfinishedError
        ├── PermanentError
        ├── BusyError
        │   ├── ReplicaError
        │   └── MisconfiguredError
        └── UnknownScriptError
"""

from __future__ import annotations

import re


class BackendError(Exception):
    """No answer came from Redis, or a refusal.

    Its text has no secret: it is Redis's own, or names an address.
    """


class UnreachableError(BackendError):
    """The connection failed: before anything was sent, or before the answer came."""


class NotConnectedError(UnreachableError):
    """There is no connection, so nothing was sent."""


class RefusedError(BackendError):
    """Redis refused, and did nothing of what was requested."""


class PermanentError(RefusedError):
    """Redis will refuse until somebody changes its settings or the bus's: it ends the bus."""


class BusyError(RefusedError):
    """Redis refuses for now, while it is loading, say: it is asked again."""


class ReplicaError(BusyError):
    """This server is a replica: until it takes over, or for as long as the address leads to it."""


class MisconfiguredError(BusyError):
    """Something is set up wrongly, such as a certificate.

    Opening a bus fails at once. A bus that was open asks again, as this also shows while a server
    is being changed: while its certificate is renewed, say.
    """


class UnfinishedError(RefusedError):
    """The request takes another call, which goes on from where this one was."""


class UnknownScriptError(RefusedError):
    """Redis has no script of this name; it ran nothing."""


# Inside a script the code may stand anywhere in the text: before Redis 7 its errors are quoted in
# others.
_KINDS: list[tuple[type[RefusedError], re.Pattern[str]]] = [
    (UnknownScriptError, re.compile(r"\bNOSCRIPT\b|No matching script")),
    (
        PermanentError,
        re.compile(
            r"\b(NOAUTH|WRONGPASS|NOPERM|WRONGTYPE|LAYOUT)\b"
            r"|Authentication required|invalid username-password|invalid password"
            r"|has no permissions|can't run this command|can't access at least one of the keys"
            r"|without any password configured"
        ),
    ),
    (
        MisconfiguredError,
        re.compile(
            r"\b(DENIED|NOPROTO)\b|CERTIFICATE_VERIFY_FAILED"
            # A server that is too old, one whose commands were renamed, or a proxy.
            r"|[Uu]nknown (Redis )?command|syntax error|unsupported command|invalid command"
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
