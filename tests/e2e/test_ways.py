"""However a request comes to its handler, it is answered alike."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from served import SECONDS, WAYS, Client, Server, served, until

from trio_watchbus import BusUnavailableError, InMemoryWatchBus
from trio_watchbus.web import ServerOptions, _connection

BATCH = {"Content-Type": "application/x-ndjson; charset=utf-8"}
SHOP = "https://shop.example"


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    way: str = request.param
    return way


@pytest.fixture
async def server(way: str) -> AsyncIterator[Server]:
    """A bus that is served in one of the ways."""
    async with served(way=way) as server:
        yield server


@pytest.fixture
async def shop(way: str) -> AsyncIterator[Server]:
    """One that pages of a shop may use, and that goes by its name."""
    async with served(
        way=way, allowed_origins=[SHOP], allowed_hosts=["shop.example", "2001:db8::1"]
    ) as server:
        yield server


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the first loop of each connection handed to hypercorn."""
    handed: list[bytes] = []
    serve_plain = _connection.serve_plain

    async def noting(*arguments: Any) -> bytes | None:
        rest = await serve_plain(*arguments)
        if rest is not None:
            handed.append(rest)
        return rest

    monkeypatch.setattr("trio_watchbus.web._server.serve_plain", noting)
    return handed


@pytest.mark.parametrize("way", ["plain", "hypercorn"], indirect=True)
async def test_each_way_is_the_one_that_is_meant(
    handed_over: list[bytes], server: Server, way: str
) -> None:
    """A plain request stays in the first loop; one with a tab in a header goes to hypercorn."""
    async with await server.connect() as client:
        for _ in range(2):
            await client.request("/publish?key=a", "POST", b"1")
            await client.response()
        await client.stream_events("/sse?key=a")
    assert len(handed_over) == (way == "hypercorn")


ANSWERS = [
    ("POST", "/publish?key=a", b"data", {}, 200, None),
    ("POST", "/publish?prefix=", b"", {}, 200, None),
    ("POST", "/publish", b'{"key": "a", "data": "x"}\n', BATCH, 200, None),
    ("POST", "/publish", b"", BATCH, 200, None),
    ("POST", "/publish?key=a", b"data", {"Idempotency-Key": "once"}, 200, None),
    ("POST", "/publish", b"data", {}, 400, "missing_key"),
    ("POST", "/publish?key=a&prefix=b", b"data", {}, 400, "missing_key"),
    ("POST", "/publish?key=", b"data", {}, 400, "invalid_key"),
    ("POST", "/publish?key=" + "k" * 513, b"data", {}, 414, "key_too_long"),
    ("POST", "/publish?key=%ff", b"data", {}, 400, "invalid_query"),
    ("POST", "/publish?key=a", b"data", {"Idempotency-Key": "caf\xe9"}, 400, "invalid_key"),
    ("POST", "/publish?key=a", b"", BATCH, 400, "unknown_parameter"),
    ("POST", "/publish", b"not JSON", BATCH, 400, "invalid_line"),
    ("POST", "/publish?key=a", b"x", {"Host": "elsewhere.example"}, 403, "host_not_allowed"),
    ("POST", "/publish?key=a", b"x", {"Origin": SHOP}, 403, "origin_not_allowed"),
    ("GET", "/publish?key=a", b"", {}, 405, "method_not_allowed"),
    ("DELETE", "/sse?key=a", b"", {}, 405, "method_not_allowed"),
    ("GET", "/healthz", b"", {}, 200, None),
    ("GET", "/readyz", b"", {}, 200, None),
    ("GET", "/sse", b"", {}, 400, "missing_key"),
    ("GET", "/sse?key=a&after=x", b"", {}, 400, "invalid_position"),
    ("GET", "/sse?key=a", b"", {"Accept": "text/html"}, 406, "not_acceptable"),
    ("GET", "/sse?key=a", b"", {"Content-Length": "1"}, 413, "body_not_allowed"),
    ("GET", "/sse?key=a", b"", {"Host": "elsewhere.example"}, 403, "host_not_allowed"),
    ("GET", "/ws?key=a", b"", {}, 426, "upgrade_required"),
]


