"""Each proxy that the documentation configures, in front of a served bus."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import trio
from proxies.fronted import HOST, Fronted, fronted
from proxies.programs import PAGE, PROXIES, Proxy
from served import SECONDS, TEXT, until

NEVER = 3600.0
"""A heartbeat that no test waits for: nothing but messages passes."""


TERMINATE_TLS = [name for name, proxy in PROXIES.items() if proxy.tls]


def installed(name: str) -> Proxy:
    """Return a proxy, or skip the test."""
    proxy = PROXIES[name]
    if proxy.path is None:
        pytest.skip(f"{proxy.program} is not installed")
    return proxy


@pytest.fixture(params=PROXIES)
def proxy(request: pytest.FixtureRequest) -> Proxy:
    return installed(request.param)


def test_every_configuration_on_the_page_is_tried() -> None:
    text = PAGE.read_text()
    assert re.findall(r"^<!-- proxy: (\w+) -->$", text, re.MULTILINE) == list(PROXIES)


def test_the_page_says_how_soon_each_notices_that_a_client_left() -> None:
    rows = re.findall(r"^\| ([\w, ]+) \| (\d) \|", PAGE.read_text(), re.MULTILINE)
    said = {name.lower(): int(count) for names, count in rows for name in names.split(", ")}
    assert said == {name: proxy.heartbeats for name, proxy in PROXIES.items()}


async def assert_passed_on_at_once(front: Fronted) -> None:
    """Assert that a stream brings each message, none of them late."""
    async with await front.connect() as client:
        await client.stream_events("/bus/sse?key=a", Host=front.host, Origin=front.origin)
        # Proxies that hold small writes back do so for 0.2 s, which would make 8 s.
        with trio.fail_after(4):
            for number in range(40):
                await front.server.bus.publish("a", str(number).encode())
                assert (await client.message_event()).data == str(number)
        assert (await front.publish("a", b"published")).status == 200
        assert (await client.message_event()).data == "published"


async def test_a_stream_passes_each_message_on_at_once(proxy: Proxy, tmp_path: Path) -> None:
    """With no heartbeat behind it that could push it."""
    async with fronted(proxy, tmp_path, heartbeat=NEVER) as front:
        await assert_passed_on_at_once(front)


async def test_haproxy_holds_nothing_back_without_tls_either(tmp_path: Path) -> None:
    haproxy = installed("haproxy")
    around = haproxy.around
    plain = replace(
        haproxy,
        tls=False,
        around=lambda folder, text: around(folder, re.sub(" ssl crt .*", "", text)),
    )
    async with fronted(plain, tmp_path, heartbeat=NEVER) as front:
        await assert_passed_on_at_once(front)


async def test_envoy_does_not_end_a_stream_after_15_seconds(tmp_path: Path) -> None:
    """Which it does by default, however much the stream says."""
    async with (
        fronted(installed("envoy"), tmp_path, heartbeat=1) as front,
        await front.connect() as client,
    ):
        await client.stream_events("/bus/sse?key=a", Host=front.host)
        begin = trio.current_time()
        while trio.current_time() < begin + 17:
            await client.event()
        await front.server.bus.publish("a", b"still there")
        assert (await client.message_event()).data == "still there"


async def test_a_websocket_works_both_ways(proxy: Proxy, tmp_path: Path) -> None:
    async with fronted(proxy, tmp_path, heartbeat=NEVER) as front, await front.connect() as client:
        protocol = {"Sec-WebSocket-Protocol": "watchbus.v1"}
        head = await client.upgrade("/bus/ws", Host=front.host, Origin=front.origin, **protocol)
        assert head.status == 101
        assert head.headers["sec-websocket-protocol"] == "watchbus.v1"
        assert json.loads(await client.message())["op"] == "hello"
        await client.send_frame(TEXT, b'{"op":"watch","id":1,"keys":["a"]}')
        assert json.loads(await client.message())["op"] == "watching"
        await front.server.bus.publish("a", b"news")
        assert "news" in str(await client.message())


async def test_the_largest_batch_passes(proxy: Proxy, tmp_path: Path) -> None:
    lines = [json.dumps({"key": "a", "data": "x" * 1600}).encode()] * 10_000
    body = b"\n".join(lines)
    assert 15 * 2**20 < len(body) < 16 * 2**20
    headers = {"Content-Type": "application/x-ndjson"}
    async with fronted(proxy, tmp_path) as front, await front.connect() as client:
        headers["Host"] = front.host
        await client.request("/bus/publish", "POST", body, headers)
        response = await client.response()
    assert (response.status, response.json["count"]) == (200, 10_000)


@pytest.mark.parametrize("proxy", TERMINATE_TLS, indirect=True)
async def test_browsers_get_streams_over_http_2(proxy: Proxy, tmp_path: Path) -> None:
    async with fronted(proxy, tmp_path, heartbeat=NEVER) as front:
        await trio.to_thread.run_sync(stream_and_publish_over_http_2, front)


def stream_and_publish_over_http_2(front: Fronted) -> None:
    """Assert that a message published over a connection comes on a stream over the same."""
    assert front.context is not None
    url, headers = f"https://127.0.0.1:{front.port}/bus", {"Host": front.host}
    named = {"sni_hostname": HOST}
    with (
        httpx.Client(
            http2=True, http1=False, verify=front.context, headers=headers, timeout=SECONDS
        ) as client,
        client.stream("GET", f"{url}/sse?key=a", extensions=named) as stream,
    ):
        assert (stream.status_code, stream.http_version) == (200, "HTTP/2")
        lines = stream.iter_lines()
        assert next(lines).startswith("retry: ")
        done = client.post(f"{url}/publish?key=a", content=b"hi", extensions=named)
        assert (done.status_code, done.http_version) == (200, "HTTP/2")
        assert "data: hi" in lines


async def test_a_stream_that_is_left_is_noticed(proxy: Proxy, tmp_path: Path) -> None:
    """By the proxy itself, or as it passes heartbeats on: as many as the page says."""
    heartbeat = 0.5 if proxy.heartbeats else NEVER
    async with fronted(proxy, tmp_path, heartbeat=heartbeat) as front:
        async with await front.connect() as client:
            await client.stream_events("/bus/sse?key=a", Host=front.host)
            assert front.server.watches == 1
        # What a busy machine takes aside.
        with trio.fail_after(heartbeat * proxy.heartbeats + 5 if proxy.heartbeats else SECONDS):
            await until(lambda: not front.server.watches)


async def test_a_websocket_that_is_left_is_noticed(proxy: Proxy, tmp_path: Path) -> None:
    async with fronted(proxy, tmp_path, heartbeat=NEVER) as front:
        async with await front.connect() as client:
            await client.upgrade("/bus/ws?key=a", Host=front.host)
            await until(lambda: front.server.watches)
        await until(lambda: not front.server.watches)
