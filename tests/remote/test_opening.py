"""Opening and leaving a remote bus, and servers that are none or not for everyone."""

from __future__ import annotations

import inspect
import json
import logging
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
import trio_websocket
import trustme
from served import served, until

from trio_watchbus import (
    BusUnavailableError,
    InMemoryWatchBus,
    Message,
    PublishUnknownError,
    RemoteWatchBus,
    WatchLaggedError,
    open_redis_watchbus,
    open_remote_watchbus,
    open_watchbus,
)
from trio_watchbus import _protocol as protocol
from trio_watchbus._message import MAX_MESSAGE_SIZE
from trio_watchbus._remote import _bus
from trio_watchbus._remote._address import Address
from trio_watchbus._remote._feed import Feed
from trio_watchbus._remote._feeds import Feeds
from trio_watchbus._remote._link import LinkOptions
from trio_watchbus.testing import FaultProxy
from trio_watchbus.testing._cancelling import cancel_everywhere

HELLO = {
    "op": "hello",
    "position": "e-0",
    "max_message_size": 100,
    "max_frame_size": 1000,
    "max_request_size": 1000,
    "max_batch_messages": 1000,
}

Handler = Callable[[trio_websocket.WebSocketRequest], Awaitable[None]]


@asynccontextmanager
async def scripted(handler: Handler) -> AsyncIterator[str]:
    """Serve WebSockets by a test's own function, until the client is gone; give the URL."""

    async def handle(request: trio_websocket.WebSocketRequest) -> None:
        with suppress(trio_websocket.ConnectionClosed):
            await handler(request)

    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            partial(trio_websocket.serve_websocket, handle, "127.0.0.1", 0, None)
        )
        yield f"http://127.0.0.1:{server.port}"
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def tcp(handler: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[str]:
    """Serve TCP by a test's own function; give a URL."""
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def hear(connection: trio_websocket.WebSocketConnection) -> dict[str, Any]:
    """Return the next request that is no ping."""
    while True:
        frame = json.loads(await connection.get_message())
        if frame["op"] != "ping":
            assert isinstance(frame, dict)
            return frame


async def say(connection: trio_websocket.WebSocketConnection, frame: dict[str, Any]) -> None:
    await connection.send_message(json.dumps(frame))


async def greeted(
    request: trio_websocket.WebSocketRequest,
) -> trio_websocket.WebSocketConnection:
    """Accept a connection, and greet."""
    connection = await request.accept(subprotocol="watchbus.v1")
    await say(connection, HELLO)
    return connection


async def refusal(url: str, **options: Any) -> str:
    """Return what is said where a bus cannot be opened."""
    with pytest.raises(BusUnavailableError) as caught:
        async with open_remote_watchbus(url, **options):
            pytest.fail("opened")
    assert url.partition("?")[0] in str(caught.value)
    return str(caught.value)


def test_a_server_has_time_to_say_that_its_redis_is_away() -> None:
    """Its client would otherwise have to take for unknown what surely was not stored."""
    redis, remote = (
        inspect.signature(opener).parameters
        for opener in (open_redis_watchbus, open_remote_watchbus)
    )
    redis_timeout = redis["timeout" if "timeout" in redis else "publish_timeout"].default
    assert redis_timeout * 1.5 <= remote["timeout"].default


async def test_any_such_url_opens_a_remote_bus() -> None:
    async with served() as server:
        for scheme in ("http", "ws"):
            async with open_watchbus(f"{scheme}://127.0.0.1:{server.port}") as bus:
                assert isinstance(bus, RemoteWatchBus)
                await bus.publish("k", b"")


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"max_frame_size": 65_535},
        {"connect_timeout": -1},
        {"heartbeat": 0},
        {"heartbeat_timeout": float("nan")},
        {"token": ""},
        {"token": "a b"},
        {"token": "a\r\nb"},
        {"token": "\u00e9"},
        pytest.param({"ssl_context": ssl.create_default_context()}, id="ssl_context of no use"),
    ],
    ids=repr,
)
def test_an_option_out_of_range_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"above 0|at least 65536|a token|ssl_context"):
        open_remote_watchbus("http://127.0.0.1", **options)


def test_an_argument_of_another_type_is_refused() -> None:
    wrong: Any = b"token"
    with pytest.raises(TypeError, match="token"):
        open_remote_watchbus("http://127.0.0.1", token=wrong)
    with pytest.raises(TypeError):
        open_remote_watchbus(wrong)
    with pytest.raises(TypeError, match="nonsense"):
        open_watchbus("http://127.0.0.1", nonsense=1)