@pytest.mark.parametrize(
    ("method", "target", "body", "headers", "status", "error"),
    ANSWERS,
    ids=[f"{number} {answer[0]} {answer[1][:20]}" for number, answer in enumerate(ANSWERS)],
)
async def test_an_answer(
    server: Server,
    method: str,
    target: str,
    body: bytes,
    headers: dict[str, str],
    status: int,
    error: str | None,
) -> None:
    """Status, headers and body are the same in each way."""
    response = await server.ask(target, method, body, headers)
    assert response.status == status
    if error is not None:
        assert response.error == error
    response.headers.pop("date")
    assert int(response.headers.pop("content-length")) == len(response.body)
    # Where the body was not read to its end.
    response.headers.pop("connection", None)
    response.headers.pop("upgrade", None)
    response.headers.pop("allow", None)
    assert response.headers == {
        "content-type": "application/json",
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
        "cross-origin-resource-policy": "same-origin",
    }


@pytest.mark.parametrize(
    "path", ["//publish", "/%70ublish", "/publish/", "/./publish", "/publish%2F", "/PUBLISH"]
)
async def test_only_the_exact_path_is_served(server: Server, path: str) -> None:
    """A proxy in front may have rules for a path, and not for other spellings of it."""
    response = await server.ask(f"{path}?key=a", "POST", b"x")
    assert response.status == 404
    assert server.bus.statistics().journal_messages == 0


@pytest.mark.parametrize(
    "accept",
    [
        *("text/event-stream", "text/event-stream;charset=UTF-8", "Text/Event-Stream", "text/*"),
        *("*/*", "", "application/json, text/event-stream", "text/event-stream, */*;q=0"),
        *("*/*;q=0.1, text/event-stream;q=0.5", "text/*;q=0, text/event-stream"),
    ],
)
async def test_what_accepts_a_stream(server: Server, accept: str) -> None:
    async with await server.connect() as client:
        await client.stream_events("/sse?key=a", Accept=accept)


@pytest.mark.parametrize(
    "accept",
    ["text/html", "text/event-stream;q=0", "application/*", "*/*;q=0", "text/*;q=0, */*;q=1"],
)
async def test_what_does_not_accept_a_stream(server: Server, accept: str) -> None:
    response = await server.ask("/sse?key=a", headers={"Accept": accept})
    assert (response.status, response.error) == (406, "not_acceptable")


SAME = [
    ("shop.example", SHOP),
    ("shop.example:443", SHOP),
    ("shop.example", "https://shop.example:443"),
    ("shop.example:80", "http://shop.example"),
    ("shop.example.", SHOP),
    ("SHOP.example:8443", "https://shop.example:8443"),
    ("[0:0:0:0:0:0:0:1]:8000", "http://[::1]:8000"),
    ("[::ffff:127.0.0.1]", "http://127.0.0.1"),
    ("[2001:DB8:0::1]", "https://[2001:db8::1]"),
]
OTHER = [
    ("shop.example", "https://shop.example:8443"),
    ("shop.example:80", "https://localhost"),
    ("127.0.0.1:8000", "http://127.0.0.1:8001"),
    ("localhost", "ftp://localhost"),
    ("localhost", "null"),
    ("localhost", ""),
    ("localhost", "http://localhost/"),
    ("localhost", "http://me@localhost"),
]
NO_HOST = ["me@127.0.0.1", "127.0.0.1/x", "127.0.0.1:99999999", "127.0.0.1:0", "[127.0.0.1]", "a b"]


@pytest.mark.parametrize(("host", "origin"), SAME)
async def test_the_same_host_however_it_is_spelled(shop: Server, host: str, origin: str) -> None:
    """Default ports, a trailing dot, and addresses of IPv6 are compared by what they mean."""
    headers = {"Host": host, "Origin": origin}
    assert (await shop.ask("/publish?key=a", "POST", b"x", headers)).status == 200
    async with await shop.connect() as client:
        assert (await client.upgrade("/ws?key=a", **headers)).status == 101


@pytest.mark.parametrize(("host", "origin"), OTHER)
async def test_another_origin(shop: Server, host: str, origin: str) -> None:
    headers = {"Host": host, "Origin": origin}
    response = await shop.ask("/publish?key=a", "POST", b"x", headers)
    assert (response.status, response.error) == (403, "origin_not_allowed")
    async with await shop.connect() as client:
        assert (await client.upgrade("/ws?key=a", **headers)).status == 403


