"""Which hosts and origins a request may name.

Neither Quart nor hypercorn looks at them. Without a look at ``Host``, a page elsewhere reads
everything from a server that only listens on loopback, by pointing its own name there; without
one at ``Origin``, it does so over WebSocket, which knows no other bounds, or publishes.
"""

from __future__ import annotations

from typing import Any, final
from urllib.parse import urlsplit

from quart import Request, Response

from ._options import WebOptions
from ._refusal import Refusal

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST",
    "Access-Control-Allow-Headers": "Content-Type, Idempotency-Key, Last-Event-ID",
    "Access-Control-Max-Age": "600",
}


@final
class AccessPolicy:
    """Which hosts and origins are allowed."""

    def __init__(self, options: WebOptions) -> None:
        # An address of IPv6 may be in brackets, as it is in the header.
        self._hosts = _LOOPBACK | {host.strip("[]").lower() for host in options.allowed_hosts}
        self._origins = frozenset(origin.lower() for origin in options.allowed_origins)

    def check(self, host: str, origin: str | None, server: tuple[str, Any] | None) -> None:
        """Return if a request may be served.

        Args:
            host: its header ``Host``, or nothing.
            origin: its header ``Origin``, if any.
            server: address and port that it came to, if they are known.

        Raises:
            Refusal: its host or origin is not allowed.
        """
        name = _host_name(host)
        # A page cannot have the browser name an address that it is not at, only a name of its own.
        if name not in self._hosts and (server is None or name != server[0]):
            raise Refusal(
                403,
                "host_not_allowed",
                "this server does not go by that name (header Host); allow it with allowed_hosts"
                " (--allowed-host)",
            )
        if origin is not None and not self._is_same(origin, host):
            self._check_foreign(origin)

    def add_headers(self, request: Request, response: Response) -> None:
        """Let a page of an allowed origin read `response`."""
        if not self._origins:
            return
        response.vary.add("Origin")
        origin = request.headers.get("Origin")
        if origin is not None and origin.lower() in self._origins:
            response.headers["Access-Control-Allow-Origin"] = origin
            if request.method == "OPTIONS":
                response.headers.update(_PREFLIGHT)

    def _check_foreign(self, origin: str) -> None:
        if origin.lower() not in self._origins:
            raise Refusal(
                403,
                "origin_not_allowed",
                "pages of that origin may not use this server; allow it with allowed_origins"
                " (--allowed-origin)",
            )

    @staticmethod
    def _is_same(origin: str, host: str) -> bool:
        # The scheme is not compared: behind a proxy that ends TLS, only the page's is https.
        _, _, netloc = origin.partition("://")
        return netloc.lower() == host.lower()


def _host_name(host: str) -> str:
    """Return the name or address in a ``Host`` header, without its port; empty if it is not one."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
