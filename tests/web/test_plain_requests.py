"""What the first loop of a connection takes for plain, hypercorn's parser reads alike."""

from __future__ import annotations

from typing import Any, cast

import h11
import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trio_watchbus.web._budget import Budget
from trio_watchbus.web._connection import parse_plain


class Client:
    """All that is asked of a connection."""

    server = ("127.0.0.1", 8000)


Read = tuple[str, str, bytes, dict[str, str], bytes, bytes]
"""Method, path, query, headers, body, and what follows."""


def read_plain(data: bytes) -> Read | None:
    plain = parse_plain(data, cast("Any", Client()))
    if plain is None:
        return None
    request, rest = plain
    hold = Budget(2**30).hold()
    body = bytes(trio.run(request.read_body, 2**20, hold))
    return request.method, request.path, request.query, request.headers, body, rest


def read_by_h11(data: bytes) -> Read | None:
    """The same, as hypercorn has it; None where that is no whole request."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    try:
        head = connection.next_event()
        if not isinstance(head, h11.Request):
            return None
        body = b""
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return None
    except h11.RemoteProtocolError:
        return None
    path, _, query = head.target.partition(b"?")
    headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
    assert len(headers) == len(head.headers)
    rest = connection.trailing_data[0]
    return head.method.decode(), path.decode(), query, headers, body, bytes(rest)


def post(
    *lines: bytes, body: bytes = b"x", first: bytes = b"POST /publish?key=a HTTP/1.1"
) -> bytes:
    return b"\r\n".join([first, b"Host: 127.0.0.1", *lines, b"", b""]) + body


PLAIN = [
    post(b"Content-Length: 1"),
    post(b"content-length:1", b"Idempotency-Key: a b  c "),
    post(b"Content-Length: 0", body=b""),
    post(b"Content-Length: 1", b"Connection: Keep-Alive", body=b"xGET / HTTP/1.1\r\n\r\n"),
    post(first=b"GET /sse?key=a&x=%20 HTTP/1.1", body=b""),
    post(b"Empty:", b"Accept: */*", first=b"GET /healthz HTTP/1.1", body=b"y"),
]

TRICKS = [
    post(b"Content-Length: 1", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    post(b"Transfer-Encoding: chunked", body=b"1\r\nx\r\n0\r\n\r\n"),
    post(b"Transfer-Encoding: chunked", body=b"1;a=b\r\nx\r\n0\r\n\r\n"),
    post(b"Transfer-Encoding: chunked", body=b"1\nx\n0\n\n"),
    post(b"Transfer-Encoding: chunked", body=b"1\r\nxx0\r\n\r\n"),
    post(b"Transfer-Encoding: chunked", body=b"0x1\r\nx\r\n0\r\n\r\n"),
    post(b"Transfer-Encoding: identity", b"Content-Length: 1"),
    post(b"Transfer-Encoding : chunked"),
    post(b"Transfer-Encoding:\x0bchunked"),
    post(b"Transfer-Encoding: xchunked"),
    post(b"Content-Length: 1", b"Content-Length: 1"),
    post(b"Content-Length: 1", b"Content-Length: 2"),
    post(b"Content-Length: 1, 1"),
    post(b"Content-Length: +1"),
    post(b"Content-Length: -1"),
    post(b"Content-Length: 0x1"),
    post(b"Content-Length: 01"),
    post(b"Content-Length: 1_0"),
    post(b"Content-Length: 1 1"),
    post(b"Content-Length: \xb2"),
    post(b"Content-Length: 9999999999999999999999"),
    post(b"Content-Length:"),
    post(b"Content-Length : 1"),
    post(b"Content-Length\t: 1"),
    post(b" Content-Length: 1"),
    post(b"Content-Length: 1\x00"),
    post(b"Content-Length: 1", b"X: a\x00b"),
    post(b"Content-Length: 1", b"X: a\rContent-Length: 2"),
    post(b"Content-Length: 1", b"X: a\nContent-Length: 2"),
    post(b"Content-Length: 1", b"X: a", b" folded"),
    post(b"Content-Length: 1", b"X: a", b"\tfolded"),
    post(b"Content-Length: 1", b"X\xff: a"),
    post(b"Content-Length: 1", b"X: \xff"),
    post(b"Content-Length: 1", b": a"),
    post(b"Content-Length: 1", b"no colon"),
    post(b"Content-Length: 1", b"Host: other"),
    post(b"Content-Length: 1", b"Expect: 100-continue"),
    post(b"Content-Length: 1", b"Connection: close"),
    post(b"Content-Length: 1", b"Connection: Upgrade", b"Upgrade: websocket"),
    post(b"Content-Length: 1", b"Upgrade: h2c"),
    post(b"Content-Length: 1", b"TE: trailers"),
    post(b"Content-Length: 2"),
    post(),
    post(b"Content-Length: 1").replace(b"\r\n", b"\n"),
    post(b"Content-Length: 1").replace(b"\r\n\r\n", b"\n\n"),
    post(b"Content-Length: 1").replace(b"Host", b"X", 1),
    b"\r\n" + post(b"Content-Length: 1"),
    b" " + post(b"Content-Length: 1"),
    post(b"Content-Length: 1", first=b"POST /publish?key=a HTTP/1.0"),
    post(b"Content-Length: 1", first=b"POST /publish?key=a HTTP/1.10"),
    post(b"Content-Length: 1", first=b"POST /publish?key=a http/1.1"),
    post(b"Content-Length: 1", first=b"POST  /publish?key=a HTTP/1.1"),
    post(b"Content-Length: 1", first=b"POST\t/publish?key=a HTTP/1.1"),
    post(b"Content-Length: 1", first=b"POST /publish?key=a\xff HTTP/1.1"),
    post(b"Content-Length: 1", first=b"POST /publish?key=a\x0b HTTP/1.1"),
    post(b"Content-Length: 1", first=b"POST http://a/publish HTTP/1.1"),
    post(b"Content-Length: 1", first=b"post /publish HTTP/1.1"),
    post(b"Content-Length: 1", first=b"POST /publish"),
    post(b"Content-Length: 1", first=b"GET /sse HTTP/1.1"),
    post(b"Content-Length: 0", first=b"GET /healthz HTTP/1.1", body=b""),
    post(b"Content-Length: 1", b"X: " + b"a" * 20_000),
]


@pytest.mark.parametrize("data", PLAIN)
def test_a_plain_request_is_read(data: bytes) -> None:
    """And as h11 reads it."""
    plain = read_plain(data)
    assert plain is not None
    assert plain == read_by_h11(data)


@pytest.mark.parametrize("data", TRICKS, ids=[str(number) for number in range(len(TRICKS))])
def test_a_framing_trick_is_handed_over(data: bytes) -> None:
    assert read_plain(data) is None


PIECES = st.sampled_from(
    [
        *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b"\x00", b":", b",", b";", b"0", b"1"),
        *(b"+1", b"0x1", b"Content-Length: 1\r\n", b"Transfer-Encoding: chunked\r\n", b"a"),
        *(b"Host: a\r\n", b"POST /publish HTTP/1.1\r\n", b"Connection: keep-alive\r\n", b"\x7f"),
    ]
)


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """A request in which something is put, or from which something is cut, at a few places."""
    data = draw(st.sampled_from(PLAIN + TRICKS[:-1]))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(PIECES | st.just(b"")) + data[at + draw(st.integers(0, 3)) :]
    return data


@settings(max_examples=1000)
@given(spoiled() | st.lists(PIECES).map(b"".join))
@example(post(b"Content-Length: 1", b"X:  two spaces"))
@example(post(b"Content-Length: 1", b"X: \x7f"))
def test_both_parsers_read_a_request_alike(data: bytes) -> None:
    """Whatever the first loop takes for a request, h11 takes for the same one, to the byte."""
    plain = read_plain(data)
    if plain is not None:
        assert plain == read_by_h11(data)
