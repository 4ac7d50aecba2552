"""Reads which keys any process watches."""

from __future__ import annotations

from ._layout import Names, read_names
from ._queries import Queries

_PAGE = 1000
"""Keys that Redis looks at in one request."""


async def watched_keys(queries: Queries, names: Names, prefix: str) -> frozenset[str]:
    """Return the keys under `prefix` that any process watches, read a page at a time.

    Keys that came or went meanwhile may be among them or not.
    """
    sweeping = 1
    while sweeping:
        # Else keys of processes whose leases have ended would be among them.
        [sweeping] = await queries.request([names.script("sweep")])
    found: set[str] = set()
    start, cursor = prefix.encode(), b"0"
    while True:
        [(cursor, page)] = await queries.request([("SSCAN", names.index, cursor, "COUNT", _PAGE)])
        found.update(read_names(key for key in page if key.startswith(start)))
        if cursor == b"0":
            return frozenset(found)
