"""The address of a served bus."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

_SCHEMES = {"http": False, "ws": False, "https": True, "wss": True}

_FORM = "http://host[:port][/path], or likewise with https, ws or wss"

_PATH = re.compile("(/[!-~]*)?", re.ASCII)
_HOST = re.compile("[0-9A-Za-z_.:%-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """The address of the routes of a served bus.

    Attributes:
        host: a name or an IP address.
        port: the TCP port.
        tls: whether to use TLS.
        path: the path that the routes are under, without a slash at its end.
    """

    host: str
    port: int
    tls: bool
    path: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Return the address that a bus URL names.

        Raises:
            ValueError: it is not the URL of a served bus. The error quotes nothing of it: a
                password may be anywhere in what is not a URL.
        """
        try:
            parts = urlsplit(url)
            tls = _SCHEMES[parts.scheme]
            port = parts.port
            host = (parts.hostname or "").encode("idna").decode()
        except (ValueError, KeyError):
            problem = "not the URL of a served bus"
        else:
            if "@" in parts.netloc:
                problem = "the URL of a served bus has no user or password (give a token instead)"
            elif parts.query or parts.fragment:
                problem = "the URL of a served bus has no query and no fragment"
            elif not _HOST.fullmatch(host) or port == 0 or not _PATH.fullmatch(parts.path):
                problem = "not the URL of a served bus"
            else:
                default_port = 443 if tls else 80
                return cls(host, port or default_port, tls, parts.path.rstrip("/"))
        raise ValueError(f"{problem}; wanted {_FORM}") from None

    def __str__(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.path}"

    @property
    def authority(self) -> str:
        """Host and port, as in a ``Host`` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def resource(self) -> str:
        """The path of the WebSocket."""
        return f"{self.path}/ws"