@pytest.mark.parametrize("host", NO_HOST)
async def test_what_is_no_host(server: Server, host: str) -> None:
    response = await server.ask("/publish?key=a", "POST", b"x", {"Host": host})
    assert (response.status, response.error) == (403, "host_not_allowed")


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {"Sec-Fetch-Site": "cross-site"}, 403),
        ("GET", {"Sec-Fetch-Site": "same-site"}, 403),
        ("GET", {"Sec-Fetch-Site": "same-origin"}, 200),
        ("GET", {"Sec-Fetch-Site": "none"}, 200),
        ("GET", {"Sec-Fetch-Site": "cross-site", "Origin": SHOP}, 200),
        ("GET", {"Cookie": "a=b"}, 200),
        ("POST", {"Cookie": "a=b"}, 403),
        ("POST", {"Cookie": "a=b", "Sec-Fetch-Site": "none"}, 403),
        ("POST", {"Cookie": "a=b", "Sec-Fetch-Site": "same-origin"}, 200),
        ("POST", {"Cookie": "a=b", "Origin": SHOP}, 200),
        ("POST", {"Cookie": "a=b", "Origin": "http://127.0.0.1"}, 200),
        ("POST", {"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
async def test_what_pages_may_do(
    shop: Server, method: str, headers: dict[str, str], status: int
) -> None:
    """A page elsewhere is refused before any work is done; a program names none of these."""
    target = "/publish?key=a" if method == "POST" else "/sse?key=a"
    async with await shop.connect() as client:
        await client.request(target, method, b"", headers)
        head = await client.head()
        assert head.status == status
        assert head.headers["vary"] == "Origin"
        allowed = headers.get("Origin") == SHOP
        assert head.headers.get("access-control-allow-origin") == (SHOP if allowed else None)
    if method == "POST":
        assert shop.bus.statistics().journal_messages == (status == 200)


async def test_a_websocket_with_a_cookie_needs_an_origin(server: Server) -> None:
    async with await server.connect() as client:
        assert (await client.upgrade("/ws?key=a", Cookie="a=b")).status == 403
    async with await server.connect() as client:
        head = await client.upgrade("/ws?key=a", Cookie="a=b", Origin="http://127.0.0.1")
        assert head.status == 101


async def test_a_preflight(shop: Server) -> None:
    headers = {"Origin": SHOP, "Access-Control-Request-Method": "POST"}
    response = await shop.ask("/publish", "OPTIONS", headers=headers)
    assert (response.status, response.headers["allow"]) == (200, "OPTIONS, POST")
    assert response.headers["access-control-allow-origin"] == SHOP
    assert "Idempotency-Key" in response.headers["access-control-allow-headers"]


# The end of a client's side


async def half_close(client: Client) -> None:
    stream = client.stream
    assert isinstance(stream, trio.SocketStream)
    await stream.send_eof()


@pytest.mark.parametrize(
    ("method", "target", "body", "headers"),
    [
        ("POST", "/publish?key=a", b"hello", {}),
        ("POST", "/publish?key=a", b"x" * 500_000, {}),
        ("POST", "/publish", b'{"key": "a", "data": "bc"}', BATCH),
        ("GET", "/healthz", b"", {}),
        ("GET", "/sse", b"", {}),
    ],
)
async def test_a_half_closed_request_is_answered(
    way: str, method: str, target: str, body: bytes, headers: dict[str, str]
) -> None:
    """An end of input after a whole request is no cancel, however long the answer takes."""
    bus = SlowBus()
    async with served(bus, way=way) as server, await server.connect() as client:
        await client.request(target, method, body, headers)
        await half_close(client)
        response = await client.response()
        assert response.status == (400 if target == "/sse" else 200)
        await client.is_closed()
        assert bus.statistics().journal_messages == (method == "POST")


async def test_a_half_closed_stream_is_answered(server: Server) -> None:
    """With its history; it ends then where ASGI cannot tell a half-closed client from none."""
    await server.bus.publish("a", b"1")
    async with await server.connect() as client:
        await client.request("/sse?key=a&history=1")
        await half_close(client)
        assert (await client.head()).status == 200
        assert (await client.event()).retry is not None
        assert (await client.message_event()).data == "1"
        if server.way == "mounted":
            end = await client.event()
            while end.event != "end":
                # A bookmark: it shows whether the client is still there.
                assert end.data == ""
                end = await client.event()
            assert end.data == '{"reason":"half_closed"}'
        else:
            await server.bus.publish("a", b"2")
            assert (await client.message_event()).data == "2"


HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


@pytest.mark.parametrize("way", ["plain", "hypercorn"])
@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [("/ws", {}, 400), ("/ws?key=a", {"Host": "evil.example"}, 403), ("/ws?key=a", {}, 101)],
)
async def test_a_half_closed_handshake_is_answered(
    way: str, target: str, headers: dict[str, str], status: int
) -> None:
    """Of a server of ours; plain hypercorn takes such a client for one that left."""
    async with served(SlowBus(), way=way) as server, await server.connect() as client:
        await client.request(target, "GET", b"", {**HANDSHAKE, **headers})
        await half_close(client)
        assert (await client.head()).status == status


async def test_a_client_that_leaves_its_stream_is_noticed_at_once(server: Server) -> None:
    """Long before the heartbeat of 15 seconds, and behind bytes that nobody reads."""
    for junk in (b"", b"x" * 1000):
        client = await server.connect()
        await client.stream_events("/sse?key=a")
        if junk and server.way == "plain":
            await client.send(junk)
        with trio.fail_after(10):
            client.vanish()
            await until(lambda: not server.watches)


class SlowBus(InMemoryWatchBus):  # type: ignore[misc]
    """A bus whose backend takes its time."""

    async def publish(self, *arguments: Any, **how: Any) -> str:
        await trio.sleep(0.1)
        message_id: str = await super().publish(*arguments, **how)
        return message_id

    async def publish_many(self, *arguments: Any, **how: Any) -> list[str]:
        await trio.sleep(0.1)
        ids: list[str] = await super().publish_many(*arguments, **how)
        return ids

    async def open_watch(self, request: Any) -> Any:
        await trio.sleep(0.1)
        return await super().open_watch(request)


async def test_the_watch_is_open_before_the_answer(way: str) -> None:
    """Neither a stream nor a WebSocket says that it succeeded before nothing more is missed."""
    bus = SlowBus()
    async with served(bus, way=way) as server:
        async with await server.connect() as client:
            await client.request("/sse?key=a")
            assert (await client.head()).status == 200
            bus.publish_nowait("a", b"1")
            assert (await client.message_event()).data == "1"
        async with await server.connect() as client:
            assert (await client.upgrade("/ws?key=a")).status == 101
            bus.publish_nowait("a", b"2")
            assert await client.message() == "2"


class FailingBus(InMemoryWatchBus):  # type: ignore[misc]
    """A bus that opens no watch, and says why."""

    error: Exception

    async def open_watch(self, request: Any) -> Any:
        await trio.lowlevel.checkpoint()
        raise self.error


class LimitedBus(InMemoryWatchBus):  # type: ignore[misc]
    """A bus that takes smaller batches than its routes do, as a remote bus may."""

    async def publish_many(self, *_: Any, **__: Any) -> list[str]:
        await trio.lowlevel.checkpoint()
        raise ValueError("a batch may have at most 5 messages")


async def test_a_batch_beyond_a_limit_of_the_bus_is_refused_with_its_words(way: str) -> None:
    async with served(LimitedBus(), way=way) as server:
        response = await server.ask(
            "/publish", "POST", b'{"key":"a","data":"b"}', {"Content-Type": "application/x-ndjson"}
        )
    assert (response.status, response.error) == (413, "batch_too_large")
    assert b"at most 5 messages" in response.body


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (BusUnavailableError("inside"), "unavailable"),
        (trio.ClosedResourceError("inside"), "unavailable"),
        # As of a remote bus whose server has a limit.
        (ValueError("a connection may have at most 1000 watches"), "limit"),
    ],
)
async def test_a_watch_that_cannot_be_opened_is_a_status(
    way: str, failure: Exception, error: str
) -> None:
    """503 with when to try again, never a success that ends."""
    bus = FailingBus()
    bus.error = failure
    async with served(bus, way=way) as server:
        response = await server.ask("/sse?key=a")
        assert (response.status, response.error) == (503, error)
        assert int(response.headers["retry-after"]) >= 1
        assert b"inside" not in response.body
        async with await server.connect() as client:
            await client.upgrade_request("/ws?key=a")
            response = await client.response()
            assert (response.status, response.error) == (503, error)
            assert "retry-after" in response.headers
        server.stop.set()