# What is not the server that it should be


async def test_where_nobody_listens_that_is_said() -> None:
    async with FaultProxy(("127.0.0.1", 1)) as proxy:
        proxy.refuse()
        assert "refused" in await refusal(f"http://127.0.0.1:{proxy.port}")


async def test_a_host_that_does_not_exist_is_said() -> None:
    await refusal("http://host.invalid")


async def test_a_path_without_a_bus_is_said() -> None:
    async with served() as server:
        assert "404" in await refusal(f"{server.url}/elsewhere")


async def test_a_server_that_closes_at_once_is_noticed_at_once() -> None:
    async def close(stream: trio.SocketStream) -> None:
        await stream.aclose()

    async with tcp(close) as url:
        said = await refusal(url)
        assert "closed" in said or "broke" in said


async def test_a_server_of_something_else_is_noticed_at_once() -> None:
    async def talk(stream: trio.SocketStream) -> None:
        with trio.move_on_after(30):
            await stream.send_all(b"220 mail.example ESMTP\r\n\r\n")
            await stream.receive_some()
            await trio.sleep_forever()

    async with tcp(talk) as url:
        assert "does not answer as a WebSocket server" in await refusal(url)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ],
    ids=["page", "bare", "wrong"],
)
async def test_an_answer_that_is_no_handshake_is_noticed_at_once(answer: bytes) -> None:
    async def reply(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        async for _ in stream:
            pass

    async with tcp(reply) as url:
        said = await refusal(url)
        assert "WebSocket" in said or "200" in said


async def test_a_server_that_resets_at_once_is_noticed_at_once() -> None:
    async with served() as server, FaultProxy(("127.0.0.1", server.port)) as proxy:

        async def reset() -> None:
            await proxy.to_target.wait_seen()
            proxy.cut(reset=True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reset)
            proxy.to_target.hold()
            assert "broke" in await refusal(f"http://127.0.0.1:{proxy.port}")


async def test_a_server_that_says_nothing_is_given_up() -> None:
    async def listen(stream: trio.SocketStream) -> None:
        async for _ in stream:
            pass

    async with tcp(listen) as url:
        assert "0.1 seconds" in await refusal(url, connect_timeout=0.1)
        # The rest is not served over TLS either.
        said = await refusal(url.replace("http", "https"), connect_timeout=0.1)
        assert "0.1 seconds" in said


async def test_tls_to_a_server_without_it_is_said() -> None:
    async with served() as server:
        assert "TLS" in await refusal(server.url.replace("http", "https"))


@pytest.mark.parametrize("greeting", [{"op": "pong"}, {"op": "hello", "position": "?"}])
async def test_a_server_that_does_not_greet_is_not_believed(greeting: dict[str, Any]) -> None:
    async def speak(request: trio_websocket.WebSocketRequest) -> None:
        connection = await request.accept(subprotocol="watchbus.v1")
        await say(connection, {**HELLO, **greeting} if greeting["op"] == "hello" else greeting)
        await hear(connection)

    async with scripted(speak) as url:
        assert "makes no sense" in await refusal(url)


async def test_a_websocket_of_another_subprotocol_is_left() -> None:
    async def speak(request: trio_websocket.WebSocketRequest) -> None:
        await hear(await request.accept())

    async with scripted(speak) as url:
        assert "watchbus.v1" in await refusal(url)


@pytest.mark.parametrize(
    ("status", "said"), [(401, "token"), (403, "allow"), (404, "path"), (503, "503"), (301, "301")]
)
async def test_a_refused_upgrade_is_said_at_once(status: int, said: str) -> None:
    async def refuse(request: trio_websocket.WebSocketRequest) -> None:
        await request.reject(status, body=b"no")

    async with scripted(refuse) as url:
        assert said in await refusal(url, token="secret")


@pytest.mark.parametrize(("code", "said"), [(4401, "token"), (4403, "allow"), (1008, "1008")])
async def test_a_connection_closed_at_once_is_said(code: int, said: str) -> None:
    async def close(request: trio_websocket.WebSocketRequest) -> None:
        connection = await request.accept(subprotocol="watchbus.v1")
        await connection.aclose(code, "because")

    async with scripted(close) as url:
        error = await refusal(url)
        assert said in error
        assert "because" in error


# Tokens


async def test_a_token_is_sent_and_shown_nowhere(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    headers: list[tuple[bytes, bytes]] = []

    async def speak(request: trio_websocket.WebSocketRequest) -> None:
        headers.extend(request.headers)
        connection = await greeted(request)
        await hear(connection)
        await connection.aclose(4401, "expired")

    async with scripted(speak) as url:
        with pytest.raises(BusUnavailableError) as caught:
            async with open_remote_watchbus(url, token="very.secret") as bus:
                text = f"{bus!r} {bus._options!r} {bus.statistics()}"
                await bus.latest("k")
    assert (b"authorization", b"Bearer very.secret") in headers
    assert "token" in str(caught.value)
    for shown in (text, str(caught.value), repr(caught.value), caplog.text):
        assert "secret" not in shown


# TLS


async def test_tls_is_spoken_with_a_context_that_trusts_and_not_without(tmp_path: Any) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(server_context)

    async def speak(request: trio_websocket.WebSocketRequest) -> None:
        connection = await greeted(request)
        frame = await hear(connection)
        await say(connection, {"op": "published", "id": frame["id"], "message_id": "e-1"})
        await hear(connection)

    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            partial(trio_websocket.serve_websocket, speak, "127.0.0.1", 0, server_context)
        )
        url = f"https://127.0.0.1:{server.port}"
        assert "CERTIFICATE_VERIFY_FAILED" in await refusal(url)
        async with open_remote_watchbus(url, ssl_context=context) as bus:
            assert await bus.publish("k", b"") == "e-1"
        nursery.cancel_scope.cancel()


# Failing for good


@pytest.mark.parametrize("status", [401, 403])
async def test_a_failure_that_cannot_heal_ends_the_watches_and_is_raised_where_it_was_opened(
    status: int,
) -> None:
    accepted = 0
    seen: list[BaseException] = []

    async def speak(request: trio_websocket.WebSocketRequest) -> None:
        nonlocal accepted
        if accepted:
            await request.reject(status)
            return
        accepted += 1
        connection = await greeted(request)
        for _ in range(2):
            frame = await hear(connection)
            await say(connection, {"op": "watching", "id": frame["id"], "position": "e-0"})
        await hear(connection)

    async def receive(bus: RemoteWatchBus) -> None:
        async with bus.watch("k") as watch:
            with pytest.raises(trio.BrokenResourceError) as caught:
                await watch.receive()
            seen.append(caught.value.__cause__ or caught.value)

    async with scripted(speak) as url:
        with pytest.raises(BusUnavailableError, match=f"{status}") as raised:
            async with open_remote_watchbus(url) as bus, trio.open_nursery() as nursery:
                nursery.start_soon(receive, bus)
                async with bus.watch("k"):
                    with pytest.raises(trio.BrokenResourceError):
                        await bus.publish("k", b"")
                    await trio.sleep_forever()
        assert seen == [raised.value]
        assert repr(bus).endswith("failed>")
        with pytest.raises(trio.BrokenResourceError):
            await bus.latest("k")


async def test_what_the_server_says_is_checked(caplog: pytest.LogCaptureFixture) -> None:
    """Nonsense is not believed, and another connection is made."""
    nonsense: list[str | bytes] = [
        "nonsense",
        b"binary",
        '{"op":"position","position":"nonsense"}',
        '{"op":"published","id":1,"message_id":"nonsense"}',
    ]
    connections = 0

    async def speak(request: trio_websocket.WebSocketRequest) -> None:
        nonlocal connections
        connections += 1
        connection = await greeted(request)
        frame = await hear(connection)
        if connections <= len(nonsense):
            await connection.send_message(nonsense[connections - 1])
        else:
            await say(connection, {"op": "published", "id": frame["id"], "message_id": "e-7"})
        await hear(connection)

    async with scripted(speak) as url, open_remote_watchbus(url) as bus:
        assert await bus.publish("k", b"") == "e-7"
        assert bus.statistics().reconnects == len(nonsense)
        assert caplog.text.count("makes no sense") == len(nonsense)


async def test_what_a_later_server_says_breaks_no_connection() -> None:
    """Unknown ops, fields, reasons, encodings and codes each touch one watch or none."""
    opened: list[int] = []

    async def speak(request: trio_websocket.WebSocketRequest) -> None:
        opened.append(0)
        connection = await greeted(request)
        first, second = await hear(connection), await hear(connection)
        known = {"key": "a", "time": 1.0, "data": "x"}
        one = [
            {"op": "advice", "id": first["id"], "load": [1]},
            {"op": "watching", "position": "e-0", "later": True},
            {"op": "messages", "messages": [{**known, "id": "e-1"}], "position": "e-1"},
            {
                "op": "messages",
                "messages": [
                    {"key": "a", "id": "e-2", "time": 1.0, "data_zstd": "?"},
                    {**known, "id": "e_branch-3"},
                ],
                "position": "e_branch-3",
            },
            {"op": "lagged", "missed": 7, "position": "e-9", "reason": "eaten"},
            {"op": "messages", "messages": [{**known, "id": "e-10"}], "position": "e-10"},
        ]
        for frame in one:
            await say(connection, {"id": first["id"], **frame})
        await say(connection, {"op": "watching", "id": second["id"], "position": "e-0"})
        await say(connection, {"op": "error", "id": second["id"], "code": "tired", "detail": "no"})
        await hear(connection)

    async with scripted(speak) as url, open_remote_watchbus(url) as bus, trio.open_nursery() as n:

        async def watch_second() -> None:
            with pytest.raises(trio.BrokenResourceError) as caught:
                async with bus.watch("b") as watch:
                    await watch.receive()
            assert "no" in str(caught.value.__cause__)

        n.start_soon(watch_second)
        async with bus.watch("a") as watch:
            got: list[object] = []
            while len(got) < 5:
                try:
                    got.append((await watch.receive()).id)
                except WatchLaggedError as loss:
                    got.append((loss.missed, loss.position))
        assert got == ["e-1", (1, "e-2"), "e_branch-3", (None, "e-9"), "e-10"]
        assert bus.statistics().reconnects == 0
    assert len(opened) == 1


async def test_sizes_that_a_server_claims_take_no_memory() -> None:
    """A client reads frames of its own max_frame_size at most."""

    async def speak(request: trio_websocket.WebSocketRequest) -> None:
        connection = await request.accept(subprotocol="watchbus.v1")
        await say(connection, {**HELLO, "max_message_size": 2**48, "max_frame_size": 2**48})
        frame = await hear(connection)
        await say(connection, {"op": "later", "text": "x" * 1_000_000})
        await say(connection, {"op": "published", "id": frame["id"], "message_id": "e-7"})
        await hear(connection)

    async with scripted(speak) as url, open_remote_watchbus(url, max_frame_size=65_536) as bus:
        assert await bus.publish("k", b"") == "e-7"
        assert bus.statistics().reconnects == 0


@pytest.mark.parametrize(
    "frame",
    [
        {"op": "messages", "position": "e-1", "id": 1, "messages": []},
        {"id": 1, "op": "messages", "messages": []},
    ],
)
async def test_a_long_frame_for_who_knows_which_watch_ends_the_bus(frame: dict[str, Any]) -> None:
    """Its messages would be lost unseen, and the next connection would bring it again."""

    async def speak(request: trio_websocket.WebSocketRequest) -> None:
        connection = await greeted(request)
        await hear(connection)
        await say(connection, {"op": "watching", "id": 1, "position": "e-0"})
        await say(connection, {**frame, "padding": "x" * 1_000_000})
        await hear(connection)

    async with scripted(speak) as url:
        with pytest.raises(BusUnavailableError, match=r"does not begin with op and id"):
            async with (
                open_remote_watchbus(url, max_frame_size=65_536) as bus,
                bus.watch("k") as watch,
            ):
                await watch.receive()


async def test_a_watch_that_cannot_be_opened_again_for_now_is_opened_later() -> None:
    answers = [
        {"op": "watching", "position": "e-0"},
        {"op": "error", "code": "unavailable", "detail": "no Redis"},
        {"op": "error", "code": "failed", "detail": "a fault"},
        {"op": "watching", "position": "e-1"},
    ]
    asked: list[str | None] = []

    async def speak(request: trio_websocket.WebSocketRequest) -> None:
        connection = await greeted(request)
        while answers:
            frame = await hear(connection)
            asked.append(frame.get("after"))
            answer = answers.pop(0)
            await say(connection, {**answer, "id": frame["id"]})
            if len(answers) == 3:
                await connection.aclose(1011)
        await hear(connection)

    async with (
        scripted(speak) as url,
        open_remote_watchbus(url) as bus,
        bus.watch("k") as watch,
    ):
        await until(lambda: watch.position == "e-1")
    assert asked == [None, "e-0", "e-0", "e-0"]


async def test_a_watch_that_the_server_no_longer_allows_ends_alone() -> None:
    async def speak(request: trio_websocket.WebSocketRequest) -> None:
        connection = await greeted(request)
        for answer in (
            {"op": "watching", "position": "e-0"},
            {"op": "watching", "position": "e-0"},
        ):
            frame = await hear(connection)
            await say(connection, {**answer, "id": frame["id"]})
        await say(connection, {"op": "error", "id": 1, "code": "limit", "detail": "too many"})
        await hear(connection)

    async with (
        scripted(speak) as url,
        open_remote_watchbus(url) as bus,
        bus.watch("a") as refused,
        bus.watch("b") as other,
    ):
        with pytest.raises(trio.BrokenResourceError) as caught:
            await refused.receive()
        assert "too many" in str(caught.value.__cause__)
        with pytest.raises(trio.WouldBlock):
            other.receive_nowait()


async def test_a_watch_that_the_server_no_longer_allows_is_not_opened_again() -> None:
    """Nor is the server told that it is closed, on a connection that has never had it."""
    refused_once = trio.Event()
    heard: list[tuple[str, list[str] | None]] = []

    async def speak(request: trio_websocket.WebSocketRequest) -> None:
        connection = await greeted(request)
        again = refused_once.is_set()
        while True:
            frame = await hear(connection)
            if again:
                heard.append((frame["op"], frame.get("keys")))
            if frame["op"] == "latest":
                await say(connection, {"op": "latest", "id": frame["id"], "message": None})
            if frame["op"] != "watch":
                continue
            await say(connection, {"op": "watching", "position": "e-0", "id": frame["id"]})
            if frame["keys"] == ["b"] and not again:
                refusal = {"op": "error", "id": 1, "code": "limit", "detail": "too many"}
                await say(connection, refusal)
                await refused_once.wait()
                await connection.aclose(1011)

    async with (
        scripted(speak) as url,
        open_remote_watchbus(url) as bus,
        bus.watch("a") as refused,
        bus.watch("b"),
    ):
        with pytest.raises(trio.BrokenResourceError):
            await refused.receive()
        assert bus.statistics().watches == 1
        refused_once.set()
        await until(lambda: heard)
        refused.close()
        assert await bus.latest("k") is None
    assert heard[:2] == [("watch", ["b"]), ("latest", None)]


async def test_the_end_of_a_watch_that_was_not_closed_is_not_believed() -> None:
    """It is opened again on another connection, where it was."""
    asked: list[str | None] = []

    async def speak(request: trio_websocket.WebSocketRequest) -> None:
        connection = await greeted(request)
        frame = await hear(connection)
        asked.append(frame.get("after"))
        await say(connection, {"op": "watching", "position": "e-1", "id": frame["id"]})
        if len(asked) == 1:
            await say(connection, {"op": "unwatched", "id": frame["id"]})
        await hear(connection)

    async with scripted(speak) as url, open_remote_watchbus(url) as bus, bus.watch("a"):
        await until(lambda: len(asked) == 2)
    assert asked == [None, "e-1"]


@pytest.mark.parametrize("ids", [[], ["e-1"], ["e-1", "e-2", "e-3"]], ids=len)
async def test_a_batch_that_is_answered_with_ids_of_another_one_is_unknown(ids: list[str]) -> None:
    async def speak(request: trio_websocket.WebSocketRequest) -> None:
        connection = await greeted(request)
        frame = await hear(connection)
        await say(connection, {"op": "published", "id": frame["id"], "message_ids": ids})
        await hear(connection)

    async with scripted(speak) as url, open_remote_watchbus(url) as bus:
        with pytest.raises(PublishUnknownError, match="does not fit"):
            await bus.publish_many([("k", b""), ("k", b"")])


async def test_a_latest_message_whose_id_is_no_position_is_not_believed() -> None:
    messages = [{"key": "k", "id": text, "time": 0.0, "data": ""} for text in ("rubbish", "e-1")]

    async def speak(request: trio_websocket.WebSocketRequest) -> None:
        connection = await greeted(request)
        frame = await hear(connection)
        await say(connection, {"op": "latest", "id": frame["id"], "message": messages.pop(0)})
        await hear(connection)

    async with scripted(speak) as url, open_remote_watchbus(url) as bus:
        message = await bus.latest("k")
    assert message is not None
    assert message.id == "e-1"


async def test_the_default_takes_the_longest_message_of_a_default_server() -> None:
    """Each byte of which may take six as JSON."""
    longest = b"\x01" * MAX_MESSAGE_SIZE
    async with (
        served() as server,
        open_remote_watchbus(server.url) as bus,
        bus.watch("k") as watch,
    ):
        await server.bus.publish("k", longest)
        assert (await watch.receive()).data == longest
        assert (await bus.latest("k")) is not None
        assert bus.statistics().reconnects == 0


async def test_a_message_beyond_max_frame_size_is_a_loss_for_its_watch_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is told in its place, watches and the connection go on, and the option is named."""
    async with (
        served(InMemoryWatchBus()) as server,
        open_remote_watchbus(server.url, max_frame_size=65_536) as bus,
        bus.watch("big", buffer_size=2) as watch,
        bus.watch("small") as other,
    ):
        await server.bus.publish("big", b"before")
        assert (await watch.receive()).data == b"before"
        for lap in range(3):
            position = await server.bus.publish("big", b"x" * 100_000)
            with pytest.raises(WatchLaggedError) as caught:
                await watch.receive()
            assert (caught.value.missed, caught.value.position) == (None, position)
            await server.bus.publish("small", b"%d" % lap)
            for number in range(4):
                await server.bus.publish("big", b"%d" % number)
                assert (await watch.receive()).data == b"%d" % number
            assert (await other.receive()).data == b"%d" % lap
        assert bus.statistics().reconnects == 0
        assert bus.statistics().watches == 2
        assert "max_frame_size is 65536" in caplog.text


async def test_what_else_is_beyond_max_frame_size_is_an_error_that_names_it() -> None:
    async with (
        served(InMemoryWatchBus()) as server,
        open_remote_watchbus(server.url, max_frame_size=65_536) as bus,
        bus.watch("other") as watch,
    ):
        await server.bus.publish("big", b"x" * 100_000)
        with pytest.raises(BusUnavailableError, match="max_frame_size"):
            await bus.latest("big")
        with pytest.raises(BusUnavailableError, match="max_frame_size"):
            async with bus.watch("big", history=1):
                pass
        await bus.publish("other", b"1")
        assert (await watch.receive()).data == b"1"
        assert bus.statistics().reconnects == 0


def full_of(start: str, item: str, end: str) -> str:
    """A frame of nearly 8 MiB, full of one item."""
    count = (8 * 1024 * 1024 - len(start) - len(end)) // (len(item) + 1)
    return start + ",".join([item] * count) + end


async def test_a_frame_of_millions_of_strings_is_not_parsed_and_is_a_loss_of_its_watch_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Within max_frame_size, it is looked at in parts between which other tasks run."""
    message = '{"key":"k","id":"e-1","time":0,"data":""}'
    frames = [
        full_of('{"op":"messages","id":%d,"messages":[', message, '],"position":"e-7"}'),
        full_of('{"op":"watched_keys","id":%d,"keys":[', '""', "]}"),
        full_of('{"op":"latest","id":%d,"message":null,"later":[', r'"\\"', "]}"),
    ]
    parsed: list[int] = []
    turns = 0

    def parse(text: str) -> protocol.Answer | None:
        parsed.append(text.count('"'))
        return parse_answer(text)

    parse_answer = protocol.parse_answer
    monkeypatch.setattr(protocol, "parse_answer", parse)

    async def speak(request: trio_websocket.WebSocketRequest) -> None:
        nonlocal turns
        connection = await greeted(request)
        for number, text in enumerate(frames):
            frame = await hear(connection)
            if number == 0:
                await say(connection, {"op": "watching", "id": frame["id"], "position": "e-1"})
            await connection.send_message(text.replace("%d", str(frame["id"])))
            if number == 0:
                assert await hear(connection) == {"op": "unwatch", "id": frame["id"]}
                frame = await hear(connection)
                assert frame["after"] == "e-7"
                await say(connection, {"op": "watching", "id": frame["id"], "position": "e-7"})
        await hear(connection)

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with (
        scripted(speak) as url,
        open_remote_watchbus(url) as bus,
        bus.watch("k") as watch,
        trio.open_nursery() as nursery,
    ):
        with pytest.raises(WatchLaggedError) as caught:
            await watch.receive()
        assert (caught.value.missed, caught.value.position) == (None, "e-7")
        nursery.start_soon(count)
        for asked in (bus.watched_keys, partial(bus.latest, "k")):
            before = turns
            with pytest.raises(BusUnavailableError, match="more than 200000 strings"):
                await asked()
            assert turns - before >= 32
        assert bus.statistics().reconnects == 0
        assert max(parsed) < 100
        nursery.cancel_scope.cancel()


async def test_a_large_frame_of_few_strings_is_parsed_in_a_step_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other tasks run after it was parsed, and before it is handled."""
    steps: list[int] = []
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    def note(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            steps.append(turns)
            return function(*args)

        return call

    async with (
        served() as server,
        open_remote_watchbus(server.url) as bus,
        bus.watch("k") as watch,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(count)
        monkeypatch.setattr(protocol, "parse_answer", note(protocol.parse_answer))
        monkeypatch.setattr(Feed, "take_messages", note(Feed.take_messages))
        await server.bus.publish("k", b'"' * 400_000)
        assert (await watch.receive()).data == b'"' * 400_000
        assert len(steps) == 2
        assert steps[1] > steps[0]
        nursery.cancel_scope.cancel()


async def test_limits_of_the_server_are_told() -> None:
    async with (
        served(max_watches=1, max_batch_messages=2) as server,
        open_remote_watchbus(server.url) as bus,
        bus.watch("a"),
    ):
        with pytest.raises(ValueError, match="at most 1 watches"):
            async with bus.watch("b"):
                pass
        with pytest.raises(ValueError, match="at most 1000 messages of each key"):
            async with bus.watch("b", history=1001):
                pass
        assert bus.max_batch_messages == 2
        with pytest.raises(ValueError, match="at most 2 messages"):
            await bus.publish_many([("k", b"")] * 3)
        with pytest.raises(ValueError, match="in parts"):
            await bus.publish_many([("k", b"x" * 1_000_000)] * 3)
        with pytest.raises(ValueError, match="several watches"):
            async with bus.watch_any(["\\" * 500 + str(number) for number in range(100)]):
                pass
        assert bus.statistics().watches == 1
        assert bus.statistics().reconnects == 0
        assert server.bus.position.endswith("-0")


@pytest.mark.parametrize(
    "answer",
    [
        {"op": "error", "code": "failed", "detail": "a fault"},
        {"op": "error", "code": "publish_unknown", "detail": "who knows"},
        {"op": "watched_keys", "keys": []},
    ],
    ids=["failed", "unknown", "another"],
)
async def test_a_publish_with_an_answer_that_says_nothing_certain_is_unknown(
    answer: dict[str, Any],
) -> None:
    async def speak(request: trio_websocket.WebSocketRequest) -> None:
        connection = await greeted(request)
        while True:
            frame = await hear(connection)
            await say(connection, {**answer, "id": frame["id"]})

    async with scripted(speak) as url, open_remote_watchbus(url) as bus:
        with pytest.raises(PublishUnknownError) as caught:
            await bus.publish("k", b"", idempotency_key="mine")
        assert caught.value.idempotency_key == "mine"
        with pytest.raises(BusUnavailableError):
            await bus.latest("k")


async def test_a_publish_refused_after_one_that_may_have_arrived_is_unknown() -> None:
    connections = 0

    async def speak(request: trio_websocket.WebSocketRequest) -> None:
        nonlocal connections
        connections += 1
        connection = await greeted(request)
        frame = await hear(connection)
        if connections == 1:
            await connection.aclose(1011)
        else:
            answer = {"op": "error", "id": frame["id"], "code": "unavailable", "detail": ""}
            await say(connection, answer)
            # The first attempt of this one is refused.
            frame = await hear(connection)
            await say(connection, {**answer, "id": frame["id"]})
            await hear(connection)

    async with scripted(speak) as url, open_remote_watchbus(url) as bus:
        with pytest.raises(PublishUnknownError):
            await bus.publish("k", b"")
        with pytest.raises(BusUnavailableError) as caught:
            await bus.publish("k", b"")
        assert not isinstance(caught.value, PublishUnknownError)


async def test_a_long_history_may_take_longer_as_long_as_more_of_it_comes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The time that a server has to answer begins anew with each part."""
    bus = RemoteWatchBus(
        LinkOptions(Address.parse("http://localhost"), (), None, 1, 1, 1, 65_536), 1.0
    )
    bus._feeds._max_request_size = 10_000

    async def give() -> None:
        for number in range(1, 6):
            await trio.sleep(0.9)
            message = protocol.WireMessage.of(Message("k", b"", f"e-{number}", 0.0))
            bus._take(protocol.Messages(1, (message,), f"e-{number}"))
        await trio.sleep(0.9)
        bus._take(protocol.Watching(1, "e-5"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(give)
        async with bus.watch("k", history=5) as watch:
            assert [(await watch.receive()).id for _ in range(5)] == [f"e-{n}" for n in range(1, 6)]


async def test_a_fault_of_the_bus_itself_is_raised_and_hides_nowhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Feeds, "refuse", fail)
    async with served(max_watches=1) as server:
        with pytest.raises(ExceptionGroup) as caught:
            async with open_remote_watchbus(server.url) as bus, bus.watch("a"), bus.watch("b"):
                pass
        assert caught.group_contains(ZeroDivisionError)


WITHOUT_EXTRA = """
import sys
sys.modules["wsproto"] = None
import trio_watchbus
try:
    trio_watchbus.open_watchbus("http://127.0.0.1")
except ImportError as error:
    print(error)
"""


def test_without_the_extra_it_is_said_what_to_install() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRA], check=True, capture_output=True, text=True
    )
    assert "pip install 'trio-watchbus[client]'" in ran.stdout


