"""Where a served bus is, read from its URL."""

from __future__ import annotations

import pytest

from trio_watchbus._remote._address import Address


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "resource", "shown"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1", 8000, False, "/ws", "http://127.0.0.1:8000"),
        ("ws://h", "h", 80, False, "/ws", "http://h"),
        ("wss://h/", "h", 443, True, "/ws", "https://h"),
        ("https://h:443/a%20b/", "h", 443, True, "/a%20b/ws", "https://h/a%20b"),
        ("http://[::1]:1/x", "::1", 1, False, "/x/ws", "http://[::1]:1/x"),
        ("HTTP://B\u00fccher.example", "xn--bcher-kva.example", 80, False, "/ws", None),
    ],
)
def test_a_url_names_host_port_and_path(
    url: str, host: str, port: int, tls: bool, resource: str, shown: str | None
) -> None:
    address = Address.parse(url)
    assert (address.host, address.port, address.tls) == (host, port, tls)
    assert address.resource == resource
    assert str(address) == (shown or f"http://{host}")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h:8000",
        "http:h",
        "http://",
        "http://:80",
        "ftp://h",
        "http://h:0",
        "http://h:99999",
        "http://h:secret",
        "http://user:secret@h",
        "http://secret@h",
        "http://h?token=secret",
        "http://h#secret",
        "http://h/a secret",
        "http://[::1",
        "http://h/\u00e9",
        "http://" + "a" * 70,
    ],
)
def test_what_is_no_such_url_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(ValueError, match="wanted http://host") as caught:
        Address.parse(url)
    error: BaseException | None = caught.value
    while error is not None:
        assert "secret" not in str(error)
        error = error.__cause__ or error.__context__
