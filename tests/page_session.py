"""Runs what a page of the documentation shows, in the page's order, as a reader would.

A fenced block of a language says what is done with it; a comment right before it may say more.

``python``
    A program: it must end well.
``shell``
    Commands for bash, with the same demand. After ``<!-- goes on -->`` it stays until the page
    ends, as in a terminal of its own.
any of them whose first line is a comment that names a file
    That file, which a later block uses.
``text``
    What was printed: all that the block before printed, or lines that follow each other in what
    something that goes on printed. ``…`` stands for anything. After ``<!-- in a browser: URL -->``
    it is the text of that page instead; all are looked at in one tab. ``<!-- after Ctrl-C: PART
    -->`` first interrupts what goes on and has that part in its command. After ``<!-- over a
    WebSocket: URL -->``, what a client of ``watchbus.v1`` says (→) and hears (←).

``<!-- not run: reason -->`` lets any block be. After ``<!-- proxy: NAME -->`` it configures that
proxy: the first on a page is started, and the page is skipped where it is not installed; the others
are left to ``tests/e2e/test_proxies.py``. The folder holds a copy of the examples. Each port in
``127.0.0.1:PORT`` and ``port=PORT`` stands for a free one.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
import tomllib
from contextlib import AsyncExitStack
from itertools import count, groupby
from pathlib import Path
from typing import Self

import pytest
import trio
from browser import CHROMIUM, WITHOUT_CHROMIUM, in_browser
from page_blocks import Block, Shown, blocks
from playwright.sync_api import Browser, Page
from proxies.programs import PROXIES
from proxies.programs import running as running_proxy
from redis_bus.servers import RedisServer, free_port, running
from trio_websocket import open_websocket_url

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs/examples"

REDIS_PORT = "6379"
"""Where pages take a server for granted; it is started before the first block that names it."""

BUS_PORT = "8000"
"""Where pages serve a bus."""

SECONDS = 30
"""For one block to end, or to print what the page shows."""

_FILE = re.compile(r"(?:#|//|<!--) (?P<name>[\w./-]+\.\w+)(?: -->)?\n")
_PORT = re.compile(r"(?<=127\.0\.0\.1:)\d+|(?<=port=)\d+")


class MissingToolError(Exception):
    """What the rest of a page needs is not installed here."""


class Terminal:
    """A process of the page, and what it has printed so far.

    Attributes:
        command: what it runs.
        process: the process.
        interrupted: whether the page ended it.
    """

    def __init__(self, command: list[str], process: trio.Process, output: Path) -> None:
        self.command = command
        self.process = process
        self.interrupted = False
        self._output = output

    @property
    def printed(self) -> list[str]:
        """The lines so far; the last may be a part of one."""
        printed = self._output.read_bytes().decode(errors="replace")
        # As a terminal shows it: what comes after a carriage return stands over what was before.
        lines = [line.rpartition("\r")[2] for line in printed.split("\n")]
        return lines if lines[-1] else lines[:-1]

    async def stop(self) -> None:
        """End it and its children, as closing its terminal would."""
        if self.process.poll() is not None:
            return
        with trio.CancelScope(shield=True):
            os.killpg(self.process.pid, signal.SIGTERM)
            with trio.move_on_after(SECONDS):
                await self.process.wait()
                return
            os.killpg(self.process.pid, signal.SIGKILL)
            await self.process.wait()
        pytest.fail(f"still there {SECONDS} s after SIGTERM: {self.command}")


class PageSession:
    """What a reader has before them: an empty folder, and some terminals; left, they close.

    Attributes:
        folder: where the commands run.
        environment: the environment that they run in.
        not_done: why something of the page could not be done here; empty if all was.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ports: dict[str, int] = {}
        self.not_done = ""
        self._last: list[str] = []
        self._going_on: list[Terminal] = []
        self._numbers = count()
        self._servers = AsyncExitStack()
        self._redis: RedisServer | None = None
        self._has_proxy = False
        self._tab = "{}"
        commands = folder / ".commands"
        commands.mkdir()
        # What pages install is there already: it is what is tested.
        pip = commands / "pip"
        pip.write_text("#!/bin/sh\n")
        pip.chmod(0o755)
        # As in a terminal, where curl shows no meter when little comes.
        (folder / ".curlrc").write_text("silent\nshow-error\n")
        for example in EXAMPLES.rglob("*.*"):
            copy = folder / "docs/examples" / example.relative_to(EXAMPLES)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(self.with_ports(example.read_text()))
        self.environment = {
            "PATH": os.pathsep.join(
                [str(commands), sysconfig.get_path("scripts"), os.environ.get("PATH", "")]
            ),
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            # What they are without, where the page says nothing.
            "WATCHBUS_SERVE_BIND": self.with_ports("127.0.0.1:8000"),
            "WATCHBUS_BUS": self.with_ports("http://127.0.0.1:8000"),
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for terminal in self._going_on:
            await terminal.stop()
        await self._servers.aclose()

    def with_ports(self, text: str) -> str:
        """Return `text` with its addresses put on free ports, each always on the same."""
        return _PORT.sub(lambda match: str(self._port(match[0])), text)

    def _port(self, named: str) -> int:
        """Return the free port that stands for one of the page."""
        return self._ports.setdefault(named, free_port())

    async def run(self, block: Block) -> None:
        """Do with `block` what its language and mark say."""
        if f"127.0.0.1:{REDIS_PORT}" in block.text and self._redis is None:
            self._redis = self._servers.enter_context(running("valkey"))
            self._ports[REDIS_PORT] = self._redis.port
        text = self.with_ports(block.text)
        file = _FILE.match(block.text)
        if block.mark == "not run" or block.language[:1] == "{":
            return
        if block.mark == "proxy":
            await self._start_proxy(block.detail)
            return
        if file is not None:
            path = self.folder / file["name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif block.language == "python":
            path = self.folder / f"block_on_line_{block.line}.py"
            path.write_text(text)
            await self._run([sys.executable, str(path)])
        elif block.language == "shell":
            command = ["bash", "-euo", "pipefail", "-c", text]
            await (self.start if block.mark == "goes on" else self._run)(command)
        elif block.language == "text" and block.mark == "in a browser":
            await self._browse(self.with_ports(block.detail), text)
        elif block.language == "text" and block.mark == "over a WebSocket":
            await self._converse(self.with_ports(block.detail), text)
        elif block.language == "text":
            if block.mark == "after Ctrl-C":
                await self._interrupt(block.detail)
            # Where a command says its defaults, it says the page's ports.
            await self._expect(Shown(text), Shown(block.text))
        elif block.language == "json":
            json.loads(text)
        elif block.language == "toml":
            tomllib.loads(text)
        else:
            pytest.fail(f"nothing runs {block.language!r}: say so with <!-- not run: reason -->")

    async def start(self, command: list[str]) -> Terminal:
        """Start a process that goes on until it is stopped, at the latest when this closes."""
        terminal = await self._open(command)
        self._going_on.append(terminal)
        return terminal

    async def _open(self, command: list[str]) -> Terminal:
        output = self.folder / f".printed_{next(self._numbers)}"
        with output.open("wb") as file:
            process = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=self.environment,
                start_new_session=True,
            )
        return Terminal(command, process, output)

    async def _run(self, command: list[str]) -> None:
        terminal = await self._open(command)
        try:
            with trio.move_on_after(SECONDS):
                await terminal.process.wait()
        finally:
            await terminal.stop()
        self._last = terminal.printed
        assert terminal.process.returncode == 0, "\n".join(self._last)

    async def _start_proxy(self, name: str) -> None:
        """Start a proxy in front of what the page serves, unless one runs already."""
        if self._has_proxy:
            return
        proxy = PROXIES[name]
        if proxy.path is None:
            raise MissingToolError(f"{proxy.program} is not installed")
        ports = self._port(str(proxy.port)), self._port(BUS_PORT)
        await self._servers.enter_async_context(running_proxy(proxy, self.folder, *ports))
        self._has_proxy = True

    async def _interrupt(self, part: str) -> None:
        [terminal] = [each for each in self._going_on if part in each.command[-1]]
        os.killpg(terminal.process.pid, signal.SIGINT)
        with trio.fail_after(SECONDS):
            status = await terminal.process.wait()
        assert status in (0, 130), f"ended with {status}:\n" + "\n".join(terminal.printed)
        terminal.interrupted = True

    async def _expect(self, *texts: Shown) -> None:
        """Return once one of `texts` was printed, by what ran last or by what goes on."""

        def printed() -> bool:
            return any(
                shown.is_all(self._last)
                or any(shown.is_among(terminal.printed) for terminal in self._going_on)
                for shown in texts
            )

        with trio.move_on_after(SECONDS):
            # Another process prints: there is nothing here to wait on.
            while not printed():
                self.check()
                await trio.sleep(0.01)
            return
        outputs = [self._last, *(terminal.printed for terminal in self._going_on)]
        pytest.fail("not what was printed:\n" + "\n---\n".join(map("\n".join, outputs)))

    async def _converse(self, url: str, text: str) -> None:
        """Say what lines with ``→`` say, and hear what those with ``←`` after them say."""
        spoken = [line.partition(" ") for line in text.splitlines()]
        async with open_websocket_url(url, subprotocols=["watchbus.v1"]) as connection:
            for direction, lines in groupby(spoken, key=lambda line: line[0]):
                if direction == "→":
                    for *_, said in lines:
                        await connection.send_message(said)
                    continue
                # Answers to different requests may come in any order.
                expected = [said for *_, said in lines]
                for _ in range(len(expected)):
                    with trio.fail_after(SECONDS):
                        heard = str(await connection.get_message())
                    meant = [said for said in expected if Shown(said).is_all([heard])]
                    assert meant, f"heard {heard}"
                    expected.remove(meant[0])

    async def _browse(self, url: str, text: str) -> None:
        """Return once the page at `url` shows `text`."""
        if not CHROMIUM.exists():
            self.not_done = WITHOUT_CHROMIUM
            return
        expected = Shown(text)

        def lines(page: Page) -> list[str]:
            shown = map(str.strip, page.inner_text("body").splitlines())
            return list(filter(None, shown))

        def look(browser: Browser) -> None:
            page = browser.new_page()
            # As if it were the tab that was looked at before.
            page.add_init_script(f"Object.assign(sessionStorage, {self._tab})")
            page.goto(url)
            deadline = time.monotonic() + SECONDS
            while not expected.is_among(lines(page)):
                assert time.monotonic() < deadline, "\n".join(["the page says:", *lines(page)])
                page.wait_for_timeout(50)
            self._tab = page.evaluate("JSON.stringify(sessionStorage)")

        await in_browser(look)

    def check(self) -> None:
        """Return if nothing that goes on has failed."""
        for terminal in self._going_on:
            status = terminal.process.poll()
            assert not status or terminal.interrupted, "\n".join(
                [f"ended with {status}:", *terminal.printed]
            )


async def run_page(page: Path, folder: Path) -> str:
    """Run every block of `page`, a Markdown file, in `folder`, an empty one.

    Returns:
        why something of it could not be done here; empty if all was.
    """
    async with PageSession(folder) as session:
        for block in blocks(page):
            try:
                await session.run(block)
                session.check()
            except MissingToolError as error:
                return str(error)
            except BaseException as error:
                error.add_note(f"in the block at {page.name}:{block.line}")
                raise
    return session.not_done
