"""A real browser watches, and the server is restarted meanwhile, or refuses."""

from __future__ import annotations

import signal
from functools import partial

import hypercorn.trio
import pytest
import trio
from browser import in_browser, needs_chromium
from hypercorn.config import Config
from page_blocks import blocks
from page_session import ROOT
from playwright.sync_api import Browser, Error
from quart import abort, request
from quart_trio import QuartTrio
from redis_bus.servers import binaries, running
from restarting import RestartedServer, restarted_server
from served import Server

from trio_watchbus import InMemoryWatchBus, RedisWatchBus, open_redis_watchbus
from trio_watchbus.testing import FaultProxy
from trio_watchbus.web import watchbus_blueprint

SCRIPT = """(server) => {
  const seen = { events: [], frames: [] };
  const opened = { events: 0, frames: 0 };
  const live = { events: false, frames: false };

  const events = new EventSource(`${server}/sse?key=orders&history=1`);
  events.onopen = () => { opened.events += 1; live.events = true; };
  events.onerror = () => { live.events = false; };
  events.onmessage = (event) => seen.events.push([event.lastEventId, event.data]);
  events.addEventListener("gap", (event) => seen.events.push(["gap", event.data]));

  let position;
  function connect() {
    const socket = new WebSocket(`${server.replace("http", "ws")}/ws`, "watchbus.v1");
    socket.onopen = () => {
      const start = position === undefined ? { history: 1 } : { after: position };
      socket.send(JSON.stringify({ op: "watch", id: 1, key: "orders", ...start }));
    };
    socket.onmessage = (event) => {
      const frame = JSON.parse(event.data);
      if (frame.op === "watching") { opened.frames += 1; live.frames = true; }
      for (const message of frame.messages ?? []) seen.frames.push([message.id, message.data]);
      // Before the watch is open for the first time, messages are a part of the history.
      if (frame.position && (live.frames || position !== undefined)) position = frame.position;
      if (["error", "lagged"].includes(frame.op)) seen.frames.push([frame.op, event.data]);
    };
    socket.onclose = () => { live.frames = false; setTimeout(connect, 100 * Math.random()); };
  }
  connect();
  Object.assign(window, { seen, opened, live });
}"""
"""Watches a server in both ways."""

MILLISECONDS = 30_000
"""How long the page may take before the test gives up: far longer than it does."""


class Publisher:
    """Publishes to one key, whatever becomes of the server of the page.

    Attributes:
        published: id and data of each message, in order.
    """

    def __init__(self, bus: RedisWatchBus) -> None:
        self.published: list[list[str]] = []
        self._bus = bus
        self._enough = trio.Event()
        self._stopped = trio.Event()
        self._progress = trio.lowlevel.ParkingLot()

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Publish until `finish`; started once there is one message."""
        while not self._enough.is_set():
            data = str(len(self.published))
            self.published.append([await self._bus.publish("orders", data.encode()), data])
            self._progress.unpark_all()
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            # The load's pace, which leaves the machine time for the browser.
            await trio.sleep(0.001)
        self._stopped.set()

    async def publish_more(self, messages: int) -> None:
        """Wait until `run` has published so many more."""
        wanted = len(self.published) + messages
        while len(self.published) < wanted:
            await self._progress.park()

    async def finish(self) -> None:
        """Have `run` publish no more."""
        self._enough.set()
        await self._stopped.wait()


class Visit:
    """A page that watches, for the thread that drives the browser.

    Args:
        browser: where to open it.
        origin: where the page comes from.
        server: the URL of the server that it watches.
    """

    def __init__(self, browser: Browser, origin: str, server: str) -> None:
        self._errors: list[Error] = []
        self._page = browser.new_page()
        self._page.on("pageerror", self.note_error)
        # Nothing much, but really served: what a browser lets a page do depends on from where.
        self._page.goto(f"{origin}/healthz")
        self._page.evaluate(SCRIPT, server)

    def note_error(self, error: Error) -> None:
        """Remember an error that the page did not catch."""
        self._errors.append(error)

    def wait_for(self, condition: str) -> None:
        """Wait until an expression of JavaScript holds."""
        self._page.wait_for_function(condition, timeout=MILLISECONDS)

    def seen(self, last: str) -> dict[str, list[list[str]]]:
        """Return what each way brought, once both have brought the message with this id."""
        self.wait_for(f"Object.values(seen).every((all) => all.at(-1)?.[0] === {last!r})")
        assert self._errors == []
        seen: dict[str, list[list[str]]] = self._page.evaluate("seen")
        return seen


def watch_over_a_restart(
    browser: Browser,
    origin: str,
    server: RestartedServer,
    number: signal.Signals,
    publisher: Publisher,
) -> dict[str, list[list[str]]]:
    """Return what a page sees of messages before a restart, while the server is down, and after."""
    visit = Visit(browser, origin, server.url)
    visit.wait_for("live.events && live.frames")
    trio.from_thread.run(publisher.publish_more, 20)
    trio.from_thread.run(server.stop, number)
    visit.wait_for("!live.events && !live.frames")
    trio.from_thread.run(publisher.publish_more, 20)
    trio.from_thread.run(server.start)
    visit.wait_for("opened.events === 2 && opened.frames === 2")
    trio.from_thread.run(publisher.publish_more, 20)
    trio.from_thread.run(publisher.finish)
    last, _ = publisher.published[-1]
    return visit.seen(last)


@needs_chromium
@pytest.mark.parametrize(("number", "is_own"), [(signal.SIGTERM, True), (signal.SIGKILL, False)])
async def test_a_page_has_each_message_once_though_the_server_restarts(
    number: signal.Signals, is_own: bool, server: Server
) -> None:
    """In order, by EventSource and by WebSocket, on a page of the server's own or of another."""
    with running(min(binaries())) as redis:
        async with (
            open_redis_watchbus(redis.url) as bus,
            restarted_server(redis.url, "--allowed-origin", server.url) as restarted,
            trio.open_nursery() as nursery,
        ):
            publisher = Publisher(bus)
            await nursery.start(publisher.run)
            seen = await in_browser(
                partial(
                    watch_over_a_restart,
                    origin=restarted.url if is_own else server.url,
                    server=restarted,
                    number=number,
                    publisher=publisher,
                )
            )
    for messages in seen.values():
        begin = publisher.published.index(messages[0])
        assert messages == publisher.published[begin:]


