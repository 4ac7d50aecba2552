"""Publishing with POST, and the routes that tell how the server is."""

from __future__ import annotations

import dataclasses
import json
import logging
from typing import Any

import pytest
from served import Server, served

from trio_watchbus import (
    BusUnavailableError,
    InMemoryWatchBus,
    PublishUnknownError,
)

NDJSON = {"Content-Type": "application/x-ndjson"}


def lines(*messages: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(message).encode() + b"\n" for message in messages)


async def test_publish_to_a_key(server: Server) -> None:
    """The body is the data, and the answer is the message's id, on a line of its own."""
    async with server.bus.watch("ä/1") as watch:
        response = await server.ask("/publish?key=%C3%A4/1", "POST", b"\x00\xff")
        assert response.status == 200
        assert response.headers["content-type"] == "application/json"
        message = await watch.receive()
        assert response.json == {"id": message.id}
        assert response.body.endswith(b"}\n")
        assert (message.key, message.data, message.is_prefix) == ("ä/1", b"\x00\xff", False)


async def test_publish_to_a_prefix(server: Server) -> None:
    """With ``prefix`` it goes to every key under it."""
    async with server.bus.watch("foo1") as watch:
        response = await server.ask("/publish?prefix=foo", "POST", b"all")
        assert response.status == 200
        message = await watch.receive()
        assert (message.key, message.is_prefix, message.id) == ("foo", True, response.json["id"])


