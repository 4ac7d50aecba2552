"""A parsed request, however it came."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, final

from ._budget import Hold


@final
class Request:
    """What a handler knows of a request.

    Attributes:
        method: in capitals.
        path: the path as it stands in the target, percent-encoding and all, below the prefix that
            the routes are mounted at.
        query: as it stands in the target.
        headers: by lower-case name. A header that is repeated has its values joined with commas
            (RFC 9110, section 5.3).
        server: the address and port that the connection came in on, if they are known.
        http_version: such as ``1.1``.
        read_body: reads the whole body, of at most so many bytes, which are counted in the hold.
            Raises `Refusal` if it is longer, or does not come.
    """

    __slots__ = ("headers", "http_version", "method", "path", "query", "read_body", "server")

    def __init__(
        self,
        method: str,
        path: str,
        query: bytes,
        headers: dict[str, str],
        server: tuple[str, Any] | None,
        http_version: str,
        read_body: Callable[[int, Hold], Awaitable[bytes | bytearray]],
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.server = server
        self.http_version = http_version
        self.read_body = read_body

    @property
    def has_body(self) -> bool:
        """Whether a body comes with it."""
        headers = self.headers
        return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"

    @property
    def media_type(self) -> str:
        """The type of the body, in lower case and without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


def joined_headers(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return headers by lower-case name, those that are repeated joined."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in pairs:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers
