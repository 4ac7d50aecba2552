"""What a server can be told, and where it listens."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from trio_watchbus.web import ServerOptions, WebOptions
from trio_watchbus.web._listen import Bind, open_socket, url_of


@pytest.mark.parametrize(
    ("kind", "options", "error"),
    [
        (WebOptions, {"heartbeat": 0}, ValueError),
        (WebOptions, {"heartbeat": float("nan")}, ValueError),
        (WebOptions, {"max_keys": 0}, ValueError),
        (WebOptions, {"max_batch_messages": -1}, ValueError),
        (WebOptions, {"allowed_hosts": "a"}, TypeError),
        (WebOptions, {"allowed_hosts": ["https://shop.example/"]}, ValueError),
        (WebOptions, {"allowed_hosts": ["https://shop.example"]}, ValueError),
        (WebOptions, {"allowed_hosts": ["shop.example", "shop.example/"]}, ValueError),
        (WebOptions, {"allowed_hosts": ["shop.example:443"]}, ValueError),
        (WebOptions, {"allowed_hosts": ["[::1]:443"]}, ValueError),
        (WebOptions, {"allowed_hosts": ["*.example"]}, ValueError),
        (WebOptions, {"allowed_hosts": [""]}, ValueError),
        (WebOptions, {"allowed_origins": ["foo"]}, ValueError),
        (WebOptions, {"allowed_origins": ["https://shop.example", ""]}, ValueError),
        (WebOptions, {"allowed_origins": ["*"]}, ValueError),
        (WebOptions, {"allowed_origins": ["null"]}, ValueError),
        (WebOptions, {"allowed_origins": ["shop.example:80"]}, ValueError),
        (WebOptions, {"allowed_origins": ["ftp://shop.example"]}, ValueError),
        (WebOptions, {"allowed_origins": ["https://shop.example/"]}, ValueError),
        (WebOptions, {"allowed_origins": ["https://me@shop.example"]}, ValueError),
        (WebOptions, {"allowed_origins": ["https://shop.example:"]}, ValueError),
        (ServerOptions, {"heartbeat": 0}, ValueError),
        (ServerOptions, {"write_timeout": 0}, ValueError),
        (ServerOptions, {"keep_alive": 0}, ValueError),
        (ServerOptions, {"grace": -1}, ValueError),
        (ServerOptions, {"max_connections": 0}, ValueError),
        (ServerOptions, {"certfile": "a"}, ValueError),
        (ServerOptions, {"keyfile": "a"}, ValueError),
    ],
)
def test_options_out_of_range(
    kind: type[WebOptions], options: dict[str, Any], error: type[Exception]
) -> None:
    """They are refused where they are made, by name."""
    with pytest.raises(error, match=next(iter(options))):
        kind(**options)


@pytest.mark.parametrize(
    "origin", ["https://shop.example", "HTTP://localhost:8080", "http://[::1]:80", "https://[::1]"]
)
def test_an_origin(origin: str) -> None:
    """A scheme and a host, with or without a port."""
    assert WebOptions(allowed_origins=[origin]).allowed_origins == [origin]


@pytest.mark.parametrize(
    "host", ["shop.example", "Shop_1", "192.0.2.1", "2001:db8::1", "[2001:DB8::1]", "fe80::1%eth0"]
)
def test_a_host(host: str) -> None:
    """A name or an address, in brackets or not."""
    assert WebOptions(allowed_hosts=[host]).allowed_hosts == [host]


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("127.0.0.1:8000", ("127.0.0.1", 8000)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_where_to_listen(text: str, bind: tuple[str, int]) -> None:
    assert Bind.parse(text) == bind


@pytest.mark.parametrize(
    "text", ["", "8000", ":8000", "localhost", "a:", "a:-1", "a:65536", "a:1e3", "a:٣", "::1:80"]
)
def test_nowhere_to_listen(text: str) -> None:
    with pytest.raises(ValueError, match="as in"):
        Bind.parse(text)


def test_a_connection_inherits_the_write_deadline() -> None:
    """The listening socket has it, and so each connection that is accepted."""
    with open_socket(
        Bind("127.0.0.1", 0), write_timeout=12.3456, allow_anonymous=False
    ) as listening:
        with socket.create_connection(listening.getsockname()):
            connection, _ = listening.accept()
            with connection:
                assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 12346
        assert url_of(listening, tls=True) == f"https://127.0.0.1:{listening.getsockname()[1]}"


def test_the_url_of_an_address_of_ipv6() -> None:
    with open_socket(Bind("::1", 0), write_timeout=1, allow_anonymous=False) as listening:
        assert url_of(listening, tls=False) == f"http://[::1]:{listening.getsockname()[1]}"