class RefusingApp:
    """An app with a bus under ``/bus``, whose streams are refused while the app is told to.

    Attributes:
        bus: the bus.
        app: the app.
        refuses: whether a stream is answered 503.
    """

    def __init__(self) -> None:
        self.bus = InMemoryWatchBus()
        self.app = QuartTrio(__name__)
        self.refuses = True
        routes = watchbus_blueprint(self.bus)
        routes.before_request(self._check)
        self.app.register_blueprint(routes, url_prefix="/bus")

    async def _check(self) -> None:
        if self.refuses and request.path == "/bus/sse":
            abort(503)


def follow_the_guide(browser: Browser, url: str, app: RefusingApp, proxy: FaultProxy) -> None:
    """Run the guide's script while `app`, at `url` by way of `proxy`, refuses it twice."""
    guide = ROOT / "docs/how-to/resume-in-browser.md"
    [script] = [block.text for block in blocks(guide) if block.language == "javascript"]
    left_to_the_reader = "// … and show event.data"
    assert left_to_the_reader in script
    page = browser.new_page()
    page.goto(f"{url}/bus/healthz")
    # It waits for as short as it may.
    page.add_script_tag(content="Math.random = () => 0; const shown = [];")
    page.add_script_tag(content=script.replace(left_to_the_reader, "shown.push(event.data);"))

    def wait_for(condition: str) -> None:
        page.wait_for_function(condition, timeout=MILLISECONDS)

    def publish(data: bytes) -> None:
        trio.from_thread.run_sync(app.bus.publish_nowait, "orders/1", data)

    wait_for("events.readyState === EventSource.CLOSED")
    app.refuses = False
    wait_for("events.readyState === EventSource.OPEN")
    publish(b"one")
    wait_for("shown.length === 1")
    app.refuses = True
    trio.from_thread.run_sync(proxy.cut)
    wait_for("events.readyState === EventSource.CLOSED")
    publish(b"two")
    app.refuses = False
    wait_for("shown.length === 2")
    assert page.evaluate("shown") == ["one", "two"]


@needs_chromium
async def test_the_guides_script_goes_on_where_it_was_though_the_browser_gave_up() -> None:
    """It is refused at first, and again after its connection broke."""
    app = RefusingApp()
    config = Config.from_mapping(bind="127.0.0.1:0", errorlog=None)
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        serve = partial(hypercorn.trio.serve, app.app, config, shutdown_trigger=stop.wait)
        [server] = await nursery.start(serve)
        async with FaultProxy(("127.0.0.1", int(server.rpartition(":")[2]))) as proxy:
            url = f"http://127.0.0.1:{proxy.port}"
            await in_browser(partial(follow_the_guide, url=url, app=app, proxy=proxy))
        stop.set()
