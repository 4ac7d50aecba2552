"""Hosts and origins, compared by what they mean. No input or output."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

_AUTHORITY = re.compile(
    r"(?:\[([0-9a-f.]*:[0-9a-f:.]*)\]|([a-z0-9._-]+))(?::([0-9]{0,5}))?", re.IGNORECASE
)

_DEFAULT_PORTS = {"http": 80, "https": 443}


class Authority(NamedTuple):
    """A host and its port.

    Attributes:
        host: a name in lower case without a trailing dot, or an address in its shortest form.
        port: None for the default port of the scheme.
    """

    host: str
    port: int | None


class Origin(NamedTuple):
    """Where a page comes from, by RFC 6454."""

    scheme: str
    host: str
    port: int

    def is_of(self, authority: Authority) -> bool:
        """Whether this is an origin of the server that goes by `authority`.

        The scheme is not compared: behind a proxy that ends TLS, only the page's is https.
        """
        default = _DEFAULT_PORTS[self.scheme]
        port = default if authority.port is None else authority.port
        return (self.host, self.port) == (authority.host, port)


def parse_authority(text: str) -> Authority | None:
    """Return what a ``Host`` header names, or None if that is no host and port."""
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        return None
    address, name, digits = found.groups()
    host = plain_host(address or name)
    if host is None:
        return None
    if not digits:
        return Authority(host, None)
    port = int(digits)
    return Authority(host, port) if 0 < port < 65536 else None


def parse_origin(text: str) -> Origin | None:
    """Return what an ``Origin`` header names, or None if that is no origin of a web page."""
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    authority = parse_authority(rest) if separator and scheme in _DEFAULT_PORTS else None
    if authority is None:
        return None
    default = _DEFAULT_PORTS[scheme]
    return Origin(scheme, authority.host, default if authority.port is None else authority.port)


def plain_host(host: str) -> str | None:
    """Return the one form of a name or address, or None if it is an address that is none.

    An IPv4-mapped address of IPv6 is that of IPv4.
    """
    host = host.lower().removesuffix(".")
    if ":" in host:
        try:
            address = ipaddress.IPv6Address(host)
        except ValueError:
            return None
        return str(address.ipv4_mapped or address)
    return host or None