# Leaving

PATIENT: dict[str, Any] = {
    "timeout": 60,
    "connect_timeout": 60,
    "heartbeat": 60,
    "heartbeat_timeout": 60,
}
"""Whoever waits for any of these takes far longer than leaving may."""


async def test_an_error_of_the_body_comes_as_it_is() -> None:
    async with served() as server:
        with pytest.raises(ZeroDivisionError) as caught:
            async with open_remote_watchbus(server.url) as bus, bus.watch("k"):
                raise ZeroDivisionError
        assert caught.value.__cause__ is None


async def test_leaving_waits_for_no_server_that_is_stopped() -> None:
    """Which reads nothing and says nothing: it takes none of the minutes that other waits may."""
    async with served() as server, FaultProxy(("127.0.0.1", server.port)) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        async with open_remote_watchbus(url, **PATIENT) as bus, bus.watch("k"):
            proxy.to_client.hold()
            proxy.to_target.hold()
            # More than the sockets take, so that the task that sends is stuck.
            for _ in range(20):
                with trio.move_on_after(0.02) as scope:
                    await bus.publish("k", b"x" * 1_000_000)
                assert scope.cancelled_caught
            began = trio.current_time()
        assert trio.current_time() - began < 5
        proxy.cut()


async def test_leaving_while_it_is_not_connected_takes_no_time() -> None:
    async with served() as server, FaultProxy(("127.0.0.1", server.port)) as proxy:
        async with open_remote_watchbus(f"http://127.0.0.1:{proxy.port}", **PATIENT) as bus:
            proxy.refuse()
            proxy.cut()
            await until(lambda: not bus.statistics().connected)
            began = trio.current_time()
        assert trio.current_time() - began < 5


