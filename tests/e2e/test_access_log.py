"""What is logged of requests."""

from __future__ import annotations

import logging

import pytest
from served import served, until

from trio_watchbus import InMemoryWatchBus


async def test_requests_are_logged_without_their_query(caplog: pytest.LogCaptureFixture) -> None:
    """One line each, whatever ended it; a secret in the URL or a header is not in it."""
    bus = InMemoryWatchBus()
    with caplog.at_level(logging.INFO, "trio_watchbus.access"):
        async with served(bus, access_log=True) as server:
            headers = {"Idempotency-Key": "secret"}
            await server.ask("/publish?key=secret", "POST", b"secret", headers)
            await server.ask("/nothing%0Ahere?secret")
            async with await server.connect() as client:
                await client.stream_events("/sse?key=secret")
            async with await server.connect() as client:
                await client.upgrade("/ws?key=secret")
            await until(lambda: "/sse" in caplog.text)
            server.stop.set()
    lines = [record.getMessage().split() for record in caplog.records]
    assert sorted(line[:4] for line in lines) == sorted(
        [
            ["127.0.0.1", "POST", "/publish", "200"],
            ["127.0.0.1", "GET", "/nothing%0Ahere", "404"],
            ["127.0.0.1", "GET", "/sse", "200"],
            ["127.0.0.1", "WEBSOCKET", "/ws", "101"],
        ]
    )
    assert "secret" not in caplog.text


async def test_nothing_is_logged_unless_asked(caplog: pytest.LogCaptureFixture) -> None:
    """A server that does its work is silent."""
    with caplog.at_level(logging.INFO):
        async with served() as server:
            await server.ask("/publish?key=a", "POST", b"")
    assert [record for record in caplog.records if record.name.startswith("trio_watchbus")] == []
