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
    it is the text of that page instead.

``<!-- not run: reason -->`` lets any block be. Addresses ``127.0.0.1:PORT`` stand for free ports.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from textwrap import dedent

import pytest
import trio

SECONDS = 30
"""For one block to end, or to print what the page shows."""

_FENCE = re.compile(
    r"^(?P<fence> *`{3,})(?P<language>\S*).*\n(?P<text>(?:.*\n)*?)(?P=fence)\n", re.MULTILINE
)
_COMMENT = re.compile(r"<!-- (?P<mark>[^:>]+)(?:: (?P<detail>[^>]+))? -->\n+ *\Z")
_FILE = re.compile(r"(?:#|//|<!--) (?P<name>[\w./-]+\.\w+)(?: -->)?\n")
_ADDRESS = re.compile(r"(?<=127\.0\.0\.1:)\d+")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page, with the mark in the comment before it."""

    language: str
    text: str
    line: int
    mark: str = ""
    detail: str = ""


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    content = page.read_text()
    found = []
    for match in _FENCE.finditer(content):
        comment = _COMMENT.search(content, 0, match.start())
        found.append(
            Block(
                match["language"],
                dedent(match["text"]),
                content.count("\n", 0, match.start()) + 1,
                comment["mark"] if comment else "",
                (comment["detail"] if comment else "") or "",
            )
        )
    return found


class Running:
    """A process of the page, and what it has printed so far."""

    def __init__(self, process: trio.Process, output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def printed(self) -> list[str]:
        """The lines so far; the last may be a part of one."""
        return self._output.read_text(errors="replace").splitlines()

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
        pytest.fail(f"still there {SECONDS} s after SIGTERM: {self.process.args!r}")


class PageSession:
    """What a reader has before them: a folder, and some terminals.

    Attributes:
        folder: where the commands run.
        environment: the environment that they run in.
    """

    def __init__(self, folder: Path, ports: dict[str, int]) -> None:
        self.folder = folder
        self._ports = ports
        self._last: list[str] = []
        self._going_on: list[Running] = []
        self._numbers = count()
        commands = folder / ".commands"
        commands.mkdir()
        # What pages install is there already: it is what is tested.
        pip = commands / "pip"
        pip.write_text("#!/bin/sh\n")
        pip.chmod(0o755)
        # As in a terminal, where curl shows no meter when little comes.
        (folder / ".curlrc").write_text("silent\nshow-error\n")
        self.environment = {
            "PATH": os.pathsep.join(
                [str(commands), sysconfig.get_path("scripts"), os.environ.get("PATH", "")]
            ),
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
        }

    def with_ports(self, text: str) -> str:
        """Return `text` with its addresses put on free ports, each always on the same."""

        def port(match: re.Match[str]) -> str:
            return str(self._ports.setdefault(match[0], free_port()))

        return _ADDRESS.sub(port, text)

    async def run(self, block: Block) -> None:
        """Do with `block` what its language and mark say."""
        text = self.with_ports(block.text)
        file = _FILE.match(block.text)
        if block.mark == "not run" or block.language == "mermaid" or block.language[:1] == "{":
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
            if block.mark == "goes on":
                self._going_on.append(await self._start(command))
            else:
                await self._run(command)
        elif block.language == "text" and block.mark == "in a browser":
            pytest.fail("a browser is needed")
        elif block.language == "text":
            await self._expect(text)
        elif block.language == "json":
            json.loads(text)
        elif block.language == "toml":
            tomllib.loads(text)
        else:
            pytest.fail(f"nothing runs {block.language!r}: say so with <!-- not run: reason -->")

    async def _start(self, command: list[str]) -> Running:
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
        return Running(process, output)

    async def _run(self, command: list[str]) -> None:
        running = await self._start(command)
        try:
            with trio.move_on_after(SECONDS):
                await running.process.wait()
        finally:
            await running.stop()
        self._last = running.printed
        assert running.process.returncode == 0, "\n".join(self._last)

    async def _expect(self, text: str, printed: Callable[[], list[str]] | None = None) -> None:
        """Return once what `text` shows was printed."""
        pattern = [
            re.compile(".*".join(map(re.escape, line.rstrip().split("…"))))
            for line in text.splitlines()
        ]

        def shown(lines: list[str]) -> bool:
            return len(lines) == len(pattern) and all(
                expected.fullmatch(line.rstrip())
                for expected, line in zip(pattern, lines, strict=True)
            )

        def among(lines: list[str]) -> bool:
            starts = range(len(lines) - len(pattern) + 1)
            return any(shown(lines[start : start + len(pattern)]) for start in starts)

        def seen() -> bool:
            if printed is not None:
                return among(printed())
            return shown(self._last) or any(among(each.printed) for each in self._going_on)

        with trio.move_on_after(SECONDS):
            # Another process prints: there is nothing here to wait on.
            while not seen():  # noqa: ASYNC110
                await trio.sleep(0.01)
            return
        outputs = [self._last, *(each.printed for each in self._going_on)]
        pytest.fail("not printed:\n" + text + "\n---\n" + "\n---\n".join(map("\n".join, outputs)))

    async def close(self) -> None:
        """End everything that goes on."""
        for running in self._going_on:
            await running.stop()

    def check(self) -> None:
        """Return if everything that goes on still does."""
        for running in self._going_on:
            ended = running.process.poll()
            assert ended is None, f"ended with {ended}:\n" + "\n".join(running.printed)


async def run_page(page: Path, folder: Path, ports: dict[str, int]) -> None:
    """Run every block of `page` in `folder`.

    Args:
        page: a Markdown file.
        folder: an empty folder.
        ports: the ports that addresses of the page stand for, by the ports that it shows; others
            get a free one each.
    """
    session = PageSession(folder, ports)
    try:
        for block in blocks(page):
            try:
                await session.run(block)
                session.check()
            except BaseException as error:
                error.add_note(f"in the block at {page.name}:{block.line}")
                raise
    finally:
        await session.close()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
