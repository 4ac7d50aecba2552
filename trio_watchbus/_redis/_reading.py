"""The reader's part in the connection's thread: it sends, receives and parses, and keeps no state.

All of it blocks, and raises `BackendError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._backend_errors import BusyError, PermanentError, RefusedError
from ._layout import Command, Facts, Names, Page, read_log

if TYPE_CHECKING:
    from ._connection import Link


def probe(link: Link, names: Names) -> None:
    """Check that all that the bus does is permitted, and that all names are its own."""
    try:
        ask(link, names.script("probe"))
        ask(link, ("XREAD", "STREAMS", names.probe, "0-0"))
    except RefusedError as refusal:
        # What it cannot write now, for want of memory say, it may later.
        if isinstance(refusal, (PermanentError, BusyError)):
            raise


def ask_facts(link: Link, command: Command) -> Facts:
    """Return the facts that a call of the script answers with."""
    [answer] = ask(link, command)
    return Facts.read(*answer)


def read_page(link: Link, epoch: str, *commands: Command) -> tuple[Page, Facts]:
    """Return what a read of the log and the call after it give."""
    streams, facts = ask(link, *commands)
    return read_log(streams[0][1] if streams else (), epoch), Facts.read(*facts)


def ask(link: Link, *commands: Command) -> list[Any]:
    """Return the replies to `commands`; raise the first that is a refusal."""
    replies = link.exchange(*commands)
    for reply in replies:
        if isinstance(reply, RefusedError):
            raise reply
    return replies