# Ends and bounds


async def test_a_drain_ends_streams_and_refuses_new_ones(way: str) -> None:
    async with served(way=way) as server, await server.connect() as client:
        await client.stream_events("/sse?key=a")
        server.stop.set()
        end = await client.message_event()
        assert (end.event, json.loads(end.data or "")) == ("end", {"reason": "shutdown"})
        with pytest.raises(EOFError):
            await client.event()
        await client.is_closed()


async def test_websockets_get_heartbeats(way: str) -> None:
    """Also where nobody publishes and the server is not ours."""
    async with served(way=way, heartbeat=0.2) as server, await server.connect() as client:
        assert (await client.upgrade("/ws?key=a")).status == 101
        for _ in range(2):
            assert (await client.frame())[0] == 9
            await client.send_frame(10)


@pytest.mark.parametrize("way", ["plain", "hypercorn"], indirect=True)
async def test_an_idle_connection_is_closed_in_time(way: str) -> None:
    """After `keep_alive`, before the first request and after one."""
    assert ServerOptions().keep_alive == 75
    async with (
        served(way=way, keep_alive=0.5) as server,
        await server.connect() as client,
        await server.connect() as fresh,
    ):
        started = trio.current_time()
        await client.request("/healthz")
        await client.response()
        with trio.fail_after(SECONDS):
            await client.is_closed()
            assert trio.current_time() - started >= 0.5
            await fresh.is_closed()