async def test_a_form_is_data_as_any_other(server: Server) -> None:
    """What `curl -d` sends is published as it is."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert (await server.ask("/publish?key=a", "POST", b"a=b&c", headers)).status == 200
    message = await server.bus.latest("a")
    assert message is not None
    assert message.data == b"a=b&c"


async def test_a_chunked_body(server: Server) -> None:
    """A body whose length is not told in advance is published too."""
    async with await server.connect() as client:
        await client.send(
            b"POST /publish?key=a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        )
        assert (await client.response()).status == 200
    message = await server.bus.latest("a")
    assert message is not None
    assert message.data == b"abcde"


async def test_a_body_that_does_not_come_is_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """408, and nothing of it is published."""
    monkeypatch.setattr("trio_watchbus.web._asgi.BODY_SECONDS", 0.05)
    async with await server.connect() as client:
        await client.request("/publish?key=a", "POST", b"abc", {"Content-Length": "6"})
        response = await client.response()
        assert (response.status, response.error) == (408, "body_timeout")
    assert await server.bus.latest("a") is None


async def test_an_idempotency_key_publishes_once(server: Server) -> None:
    """The same key again is answered alike, and nothing is published."""
    headers = {"Idempotency-Key": "order-42"}
    first = await server.ask("/publish?key=a", "POST", b"1", headers)
    again = await server.ask("/publish?key=a", "POST", b"1", headers)
    assert first.json == again.json
    batch = {**NDJSON, "Idempotency-Key": "batch-42"}
    body = lines({"key": "a", "data": "2"}, {"key": "a", "data": "3"})
    first = await server.ask("/publish", "POST", body, batch)
    again = await server.ask("/publish", "POST", body, batch)
    assert first.json == again.json
    assert server.bus.statistics().journal_messages == 3


async def test_an_idempotency_key_is_ascii(server: Server) -> None:
    """Other bytes would be read as another text than the client meant."""
    for key in ("caf\xe9", "\xc3\xa9"):
        headers = {"Idempotency-Key": key}
        response = await server.ask("/publish?key=a", "POST", b"1", headers)
        assert (response.status, response.error) == (400, "invalid_key")
        assert "Idempotency-Key must be ASCII" in response.json["error"]["detail"]
    assert server.bus.statistics().journal_messages == 0


async def test_a_batch_with_a_key_in_the_url(server: Server) -> None:
    """The answer says where keys are named, and what to do with one message."""
    response = await server.ask("/publish?key=a", "POST", lines({"data": "1"}), NDJSON)
    assert (response.status, response.error) == (400, "unknown_parameter")
    assert "each line of a batch names its own key" in response.json["error"]["detail"]
    assert "without the type application/x-ndjson" in response.json["error"]["detail"]


async def test_a_batch(server: Server) -> None:
    """A line a message, to keys and prefixes, as text or in base64, in one run of the order."""
    async with server.bus.subscribe_prefix("") as watch:
        body = (
            lines({"key": "a", "data": "ä"}, {"prefix": "", "data_base64": "/w=="})
            + b"\r\n\n"
            + b'{"data": "", "key": "b"}'
        )
        response = await server.ask("/publish", "POST", body, NDJSON)
        assert response.status == 200
        messages = await watch.receive_batch()
        assert response.json == {"count": 3, "last_id": messages[-1].id}
        assert [(m.key, m.data, m.is_prefix) for m in messages] == [
            ("a", "ä".encode(), False),
            ("", b"\xff", True),
            ("b", b"", False),
        ]


async def test_an_empty_batch(server: Server) -> None:
    """No line publishes nothing."""
    response = await server.ask("/publish", "POST", b"", NDJSON)
    assert response.json == {"count": 0, "last_id": None}


async def test_a_batch_is_bounded() -> None:
    """More messages than are allowed are refused, and none of them is published."""
    async with served(max_batch_messages=2) as server:
        body = lines(*[{"key": "a", "data": ""}] * 3)
        response = await server.ask("/publish", "POST", body, NDJSON)
        assert (response.status, response.error) == (413, "batch_too_large")
        assert server.bus.statistics().journal_messages == 0


async def test_more_than_a_thousand_requests_on_one_connection(server: Server) -> None:
    """A program that publishes keeps its connection for as long as it likes."""
    async with await server.connect() as client:
        for _ in range(1100):
            await client.request("/publish?key=a", "POST", b"1")
            response = await client.response()
            assert response.status == 200
            assert "connection" not in response.headers


async def test_health(server: Server) -> None:
    """The process answers, and the bus is connected."""
    for target in ("/healthz", "/readyz"):
        response = await server.ask(target)
        assert response.status == 200
        assert response.headers["cache-control"] == "no-store"


class BrokenBus(InMemoryWatchBus):  # type: ignore[misc]
    """A bus without its backend."""

    connected = False
    error: Exception

    def statistics(self) -> Any:
        return dataclasses.replace(super().statistics(), connected=self.connected)

    async def publish(self, *args: object, **how: object) -> str:
        raise self.error


async def test_unavailable_and_unknown() -> None:
    """What the backend said stays inside; the client is told when to try again."""
    bus = BrokenBus()
    async with served(bus) as server:
        bus.error = BusUnavailableError("redis://:secret@inside:6379 refused")
        response = await server.ask("/publish?key=a", "POST", b"")
        assert (response.status, response.error) == (503, "unavailable")
        assert int(response.headers["retry-after"]) >= 1
        assert b"inside" not in response.body
        bus.error = PublishUnknownError("inside", idempotency_key="k")
        response = await server.ask("/publish?key=a", "POST", b"")
        assert (response.status, response.error) == (503, "publish_unknown")
        assert b"inside" not in response.body
        for target in ("/readyz", "/sse?key=a"):
            response = await server.ask(target)
            assert (response.status, response.error) == (503, "unavailable")
            assert "retry-after" in response.headers
        async with await server.connect() as client:
            assert (await client.upgrade("/ws?key=a")).status == 503
        assert (await server.ask("/healthz")).status == 200
        server.stop.set()


async def test_an_unforeseen_error_is_logged_and_not_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A fault of the server is answered 500 without its text, which the log has."""
    bus = BrokenBus()
    bus.connected = True
    bus.error = RuntimeError("inside")
    async with served(bus) as server:
        with caplog.at_level(logging.ERROR, "trio_watchbus.web"):
            response = await server.ask("/publish?key=a", "POST", b"")
        assert (response.status, response.error) == (500, "internal")
        assert b"inside" not in response.body
        assert "inside" in caplog.text
        server.stop.set()