async def test_a_bus_that_is_left_closes_its_connection_in_good_order() -> None:
    reasons: list[Any] = []

    async def speak(request: trio_websocket.WebSocketRequest) -> None:
        connection = await greeted(request)
        try:
            await hear(connection)
        except trio_websocket.ConnectionClosed as closed:
            reasons.append(closed.reason)

    async with scripted(speak) as url:
        async with open_remote_watchbus(url):
            pass
        await until(lambda: reasons)
    assert reasons[0].code == 1000


async def test_a_cancel_at_any_step_of_opening_and_leaving_leaves_nothing() -> None:
    async with served() as server:

        async def use() -> None:
            async with open_remote_watchbus(server.url) as bus, bus.watch("k") as watch:
                await bus.publish("k", b"")
                await watch.receive()

        async def assert_left() -> None:
            await until(lambda: not server.watches)

        assert await cancel_everywhere(use, assert_left) > 100


async def test_a_closed_bus_reconnects_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bus, "_FIRST_PAUSE", 0.001)
    async with (
        served() as server,
        FaultProxy(("127.0.0.1", server.port)) as proxy,
        open_remote_watchbus(f"http://127.0.0.1:{proxy.port}") as bus,
    ):
        bus.close()
        await until(lambda: not proxy.statistics().connections)
        assert proxy.statistics().accepted == 1
        assert not bus.statistics().connected


async def test_a_bus_that_is_closed_while_it_reconnects_lets_go() -> None:
    async with (
        served() as server,
        FaultProxy(("127.0.0.1", server.port)) as proxy,
        open_remote_watchbus(f"http://127.0.0.1:{proxy.port}") as bus,
    ):
        proxy.to_client.hold()
        proxy.cut()
        await until(lambda: proxy.statistics().connections)
        bus.close()
        proxy.to_client.release()
        await until(lambda: not proxy.statistics().connections)
        with pytest.raises(trio.ClosedResourceError):
            await bus.publish("k", b"")
