"""What goes past Quart and hypercorn is what a client would have got by them."""

from __future__ import annotations

import json
import logging

import pytest
import trio
from served import Client, Event, Server, served, until

import trio_watchbus.web._plain as plain_module

ORIGIN = {"Origin": "http://127.0.0.1"}
"""The server's own: with it, a request goes by Quart."""

BATCH = {"Content-Type": "application/x-ndjson; charset=utf-8"}


def data_of(event: Event) -> object:
    """The data of a message, without what is new each time."""
    assert event.data is not None
    try:
        return json.loads(event.data).get("data")
    except ValueError:
        return event.data


@pytest.mark.parametrize(
    ("target", "body", "headers"),
    [
        ("/publish?key=a", b"data", {}),
        ("/publish?prefix=", b"", {}),
        ("/publish", b'{"key": "a", "data": "x"}\n', BATCH),
        ("/publish", b"", BATCH),
        ("/publish?key=a", b"data", {"Idempotency-Key": "once"}),
        ("/publish", b"data", {}),
        ("/publish?key=a&prefix=b", b"data", {}),
        ("/publish?key=", b"data", {}),
        ("/publish?key=" + "k" * 513, b"data", {}),
        ("/publish?key=%ff", b"data", {}),
        ("/publish?key=a", b"data", {"Idempotency-Key": "x" * 513}),
        ("/publish?key=a", b"data", {"Idempotency-Key": "caf\xe9"}),
        ("/publish?key=a", b"", BATCH),
        ("/publish?key=a", b"data", {"Host": "elsewhere.example"}),
        ("/publish", b"not JSON", BATCH),
        ("/publish?key=a", b"x" * (1024 * 1024 + 1), {}),
    ],
)
async def test_a_plain_request_to_publish_is_answered_as_by_quart(
    server: Server, target: str, body: bytes, headers: dict[str, str]
) -> None:
    """Status, headers and body are the same, but for what is new each time."""
    plain = await server.ask(target, "POST", body, headers)
    by_quart = await server.ask(target, "POST", body, {**headers, **ORIGIN})
    assert plain.status == by_quart.status
    new_each_time = {"id", "last_id"}
    assert {k: v for k, v in plain.json.items() if k not in new_each_time} == {
        k: v for k, v in by_quart.json.items() if k not in new_each_time
    }
    assert plain.json.keys() == by_quart.json.keys()
    for response in (plain, by_quart):
        response.headers.pop("date")
        assert int(response.headers.pop("content-length")) == len(response.body)
    assert plain.headers == by_quart.headers


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/sse?key=a", {}),
        ("/sse?prefix=", {"Accept": "text/event-stream"}),
        ("/sse?key=a", {"Accept": "*/*"}),
        ("/sse?key=a&format=json&history=1", {}),
        ("/sse?key=a", {"Accept": "application/json, text/*;q=0.5"}),
        ("/sse?key=a", {"Last-Event-ID": "elsewhere-1"}),
    ],
)
async def test_a_plain_stream_is_served_as_by_quart(
    server: Server, target: str, headers: dict[str, str]
) -> None:
    """Headers and messages are the same."""
    await server.bus.publish("a", b"before")
    heads, shown = [], []
    for way in ({}, ORIGIN):
        async with await server.connect() as client:
            await client.request(target, headers={**headers, **way})
            head = await client.head()
            assert head.status == 200
            head.headers.pop("date")
            heads.append(head)
            await client.event()
            await server.bus.publish("a", b"last")
            events = [await client.message_event()]
            while "last" not in str(events[-1].data):
                events.append(await client.message_event())
            shown.append([(event.event, data_of(event)) for event in events])
        # What the second one is to find is what the first one did.
        await server.bus.publish("a", b"before")
    assert heads[0] == heads[1]
    assert shown[0] == shown[1]


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/sse", {}),
        ("/sse?key=", {}),
        ("/sse?key=%ff", {}),
        ("/sse?key=a&after=nonsense", {}),
        ("/sse?key=a", {"Host": "elsewhere.example"}),
        ("/sse?key=a", {"Accept": "text/html"}),
        ("/sse?key=a", {"Content-Length": "1"}),
    ],
)
async def test_a_plain_stream_is_refused_as_by_quart(
    server: Server, target: str, headers: dict[str, str]
) -> None:
    """Status, headers and body are the same."""
    plain = await server.ask(target, headers=headers)
    by_quart = await server.ask(target, headers={**headers, **ORIGIN})
    assert plain.status == by_quart.status >= 400
    assert plain.json == by_quart.json
    for response in (plain, by_quart):
        response.headers.pop("date")
    assert plain.headers == by_quart.headers


