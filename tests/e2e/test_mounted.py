"""The routes on an application of one's own, served by hypercorn as it comes."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import hypercorn.trio
import pytest
import trio
from hypercorn.config import Config
from quart import Blueprint, abort, request, websocket
from quart_trio import QuartTrio
from served import SECONDS, Server, until

from trio_watchbus import InMemoryWatchBus, open_watchbus
from trio_watchbus.web import WebOptions, create_app, drain, watchbus_blueprint
from trio_watchbus.web._app import ROUTES


async def test_a_blueprint_on_another_application() -> None:
    """It has its routes under its prefix, ends its streams when told, and leaves no watch."""
    bus = InMemoryWatchBus()
    server = Server(bus)
    app = QuartTrio(__name__)
    blueprint = watchbus_blueprint(bus, WebOptions(heartbeat=0.1))
    app.register_blueprint(blueprint, url_prefix="/bus")

    @app.get("/")
    async def index() -> str:
        return "mine"

    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    async with trio.open_nursery() as nursery:
        serve = partial(hypercorn.trio.serve, app, config, shutdown_trigger=server.stop.wait)
        [server.url] = await nursery.start(serve)
        assert (await server.ask("/")).body == b"mine"
        assert (await server.ask("/sse?key=a")).status == 404
        assert (await server.ask("/bus/sse")).error == "missing_key"
        response = await server.ask("/bus/ws?key=a")
        assert (response.status, response.error) == (426, "upgrade_required")
        assert response.headers["upgrade"] == "websocket"
        assert (await server.ask("/bus/healthz", headers={"Host": "evil.example"})).status == 403
        async with (
            await server.connect() as client,
            await server.connect() as socket,
            await server.connect() as gone,
        ):
            await client.stream_events("/bus/sse?key=a")
            await gone.stream_events("/bus/sse?key=a")
            await socket.upgrade("/bus/ws?key=a")
            await until(lambda: server.watches == 3)
            gone.vanish()
            await until(lambda: server.watches == 2)
            assert (await server.ask("/bus/publish?key=a", "POST", b"1")).status == 200
            assert (await client.message_event()).data == "1"
            assert await socket.message() == "1"
            drain(blueprint)
            assert (await client.message_event()).event == "end"
            assert await socket.close_code() == 1001
            assert (await server.ask("/bus/readyz")).error == "draining"
            assert (await server.ask("/bus/sse?key=a")).error == "draining"
        server.stop.set()
        with trio.fail_after(SECONDS):
            await until(lambda: not nursery.child_tasks)
    assert bus.statistics().watches == 0


@pytest.mark.parametrize("place", ["before", "around"])
async def test_every_request_meets_what_the_application_asks(place: str) -> None:
    """Its hooks and middleware see plain requests too: to publish, and for a stream."""
    bus = InMemoryWatchBus()
    server = Server(bus)
    app = create_app(bus)
    if place == "before":

        @app.before_request
        async def check() -> None:
            if request.headers.get("Authorization") != "secret":
                abort(401)

    else:
        inner = app.asgi_app

        async def middleware(scope: Any, receive: Any, send: Any) -> None:
            headers = dict(scope.get("headers", ()))
            if scope["type"] == "http" and headers.get(b"authorization") != b"secret":
                await send({"type": "http.response.start", "status": 401, "headers": []})
                await send({"type": "http.response.body", "body": b""})
            else:
                await inner(scope, receive, send)

        app.asgi_app = middleware  # type: ignore[method-assign]

    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    async with trio.open_nursery() as nursery:
        run = partial(hypercorn.trio.serve, app, config, shutdown_trigger=server.stop.wait)
        [server.url] = await nursery.start(run)
        assert (await server.ask("/publish?key=a", "POST", b"1")).status == 401
        assert (await server.ask("/sse?key=a")).status == 401
        assert await bus.latest("a") is None
        allowed = {"Authorization": "secret"}
        assert (await server.ask("/publish?key=a", "POST", b"1", allowed)).status == 200
        server.stop.set()


async def test_two_buses_on_one_application() -> None:
    """Each blueprint gets a name of its own; without one, the second is refused."""
    buses = InMemoryWatchBus(), InMemoryWatchBus()
    app = QuartTrio(__name__)
    for name, bus in zip(("first", "second"), buses, strict=True):
        app.register_blueprint(watchbus_blueprint(bus), url_prefix=f"/{name}", name=name)
    for name, bus in zip(("first", "second"), buses, strict=True):
        response = await app.test_client().post(f"/{name}/publish?key=a", data=name.encode())
        assert (await response.get_json())["id"] == bus.position
        message = await bus.latest("a")
        assert message is not None
        assert message.data == name.encode()
    unnamed = QuartTrio(__name__)
    unnamed.register_blueprint(watchbus_blueprint(buses[0]), url_prefix="/first")
    with pytest.raises(ValueError, match="name"):
        unnamed.register_blueprint(watchbus_blueprint(buses[1]), url_prefix="/second")


async def test_a_whole_application() -> None:
    """`create_app` gives one that any Trio server of ASGI applications can run."""
    bus = InMemoryWatchBus()
    app = create_app(bus)
    async with app.test_app() as tested:
        client = tested.test_client()
        response = await client.post("/publish?key=a", data=b"1")
        assert response.status_code == 200
        assert (await response.get_json())["id"] == bus.position
        assert (await client.get("/nothing")).status_code == 404
    assert {rule.rule for rule in app.url_map.iter_rules()} == set(ROUTES)


def test_what_is_not_a_bus_s_routes_is_not_drained() -> None:
    with pytest.raises(TypeError, match="watchbus_blueprint returns"):
        drain(Blueprint("other", __name__))


@pytest.mark.parametrize("whole", [True, False], ids=["create_app", "blueprint"])
def test_a_server_on_asyncio_is_told_at_its_start(whole: bool) -> None:
    """In one line, with what to do, rather than by an error of each request."""
    app = QuartTrio(__name__)
    if whole:
        app = create_app(InMemoryWatchBus())
    else:
        app.register_blueprint(watchbus_blueprint(InMemoryWatchBus()), url_prefix="/bus")
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "lifespan.startup"}

    async def send(event: Any) -> None:
        sent.append(event)

    scope: Any = {"type": "lifespan", "asgi": {"version": "3.0"}}
    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    [event] = sent
    assert event["type"] == "lifespan.startup.failed"
    assert "needs Trio" in event["message"]
    assert "--worker-class trio" in event["message"]
    assert "\n" not in event["message"]


def test_a_server_on_asyncio_that_runs_no_lifespan_is_told_by_the_first_request() -> None:
    app = create_app(InMemoryWatchBus())
    scope: Any = {
        "type": "http",
        "method": "GET",
        "path": "/healthz",
        "raw_path": b"/healthz",
        "query_string": b"",
        "headers": [],
        "http_version": "1.1",
        "scheme": "http",
        "root_path": "",
        "asgi": {"version": "3.0"},
        "client": None,
        "server": None,
    }
    with pytest.raises(RuntimeError, match="needs Trio"):
        asyncio.run(app(scope, None, None))  # type: ignore[arg-type]


@pytest.mark.parametrize("bus", ["memory://", None, open_watchbus("redis://localhost")])
def test_what_is_not_an_open_bus_is_refused_at_once(bus: Any) -> None:
    """Rather than by an error of each request."""
    with pytest.raises(TypeError, match="open it first"):
        watchbus_blueprint(bus)
    with pytest.raises(TypeError, match="open it first"):
        create_app(bus)


@pytest.mark.parametrize("target", ["//publish", "///publish", "http://localhost/publish"])
async def test_only_the_exact_path_is_served_by_a_whole_application(target: str) -> None:
    """Werkzeug would route each of these like the exact path."""
    bus = InMemoryWatchBus()
    server = Server(bus)
    config = Config.from_mapping(bind="127.0.0.1:0", errorlog=None)
    async with trio.open_nursery() as nursery:
        run = partial(hypercorn.trio.serve, create_app(bus), config)
        [server.url] = await nursery.start(partial(run, shutdown_trigger=server.stop.wait))
        assert (await server.ask("/publish?key=a", "POST", b"x")).status == 200
        assert (await server.ask(f"{target}?key=a", "POST", b"x")).status == 404
        server.stop.set()
    assert bus.statistics().journal_messages == 1


async def test_hooks_of_an_application_run_first() -> None:
    """On HTTP and on WebSocket, before the handlers look at anything."""
    bus = InMemoryWatchBus()
    server = Server(bus, way="mounted")
    app = QuartTrio(__name__)
    app.register_blueprint(watchbus_blueprint(bus), url_prefix="/bus")
    seen: list[str] = []

    @app.before_request
    async def check() -> None:
        seen.append(request.path)
        abort(418)

    @app.before_websocket
    async def check_websocket() -> None:
        seen.append(websocket.path)
        abort(418)

    config = Config.from_mapping(bind="127.0.0.1:0", errorlog=None)
    async with trio.open_nursery() as nursery:
        run = partial(hypercorn.trio.serve, app, config, shutdown_trigger=server.stop.wait)
        [server.url] = await nursery.start(run)
        bad = {"Host": "evil.example"}
        assert (await server.ask("/publish", "POST", b"1", bad)).status == 418
        assert (await server.ask("/sse", headers=bad)).status == 418
        async with await server.connect() as client:
            assert (await client.upgrade("/ws", **bad)).status == 418
        server.stop.set()
    assert seen == ["/bus/publish", "/bus/sse", "/bus/ws"]
