"""What a served bus allows, and how often it speaks: one place for every default."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass

# As browsers send it in the header: nothing else would ever be equal to one.
_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[^\s/?#@:\[\]]+)(:[0-9]{1,5})?", re.IGNORECASE)

_NAME = re.compile(r"[^\s/?#@:\[\]*]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebOptions:
    """What the routes of a served bus allow.

    Attributes:
        heartbeat: seconds after which an idle stream says something, so that both sides notice
            when the other has gone; more than 0. Proxies commonly cut what is idle for 30 to 60.
        allowed_hosts: names and addresses (``shop.example``) that requests may have in ``Host``,
            with any port, beside those of the loopback interface and the address that the
            connection came in on. A page elsewhere whose name an attacker points at this server
            is refused by this.
        allowed_origins: origins (``https://shop.example``), beside the server's own, of pages
            that may use the routes.
        max_keys: keys and prefixes that one request or watch may name, at least 1.
        max_watches: watches that one ``watchbus.v1`` connection may have, at least 1.
        max_inbound_size: bytes of one message that a WebSocket client sends, other than to
            publish, at least 1.
        max_batch_size: bytes of one NDJSON batch, at least 1.
        max_batch_messages: messages in one batch, at least 1: they are published in one step,
            in which nobody else has a turn.
        max_in_flight_size: bytes in flight, at least 1: bodies and WebSocket messages that arrive
            or are being published, and what waits for clients that read slowly. A request beyond
            it is answered 503, a WebSocket closed with 1013, a client that reads slowly cut.
    """

    heartbeat: float = 15.0
    allowed_hosts: Collection[str] = ()
    allowed_origins: Collection[str] = ()
    max_keys: int = 100
    max_watches: int = 1000
    max_inbound_size: int = 64 * 1024
    max_batch_size: int = 16 * 1024 * 1024
    max_batch_messages: int = 10_000
    max_in_flight_size: int = 256 * 1024 * 1024

    def __post_init__(self) -> None:
        _check_seconds(self, "heartbeat")
        _check_counts(
            self,
            *("max_keys", "max_watches", "max_inbound_size"),
            *("max_batch_size", "max_batch_messages", "max_in_flight_size"),
        )
        for name in ("allowed_hosts", "allowed_origins"):
            if isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be a collection of str; put the one into a list")
        for host in self.allowed_hosts:
            if not _is_host(host):
                raise ValueError(
                    "what allowed_hosts (--allowed-host) names must be a name or an address, as"
                    f" shop.example, without https://, without a port and without /, not {host!r}"
                )
        for origin in self.allowed_origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    "what allowed_origins (--allowed-origin) names must be scheme://host or"
                    f" scheme://host:port, as https://shop.example, not {origin!r}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions(WebOptions):
    """What a server of these routes allows, beside what the routes do.

    Attributes:
        allow_anonymous: whether to listen where other machines reach it, though nobody is asked
            who they are: whoever reaches the server reads and publishes everything.
        certfile: file of the certificate chain, in PEM; with `keyfile`, the server speaks TLS.
        keyfile: file of the private key, in PEM.
        max_connections: connections that are open at once, at least 1. One more is answered 503.
        max_connections_per_address: of these, connections from one address, at least 1. One more
            is answered 429. No fewer than in all unless told, as behind a proxy all connections
            come from the proxy.
        keep_alive: seconds, more than 0, that a connection may idle between requests. Longer than
            proxies keep idle connections, commonly 60, so that no proxy sends a request to one
            that is just being closed. A request that has begun has 5 seconds for its head.
        write_timeout: seconds, more than 0, in which a client has to take something of what is
            sent to it, or it is cut.
        grace: seconds, at least 0, that clients and requests have to end when the server stops.
        access_log: whether to log each request, at level INFO to ``trio_watchbus.access``.
    """

    allow_anonymous: bool = False
    certfile: str | None = None
    keyfile: str | None = None
    max_connections: int = 10_000
    max_connections_per_address: int = 10_000
    keep_alive: float = 75.0
    write_timeout: float = 30.0
    grace: float = 5.0
    access_log: bool = False

    def __post_init__(self) -> None:
        WebOptions.__post_init__(self)
        _check_seconds(self, "keep_alive")
        _check_seconds(self, "write_timeout")
        _check_counts(self, "max_connections", "max_connections_per_address")
        if not self.grace >= 0:
            raise ValueError(f"grace must be at least 0 seconds, not {self.grace}")
        if (self.certfile is None) != (self.keyfile is None):
            raise ValueError("certfile and keyfile go together: give both, or neither")


def _is_host(text: str) -> bool:
    """Whether the header ``Host`` can name it: else it would never be equal to one."""
    if ":" not in text:
        return _NAME.fullmatch(text) is not None
    try:
        ipaddress.IPv6Address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _check_seconds(options: object, name: str) -> None:
    if not getattr(options, name) > 0:
        raise ValueError(f"{name} must be more than 0 seconds, not {getattr(options, name)}")


def _check_counts(options: object, *names: str) -> None:
    for name in names:
        if getattr(options, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(options, name)}")