async def test_each_head_has_a_time_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends half of the next request with each one is not cut off."""
    monkeypatch.setattr("trio_watchbus.web._hypercorn._HEAD_SECONDS", 0.5)
    half, rest = b"GET /healthz HTTP/1.1\r\n", b"Host: localhost\r\nX: a\tb\r\n\r\n"
    async with served(way="hypercorn") as server, await server.connect() as client:
        await client.send(half)
        started = trio.current_time()
        while trio.current_time() < started + 1:
            await client.send(rest + half)
            assert (await client.response()).status == 200


@pytest.mark.parametrize("before", [0, 1, 2])
async def test_the_head_of_a_request_comes_in_time(
    monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    """A byte now and then holds no connection, be it the first request or a later one."""
    monkeypatch.setattr("trio_watchbus.web._hypercorn._HEAD_SECONDS", 0.5)
    async with (
        served(way="hypercorn", keep_alive=1000) as server,
        await server.connect() as client,
    ):
        for _ in range(before):
            await client.request("/healthz")
            assert (await client.response()).status == 200
        with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(SECONDS):
            await client.send(b"GET /healthz HTTP/1.1\r\nX: ")
            while True:
                await client.send(b"a")
                with trio.move_on_after(0.05):
                    await client.is_closed()
                    return


@pytest.mark.parametrize("way", ["plain", "hypercorn"], indirect=True)
async def test_requests_are_logged_alike(way: str, caplog: pytest.LogCaptureFixture) -> None:
    """Client, method, path without the query, status and time; a stream when it ends."""
    with caplog.at_level(logging.INFO, "trio_watchbus.access"):
        async with served(way=way, access_log=True) as server:
            await server.ask("/publish?key=secret", "POST", b"1")
            await server.ask("/publish", "POST", b"1")
            await server.ask("/publish?key=a", "POST", bytes(2**20 + 1))
            await server.ask("/sse")
            async with await server.connect() as client:
                await client.stream_events("/sse?key=a")
            await until(lambda: "/sse 200" in caplog.text)
            server.stop.set()
    assert sorted(record.getMessage().split()[:4] for record in caplog.records) == [
        ["127.0.0.1", "GET", "/sse", "200"],
        ["127.0.0.1", "GET", "/sse", "400"],
        ["127.0.0.1", "POST", "/publish", "200"],
        ["127.0.0.1", "POST", "/publish", "400"],
        ["127.0.0.1", "POST", "/publish", "413"],
    ]


async def test_bodies_in_flight_have_one_budget(way: str) -> None:
    """What is beyond it is 503, and all of it is given back."""
    async with served(way=way, max_in_flight_size=300_000) as server:
        async with await server.connect() as client:
            await client.request(
                "/publish?key=a", "POST", b"x" * 250_000, {"Content-Length": "250001"}
            )
            await server.ask("/healthz")
            response = await server.ask("/publish?key=a", "POST", b"x" * 100_000)
            assert (response.status, response.error) == (503, "server_busy")
            assert "retry-after" in response.headers
            await client.send(b"x")
            assert (await client.response()).status == 200
        response = await server.ask("/publish?key=a", "POST", b"x" * 250_000)
        assert response.status == 200


async def test_a_stream_of_history_and_messages(server: Server) -> None:
    """The events of one watch, in order, the same in each way."""
    await server.bus.publish("a", b"before")
    async with await server.connect() as client:
        await client.request("/sse?key=a&history=1")
        head = await client.head()
        assert head.headers["content-type"] == "text/event-stream"
        assert head.headers["transfer-encoding"] == "chunked"
        for data in (b"1", b"x" * 100_000, b"last"):
            await server.bus.publish("a", data)
        events = [await client.message_event() for _ in range(4)]
        assert [event.data for event in events] == ["before", "1", "x" * 100_000, "last"]
    with trio.fail_after(SECONDS):
        await until(lambda: not server.watches)
