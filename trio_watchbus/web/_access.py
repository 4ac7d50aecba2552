"""Which hosts, origins and pages may use the server.

Neither Quart nor hypercorn checks them. Without a check of ``Host``, a page elsewhere reads
everything from a server that listens on loopback alone, by pointing its own name there. Without
one of ``Origin``, it does so over WebSocket, which knows no same-origin policy, or publishes. And
a request that a page makes without CORS, as for an image, names no origin: ``Sec-Fetch-Site``
alone tells that it is one.
"""

from __future__ import annotations

from functools import lru_cache
from typing import final

from ._answer import Refusal
from ._hosts import Authority, Origin, parse_authority, parse_origin, plain_host
from ._options import WebOptions
from ._request import Request

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST",
    "Access-Control-Allow-Headers": "Content-Type, Idempotency-Key, Last-Event-ID",
    "Access-Control-Max-Age": "600",
}

# Most requests of a server name the same few.
_authority_of = lru_cache(256)(parse_authority)
_origin_of = lru_cache(256)(parse_origin)


@final
class AccessPolicy:
    """Which hosts, origins and pages are allowed."""

    def __init__(self, options: WebOptions) -> None:
        # An address of IPv6 may be in brackets, as it is in the header.
        self._hosts = _LOOPBACK | {plain_host(host.strip("[]")) for host in options.allowed_hosts}
        self._origins = frozenset(parse_origin(origin) for origin in options.allowed_origins)

    def check(self, request: Request, *, is_websocket: bool = False) -> None:
        """Return if `request` may be served; costs nothing that grows.

        Args:
            request: the request.
            is_websocket: whether it is for a WebSocket.

        Raises:
            Refusal: its host or origin is not allowed, or a page elsewhere made it.
        """
        headers = request.headers
        host = _authority_of(headers.get("host", ""))
        # A page can point only names at this server, never an address that it is not at.
        if host is None or not (
            host.host in self._hosts
            or (request.server is not None and host.host == plain_host(request.server[0]))
        ):
            raise Refusal(
                403,
                "host_not_allowed",
                "this server does not go by that name (header Host); allow it with allowed_hosts"
                " (--allowed-host)",
            )
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is not None:
            self._check_origin(_origin_of(origin), host)
        elif site not in (None, "none", "same-origin"):
            raise Refusal(
                403,
                "origin_not_allowed",
                "this request comes from a page elsewhere (header Sec-Fetch-Site) that does not"
                " name its origin; request it with CORS",
            )
        elif (
            "cookie" in headers
            and site != "same-origin"
            and (is_websocket or request.method not in ("GET", "HEAD", "OPTIONS"))
        ):
            raise Refusal(
                403,
                "origin_not_allowed",
                "a request with a cookie that changes something or opens a WebSocket needs the"
                " header Origin, so that a page elsewhere cannot make it in a user's name",
            )

    def headers(self, request: Request) -> dict[str, str]:
        """Return the headers of the answer to `request` that say which pages may read it."""
        # Pages elsewhere do not get it as an image or script either, even if nobody refused it.
        headers = {"Cross-Origin-Resource-Policy": "same-origin"}
        if self._origins:
            headers["Vary"] = "Origin"
            origin = request.headers.get("origin")
            if origin is not None and _origin_of(origin) in self._origins:
                headers["Access-Control-Allow-Origin"] = origin
                if request.method == "OPTIONS":
                    headers |= _PREFLIGHT
        return headers

    def _check_origin(self, origin: Origin | None, host: Authority) -> None:
        if origin is None or not (origin.is_of(host) or origin in self._origins):
            raise Refusal(
                403,
                "origin_not_allowed",
                "pages of that origin may not use this server; allow it with allowed_origins"
                " (--allowed-origin)",
            )
