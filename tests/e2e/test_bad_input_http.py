"""Bad HTTP, and the answer it gets.

After any of it the server still serves, and no watch is left: the fixture sees to that.
"""

from __future__ import annotations

import contextlib
import json

import pytest
import trio
from served import Server, resident_size

NDJSON = {"Content-Type": "application/x-ndjson"}


async def test_a_stream_without_a_key(server: Server) -> None:
    """Neither key nor prefix: 400."""
    response = await server.ask("/sse")
    assert (response.status, response.error) == (400, "missing_key")


async def test_an_empty_key(server: Server) -> None:
    """``key=`` is no key: 400."""
    response = await server.ask("/sse?key=")
    assert (response.status, response.error) == (400, "invalid_key")


async def test_an_empty_prefix(server: Server) -> None:
    """``prefix=`` covers every key."""
    async with await server.connect() as client:
        await client.stream_events("/sse?prefix=")
        await server.bus.publish("any", b"1")
        assert (await client.message_event()).data == "1"


@pytest.mark.parametrize("character", ["%00", "%0A", "%7F", "%C2%80"])
async def test_control_characters(server: Server, character: str) -> None:
    """A key has no control characters: 400."""
    for target in (f"/sse?key=a{character}", f"/sse?prefix={character}"):
        response = await server.ask(target)
        assert (response.status, response.error) == (400, "invalid_key")
    response = await server.ask(f"/publish?key={character}", "POST")
    assert (response.status, response.error) == (400, "invalid_key")


@pytest.mark.parametrize("query", ["key=%ff%fe", "key=%ed%a0%80", "key=a%", "key=%zz", "k%e9y=a"])
async def test_a_query_that_is_not_utf8(server: Server, query: str) -> None:
    """Escapes that are none, and bytes that are not UTF-8, are 400 and not another key."""
    for response in (
        await server.ask(f"/sse?{query}"),
        await server.ask(f"/publish?{query}", "POST"),
    ):
        assert (response.status, response.error) == (400, "invalid_query")


@pytest.mark.parametrize("name", ["key", "prefix"])
async def test_a_key_that_is_too_long(server: Server, name: str) -> None:
    """513 bytes are 414; 512 are a key."""
    response = await server.ask(f"/sse?{name}={'a' * 513}")
    assert (response.status, response.error) == (414, "key_too_long")
    response = await server.ask(f"/publish?{name}=" + "%C3%A4" * 257, "POST")
    assert (response.status, response.error) == (414, "key_too_long")
    assert (await server.ask(f"/publish?{name}={'a' * 512}", "POST")).status == 200


async def test_a_target_of_70_kb(server: Server) -> None:
    """The head of a request is bounded: 431."""
    async with await server.connect() as client:
        await client.request(f"/sse?key={'a' * 70_000}")
        assert (await client.head()).status == 431


async def test_keys_are_compared_code_point_by_code_point(server: Server) -> None:
    """An emoji is a key; the composed and the decomposed form of one name are two."""
    async with await server.connect() as client:
        await client.stream_events("/sse?key=%F0%9F%90%A3&key=%C3%A9")
        await server.bus.publish("e\u0301", b"decomposed")
        await server.bus.publish("\u00e9", b"composed")
        await server.bus.publish("\U0001f423", b"chick")
        assert (await client.message_event()).data == "composed"
        assert (await client.message_event()).data == "chick"


@pytest.mark.parametrize("key", ["*", "[", "%5C", "%7Ba%7D", "watchbus:index", "a+b", "a%2Bb"])
async def test_ordinary_keys(server: Server, key: str) -> None:
    """No character of a key is special."""
    async with await server.connect() as client, await server.connect() as other:
        await client.stream_events(f"/sse?key={key}")
        await other.stream_events("/sse?key=other")
        assert (await server.ask(f"/publish?key={key}", "POST", b"1")).status == 200
        await server.ask("/publish?key=other", "POST", b"2")
        assert (await client.message_event()).data == "1"
        assert (await other.message_event()).data == "2"


@pytest.mark.parametrize(
    ("method", "target", "allowed", "advice"),
    [
        ("POST", "/sse", "GET, HEAD, OPTIONS", "use GET or HEAD"),
        ("POST", "/ws?key=a", "GET, HEAD, OPTIONS", "use GET or HEAD"),
        ("GET", "/publish?key=a", "OPTIONS, POST", "use POST"),
    ],
)
async def test_a_method_that_the_route_has_not(
    server: Server, method: str, target: str, allowed: str, advice: str
) -> None:
    """405, with the methods that it has."""
    response = await server.ask(target, method)
    assert (response.status, response.error) == (405, "method_not_allowed")
    assert response.headers["allow"] == allowed
    assert response.json["error"]["detail"].endswith(f"; {advice}")
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_an_unknown_route(server: Server) -> None:
    """404, told as every error is."""
    response = await server.ask("/nothing")
    assert (response.status, response.error) == (404, "not_found")
    detail = "nothing is served at this path; what is: /sse, /ws, /publish, /healthz, /readyz"
    assert response.json["error"]["detail"] == detail
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_no_answer_says_what_serves_it(server: Server) -> None:
    """Neither name nor version of the server, for who looks for old ones."""
    for target in ("/healthz", "/nothing", "/sse"):
        assert "server" not in (await server.ask(target)).headers
    async with await server.connect() as client:
        await client.request("/sse?key=a")
        assert "server" not in (await client.head()).headers
    async with await server.connect() as client:
        assert "server" not in (await client.upgrade("/ws?key=a")).headers


async def test_a_head_request(server: Server) -> None:
    """HEAD is answered at once, with headers alone, and opens no watch."""
    async with await server.connect() as client:
        await client.request("/sse?key=a", "HEAD")
        head = await client.head()
        assert head.status == 200
        assert head.headers["content-type"] == "text/event-stream"
        # The connection is free for the next request: nothing runs on for the first.
        await client.request("/healthz")
        assert (await client.response()).json == {"status": "ok"}
        assert server.watches == 0


@pytest.mark.parametrize("accept", ["text/html", "text/event-stream;q=0", "application/*"])
async def test_a_client_that_does_not_accept_event_streams(server: Server, accept: str) -> None:
    """406."""
    response = await server.ask("/sse?key=a", headers={"Accept": accept})
    assert (response.status, response.error) == (406, "not_acceptable")


@pytest.mark.parametrize("accept", ["text/event-stream", "*/*", "text/*;q=0.1, image/png"])
async def test_a_client_that_accepts_event_streams(server: Server, accept: str) -> None:
    """By name, by type, or whatever there is."""
    async with await server.connect() as client:
        await client.stream_events("/sse?key=a", Accept=accept)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("target", ["/sse?key=a", "/publish?key=a", "/healthz"])
async def test_a_body_of_50_mb(server: Server, target: str, chunked: bool) -> None:
    """It is refused, or the connection closed, without being held in memory."""
    piece = bytes(1_000_000)
    method = "POST" if "publish" in target else "GET"
    async with await server.connect() as client:
        length = "Transfer-Encoding: chunked" if chunked else "Content-Length: 50000000"
        await client.send(
            f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n".encode()
        )
        before = resident_size()
        most = before
        try:
            for _ in range(50):
                await client.send(b"f4240\r\n" + piece + b"\r\n" if chunked else piece)
                most = max(most, resident_size())
        except trio.BrokenResourceError:
            pass
        assert most - before < 20_000_000
        if target != "/healthz":
            with contextlib.suppress(EOFError, trio.BrokenResourceError):
                assert (await client.head()).status == 413
    assert server.bus.statistics().journal_messages == 0


async def answer(server: Server, request: bytes) -> int:
    """Return the status that these bytes get; the answer closes the connection.

    It says so: that it is closed in the end says nothing, as any is that idles.
    """
    async with await server.connect() as client:
        await client.send(request)
        head = await client.head()
        assert head.headers["connection"] == "close"
        await client.is_closed()
        return head.status


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 1\r\nTransfer-Encoding: chunked",
        b"Content-Length: 1\r\nContent-Length: 2",
        b"Host: b",
        b"X: \0",
        b"Foo : bar",
    ],
)
async def test_headers_that_smuggle(server: Server, headers: bytes) -> None:
    """What two servers could read differently is 400, and the connection closed."""
    head = b"POST /publish?key=a HTTP/1.1\r\nHost: localhost\r\n" + headers + b"\r\n\r\n"
    assert await answer(server, head + b"0\r\n\r\n") == 400
    assert server.bus.statistics().journal_messages == 0


async def test_what_follows_an_ambiguous_body_is_not_served(server: Server) -> None:
    """A proxy may have taken it for a body; here it would be the request of somebody else."""
    async with await server.connect() as client:
        await client.send(
            b"POST /publish?key=a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            b"POST /publish?key=smuggled HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
        )
        head = await client.head()
        assert (head.status, head.headers.get("connection")) == (400, "close")
        await client.is_closed()
    assert server.bus.statistics().journal_messages == 0


async def test_no_host(server: Server) -> None:
    """400, and the connection is closed."""
    assert await answer(server, b"GET /healthz HTTP/1.1\r\n\r\n") == 400


async def test_a_target_that_is_not_ascii(server: Server) -> None:
    """400, and the connection is closed."""
    assert await answer(server, b"GET /sse?key=\xff HTTP/1.1\r\nHost: localhost\r\n\r\n") == 400


async def test_a_chunk_that_does_not_end(server: Server) -> None:
    """A chunk that is longer than it says is 400, and nothing is published."""
    request = (
        b"POST /publish?key=a HTTP/1.1\r\nHost: localhost\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n"
    )
    assert await answer(server, request) == 400
    assert server.bus.statistics().journal_messages == 0


async def test_half_a_header(server: Server) -> None:
    """Who does not finish a request is cut off after 5 seconds."""
    start = trio.current_time()
    async with await server.connect() as client:
        await client.send(b"GET /sse?key=a HTT")
        await client.is_closed()
    assert 5 <= trio.current_time() - start < 20


async def test_last_event_ids(server: Server) -> None:
    """Garbage is 400; a position that cannot be resumed is a gap; a megabyte is 431."""
    last = await server.bus.publish("a", b"1")
    response = await server.ask("/sse?key=a", headers={"Last-Event-ID": "garbage"})
    assert (response.status, response.error) == (400, "invalid_position")
    for position, reason in (("other-1", "epoch"), (last[:-1] + "99", "future")):
        async with await server.connect() as client:
            await client.stream_events("/sse?key=a", **{"Last-Event-ID": position})
            gap = await client.message_event()
            assert gap.event == "gap"
            assert json.loads(gap.data or "") == {"reason": reason, "missed": None}
    async with await server.connect() as client:
        await client.request("/sse?key=a", headers={"Last-Event-ID": "a" * 1_000_000})
        assert (await client.head()).status == 431


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("history=-1", "invalid_history"),
        ("history=x", "invalid_history"),
        ("history=%D9%A1", "invalid_history"),
        ("history=1000000000", "invalid_history"),
        ("history=1&history=1", "repeated_parameter"),
        ("after=x", "invalid_position"),
        ("after=", "invalid_position"),
        ("after=a-1&history=1", "after_with_history"),
        ("after=a-1&after=a-2", "repeated_parameter"),
        ("format=xml", "invalid_format"),
        ("histroy=1", "unknown_parameter"),
    ],
)
async def test_parameters(server: Server, query: str, error: str) -> None:
    """What a stream's parameters cannot be is 400."""
    response = await server.ask(f"/sse?key=a&{query}")
    assert (response.status, response.error) == (400, error)


@pytest.mark.parametrize(
    ("query", "status", "error"),
    [
        ("", 400, "missing_key"),
        ("?key=a&prefix=b", 400, "missing_key"),
        ("?key=a&key=b", 400, "repeated_parameter"),
        ("?key=a&history=1", 400, "unknown_parameter"),
    ],
)
async def test_where_to_publish(server: Server, query: str, status: int, error: str) -> None:
    """A publish names one key or one prefix."""
    response = await server.ask(f"/publish{query}", "POST", b"1")
    assert (response.status, response.error) == (status, error)
    assert server.bus.statistics().journal_messages == 0


async def test_how_much_to_publish(server: Server) -> None:
    """1 MiB is published, one byte more is 413; nothing at all is a message."""
    async with await server.connect() as client:
        await client.request("/publish?key=a", "POST", bytes(2**20 + 1))
        assert (await client.head()).status == 413
    assert server.bus.statistics().journal_messages == 0
    assert (await server.ask("/publish?key=a", "POST", bytes(2**20))).status == 200
    assert (await server.ask("/publish?key=a", "POST")).status == 200


async def test_an_idempotency_key_that_is_none(server: Server) -> None:
    """It has the form of a key: otherwise 400, or 414 when it is too long."""
    for key, status in (("", 400), ("a" * 513, 414)):
        response = await server.ask("/publish?key=a", "POST", b"", {"Idempotency-Key": key})
        assert response.status == status
    assert server.bus.statistics().journal_messages == 0


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"1",
        b"\xff",
        b'{"key": "a"}',
        b'{"data": "a"}',
        b'{"key": "a", "prefix": "a", "data": ""}',
        b'{"key": "a", "data": "", "data_base64": ""}',
        b'{"key": "a", "data_base64": "a"}',
        b'{"key": "a", "data_base64": "YQ==!"}',
        b'{"key": "a", "data": "", "data": ""}',
        b'{"key": "a", "data": "", "x": NaN}',
        b'{"key": "a", "data": "", "x": 1}',
        b'{"key": "a", "data": 1}',
        b'{"key": null, "data": ""}',
        b'{"key": "", "data": ""}',
        b'{"key": "a", "data": "\\ud800"}',
        b'{"key": "\\ud800", "data": ""}',
        b'{"key": "a", "data": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"key": "a", "data": ' + b"9" * 400 + b"}",
        b'{"key": "a", "data": "' + b"a" * (2**20 + 1) + b'"}',
    ],
    ids=lambda line: repr(line[:40]),
)
async def test_a_bad_line_of_a_batch(server: Server, line: bytes) -> None:
    """400, the line is named, and nothing is published."""
    good = b'{"key": "a", "data": "1"}\n'
    response = await server.ask("/publish", "POST", good + b"\n" + line + b"\n" + good, NDJSON)
    assert (response.status, response.error) == (400, "invalid_line")
    assert response.json["error"]["detail"].startswith("line 3: ")
    assert len(response.body) < 1000
    assert server.bus.statistics().journal_messages == 0


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""]
)
async def test_a_foreign_host(server: Server, host: str) -> None:
    """A page whose name points here cannot use the server: 403."""
    for target in ("/sse?key=a", "/healthz"):
        response = await server.ask(target, headers={"Host": host})
        assert (response.status, response.error) == (403, "host_not_allowed")
        assert "--allowed-host" in response.json["error"]["detail"]


async def test_a_key_given_twice(server: Server) -> None:
    """It is one watch, and each message comes once."""
    async with await server.connect() as client:
        await client.stream_events("/sse?key=a&key=a")
        await server.bus.publish("a", b"1")
        await server.bus.publish("a", b"2")
        assert [(await client.message_event()).data for _ in range(2)] == ["1", "2"]


async def test_1000_keys(server: Server) -> None:
    """More keys than are allowed are 400."""
    response = await server.ask("/sse?" + "&".join(f"key={number}" for number in range(1000)))
    assert (response.status, response.error) == (400, "too_many_keys")


@pytest.mark.parametrize(
    "before",
    [b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"],
    ids=["at once", "after a request"],
)
async def test_http_2_by_prior_knowledge(server: Server, before: bytes) -> None:
    """It is refused: what such a client does not read would pile up, and keep the server up."""
    async with await server.connect() as client:
        if before:
            await client.send(before)
            await client.read_until(b'{"status":"ok"}')
        # The preface, settings with a window of 0, and a request for /healthz.
        block = b"".join(
            b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
            for name, value in (
                (b":method", b"GET"),
                (b":scheme", b"http"),
                (b":path", b"/healthz"),
                (b":authority", b"localhost"),
            )
        )
        await client.send(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + bytes.fromhex("000006040000000000000400000000")
            + len(block).to_bytes(3, "big")
            + bytes.fromhex("010500000001")
            + block
        )
        response = await client.response()
        assert (response.status, response.error) == (505, "http_version")
        assert response.headers["connection"] == "close"


async def test_an_offer_to_change_to_http_2(server: Server) -> None:
    """It is passed over: the answer is one over HTTP/1."""
    async with await server.connect() as client:
        await client.send(
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\n"
            b"Upgrade: h2c\r\nHTTP2-Settings: AAQAAAAA\r\n\r\n"
        )
        await client.read_until(b"HTTP/1.1 200 ")
        await client.read_until(b'{"status":"ok"}')
