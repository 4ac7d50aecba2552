"""The socket that a server listens on."""

from __future__ import annotations

import ipaddress
import math
import re
import socket
from typing import NamedTuple

from ._hosts import parse_authority

_BACKLOG = 4096
"""Connections that may wait to be accepted: as many as Linux allows unless told. With hypercorn's
100, ten thousand clients that come at once wait for each other's retries."""


class Bind(NamedTuple):
    """Where to listen.

    Attributes:
        host: a name or an address.
        port: 0 for one that is free.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Bind:
        """Return what ``host:port`` or ``[address]:port`` writes.

        Raises:
            ValueError: it is neither.
        """
        host, _, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"put the address into brackets, as in [::1]:8000, not {text!r}")
        valid = parse_authority(f"[{host}]" if ":" in host else host) is not None
        if not valid or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
            raise ValueError(f"where to listen is host:port, as in 127.0.0.1:8000, not {text!r}")
        return cls(host, int(port))


def open_socket(bind: Bind, *, write_timeout: float, allow_anonymous: bool) -> socket.socket:
    """Return a socket that listens at `bind`. Blocks while a name is looked up.

    Args:
        bind: where to listen.
        write_timeout: seconds in which a client has to take something of what is sent to it.
        allow_anonymous: whether other machines may reach it.

    Raises:
        OSError: the name is unknown, or the address or port cannot be had.
        ValueError: other machines would reach it, and may not.
    """
    # One socket, as port 0 would be another port for each address of a name.
    family, kind, protocol, _, address = socket.getaddrinfo(
        bind.host, bind.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    if not allow_anonymous and not ipaddress.ip_address(address[0]).is_loopback:
        raise ValueError(
            f"{bind.host} is reached from other machines, and nobody is asked who they are:"
            " listen on 127.0.0.1, or allow it with allow_anonymous (--allow-anonymous)"
        )
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it. Nothing else ends a send to a client that does not read:
        # hypercorn shields it from every cancel and timeout.
        listening.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, math.ceil(write_timeout * 1000)
        )
        listening.bind(address)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def url_of(listening: socket.socket, *, tls: bool) -> str:
    """Return the URL of a server that listens on this socket."""
    host, port = listening.getsockname()[:2]
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