async def test_pages_elsewhere_change_no_plain_answer() -> None:
    """Where some are allowed, what is kept of an answer to one is not for another."""
    shop = {"Origin": "https://shop.example"}
    async with served(allowed_origins=shop.values()) as server:
        for target, method in (("/publish?key=a", "POST"), ("/publish", "POST")):
            plain = await server.ask(target, method)
            by_quart = await server.ask(target, method, headers=ORIGIN)
            for_shop = await server.ask(target, method, headers=shop)
            assert for_shop.headers.pop("access-control-allow-origin") == shop["Origin"]
            for response in (plain, by_quart, for_shop):
                response.headers.pop("date")
                response.headers.pop("content-length")
            assert plain.headers == by_quart.headers == for_shop.headers
            assert plain.headers["vary"] == "Origin"


async def test_a_header_that_comes_twice_is_read_as_by_quart(server: Server) -> None:
    """Else a retry that goes the other way would be stored again."""
    ids = []
    for way in (b"", b"Origin: http://127.0.0.1\r\n"):
        async with await server.connect() as client:
            await client.send(
                b"POST /publish?key=a HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\n"
                b"Idempotency-Key: one\r\nIdempotency-Key: two\r\n" + way + b"\r\nx"
            )
            ids.append((await client.response()).json["id"])
    assert ids[0] == ids[1]


@pytest.mark.parametrize("way", [{}, ORIGIN])
async def test_both_ways_are_logged(way: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    """With the status that each request was answered with."""
    with caplog.at_level(logging.INFO, "trio_watchbus.access"):
        async with served(access_log=True) as server:
            await server.ask("/publish?key=a", "POST", b"1", way)
            await server.ask("/publish", "POST", b"1", way)
            await server.ask("/publish?key=a", "POST", bytes(1024 * 1024 + 1), way)
            await server.ask("/sse", headers=way)
            async with await server.connect() as client:
                await client.stream_events("/sse?key=a", **way)
            await until(lambda: not server.watches)
            server.stop.set()
    assert sorted(record.getMessage().split()[1:4] for record in caplog.records) == [
        ["GET", "/sse", "200"],
        ["GET", "/sse", "400"],
        ["POST", "/publish", "200"],
        ["POST", "/publish", "400"],
        ["POST", "/publish", "413"],
    ]


async def begin_body(server: Server, client: Client) -> None:
    """Send half of a body, and return once the server has read that."""
    await client.request("/publish?key=a", "POST", b"abc", {"Content-Length": "6"})
    # An answer to a later request.
    await server.ask("/healthz")


async def test_a_body_that_comes_in_pieces_is_published_whole(server: Server) -> None:
    """Whether its last piece comes soon."""
    async with await server.connect() as client:
        await begin_body(server, client)
        await client.send(b"def")
        assert (await client.response()).status == 200
    message = await server.bus.latest("a")
    assert message is not None
    assert message.data == b"abcdef"


async def test_a_body_that_takes_long_is_published_whole(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or so late that the request is no plain one any more."""
    monkeypatch.setattr(plain_module, "_PLAIN_SECONDS", 0)
    async with await server.connect() as client:
        await begin_body(server, client)
        await client.send(b"def")
        assert (await client.response()).status == 200
    message = await server.bus.latest("a")
    assert message is not None
    assert message.data == b"abcdef"


async def test_a_client_that_leaves_amid_its_body_publishes_nothing(server: Server) -> None:
    async with await server.connect() as client:
        await begin_body(server, client)
    assert (await server.ask("/healthz")).status == 200
    assert await server.bus.latest("a") is None


async def test_a_connection_goes_on_after_a_plain_request(server: Server) -> None:
    """It is kept alive, and the next request may be another."""
    async with await server.connect() as client:
        ids = []
        for _ in range(3):
            await client.request("/publish?key=a", "POST", b"x")
            ids.append(json.loads((await client.response()).body)["id"])
        await client.request("/healthz")
        assert (await client.response()).status == 200
    assert len(set(ids)) == 3


async def test_a_message_that_no_socket_takes_at_once_arrives_whole(
    server: Server, stuck: trio.Event
) -> None:
    """The part that is left is sent when the client reads on, and nothing comes between."""
    large = bytes(range(97, 107)) * 100_000
    async with await server.connect() as client:
        await client.stream_events("/sse?key=a")
        for _ in range(5):
            await server.bus.publish("a", large)
        await server.bus.publish("a", b"last")
        await stuck.wait()
        received = [(await client.event()).data for _ in range(6)]
    assert received == [large.decode()] * 5 + ["last"]
