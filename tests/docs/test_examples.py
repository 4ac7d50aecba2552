"""The examples do what they say: in a browser, across restarts too, and with wrong arguments."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from browser import in_browser, needs_chromium
from page_session import EXAMPLES, PageSession, Terminal
from playwright.sync_api import Browser, Error, Page, expect

from trio_watchbus import InMemoryWatchBus

LISTENING = "[INFO] Running on http://127.0.0.1"


class Example:
    """An example that serves a page, with a browser; for the thread that drives the browser.

    Attributes:
        errors: what went wrong in its pages.
    """

    def __init__(self, session: PageSession, name: str, browser: Browser) -> None:
        self._session = session
        self._command = [sys.executable, f"docs/examples/{name}/{name}.py"]
        self._terminal: Terminal | None = None
        self._browser = browser
        self.errors: list[Error] = []

    def start(self) -> None:
        """Start the server."""
        trio.from_thread.run(self._start)

    def stop(self) -> None:
        """Stop the server."""
        assert self._terminal is not None
        trio.from_thread.run(self._terminal.stop)

    def open_page(self) -> Page:
        """Open the page, and return it once it is live."""
        page = self._browser.new_page()
        page.on("pageerror", self.note_error)
        page.goto(self.url("/"))
        expect(page.locator("#state")).to_have_text("live")
        return page

    def url(self, target: str) -> str:
        """Return where the server has `target`."""
        return self._session.with_ports(f"http://127.0.0.1:8000{target}")

    def note_error(self, error: Error) -> None:
        """Remember an error that a page did not catch."""
        self.errors.append(error)

    async def _start(self) -> None:
        self._terminal = await self._session.start(self._command)
        with trio.fail_after(30):
            # Another process prints: there is nothing here to wait on.
            while not any(LISTENING in line for line in self._terminal.printed):  # noqa: ASYNC110
                await trio.sleep(0.01)


async def run_example(folder: Path, name: str, drive: Callable[[Example], None]) -> None:
    """Start the example `name` and a browser, and call `drive` with them."""
    async with PageSession(folder) as session:

        def start_and_drive(browser: Browser) -> None:
            example = Example(session, name, browser)
            example.start()
            drive(example)
            assert example.errors == []

        await in_browser(start_and_drive)


@needs_chromium
async def test_a_message_to_a_prefix_is_about_every_room_under_it(tmp_path: Path) -> None:
    """It makes no tile of its own."""

    def drive(example: Example) -> None:
        page = example.open_page()
        expect(page.locator(".room")).to_have_count(3)
        target = example.url("/publish?prefix=temperature/k")
        # Again and again, as the kitchen's own readings go on.
        page.evaluate(
            "target => setInterval(() => fetch(target, {method: 'POST', body: '451'}), 50)", target
        )
        kitchen = page.locator(".room", has_text="kitchen").locator("output")
        expect(kitchen).to_have_text("451 °C")
        expect(page.locator(".room")).to_have_count(3)
        roof = page.locator(".room", has_text="roof").locator("output")
        expect(roof).not_to_have_text("451 °C")

    await run_example(tmp_path, "dashboard", drive)


@needs_chromium
async def test_the_dashboard_shows_each_room_and_lives_on_after_a_restart(tmp_path: Path) -> None:
    def drive(example: Example) -> None:
        page = example.open_page()
        for room in ("cellar", "kitchen", "roof"):
            tile = page.locator(".room", has_text=room)
            expect(tile.locator("output")).to_contain_text(" °C")
        example.stop()
        expect(page.locator("#state")).to_have_text("reconnecting")
        # What stood there before is not to be taken for what comes.
        page.evaluate("document.querySelectorAll('output').forEach((o) => o.textContent = '')")
        example.start()
        expect(page.locator("#state")).to_have_text("live", timeout=20_000)
        for output in page.locator("output").all():
            expect(output).to_contain_text(" °C")

    await run_example(tmp_path, "dashboard", drive)


def say(page: Page, text: str) -> None:
    page.locator("#text").fill(text)
    page.locator("#text").press("Enter")


@needs_chromium
async def test_who_chats_sees_what_others_say_and_who_comes_in_sees_the_past(
    tmp_path: Path,
) -> None:
    def drive(example: Example) -> None:
        first, second = example.open_page(), example.open_page()
        say(first, "hello <b>you</b>")
        for page in (first, second):
            expect(page.locator("li")).to_have_text(["somebody: hello <b>you</b>"])
        say(second, "hi")
        newcomer = example.open_page()
        for page in (first, second, newcomer):
            expect(page.locator("li")).to_have_text(["somebody: hello <b>you</b>", "somebody: hi"])

    await run_example(tmp_path, "chat", drive)


@needs_chromium
async def test_a_chat_goes_on_after_a_broken_line_without_loss_or_repeat(tmp_path: Path) -> None:
    def drive(example: Example) -> None:
        first, second = example.open_page(), example.open_page()
        say(second, "one")
        expect(first.locator("li")).to_have_text(["somebody: one"])
        # The line breaks as its answer, and with it the news, is under way.
        first.evaluate("socket.onmessage = null")
        say(first, "two")
        expect(second.locator("li")).to_have_text(["somebody: one", "somebody: two"])
        first.evaluate("socket.close()")
        say(second, "three")
        for page in (first, second):
            expect(page.locator("li")).to_have_text(
                ["somebody: one", "somebody: two", "somebody: three"], timeout=20_000
            )
        first.wait_for_function("unsent.size === 0")

    await run_example(tmp_path, "chat", drive)


@needs_chromium
async def test_a_chat_begins_again_when_the_server_forgot_everything(tmp_path: Path) -> None:
    def drive(example: Example) -> None:
        page = example.open_page()
        say(page, "old")
        expect(page.locator("li")).to_have_text(["somebody: old"])
        example.stop()
        expect(page.locator("#state")).to_have_text("reconnecting")
        say(page, "said while away")
        example.start()
        expect(page.locator("li")).to_have_text(["somebody: said while away"], timeout=20_000)
        expect(page.locator("#state")).to_have_text("live")

    await run_example(tmp_path, "chat", drive)


@pytest.mark.parametrize(
    ("publish", "kept"),
    [
        (lambda bus: bus.publish("changed/price/tea", b""), {"coffee", "cocoa"}),
        (lambda bus: bus.publish_prefix("changed/price/co", b""), {"tea"}),
        (lambda bus: bus.publish_prefix("changed/price/", b""), set()),
        (lambda bus: bus.publish_prefix("changed/", b""), set()),
        (lambda bus: bus.publish_prefix("", b""), set()),
        (lambda bus: bus.publish_prefix("changed/price/tea/", b""), {"tea", "coffee", "cocoa"}),
    ],
    ids=["key", "some", "all", "shorter", "everything", "none"],
)
async def test_the_cache_forgets_what_a_message_is_about(
    tmp_path: Path, publish: Callable[[InMemoryWatchBus], Awaitable[str]], kept: set[str]
) -> None:
    """One article, or all under a prefix."""
    cache_of = runpy.run_path(str(EXAMPLES / "cache/cache.py"))
    file = tmp_path / "prices.sqlite"
    articles = {"tea", "coffee", "cocoa"}
    async with (
        InMemoryWatchBus() as bus,
        bus.subscribe_prefix(cache_of["CHANGED"]) as changes,
        trio.open_nursery() as nursery,
    ):
        cache = cache_of["PriceCache"](file)
        nursery.start_soon(cache.forget_changes, changes)
        for article in articles:
            cache_of["write_price"](file, article, 3)
            assert cache.get(article) == (3, "the database")
        await publish(bus)
        if kept < articles:
            await cache.changed.wait()
        else:
            await trio.testing.wait_all_tasks_blocked()
        assert {name for name in articles if cache.get(name) == (3, "the cache")} == kept
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("boss", "invalid choice: 'boss'"),
        ("bar", "a bar needs the URL of a bus"),
        ("worker memory://", "a worker needs the URL of a bus"),
        ("bar localhost:8000", "unknown bus URL 'localhost:8000'"),
    ],
)
def test_progress_says_what_is_wrong_with_its_arguments(arguments: str, told: str) -> None:
    command = [sys.executable, str(EXAMPLES / "progress/progress.py"), *arguments.split()]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    assert done.returncode == 2
    *usage, error = done.stderr.splitlines()
    assert usage[0].startswith("usage: ")
    assert told in error
