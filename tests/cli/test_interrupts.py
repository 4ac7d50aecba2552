"""An interrupt ends each command at any moment: with its status, and without a traceback."""

from __future__ import annotations

import os
import pty
import signal
import sys

import pytest
import trio
from command import SECONDS, WATCHBUS, running

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}

AT_IMPORT = """
import os, signal, sys, time

class Interrupting:
    left = int(sys.argv.pop(1))
    number = int(sys.argv.pop(1))
    seconds = 0

    def find_spec(self, name, path=None, target=None):
        self.left -= 1
        if name.endswith("._main"):
            # From here on it is heard at once, before as soon as that is imported.
            self.seconds = 60
        if not self.left:
            os.kill(os.getpid(), self.number)
            time.sleep(self.seconds)

from trio_watchbus._cli import main
sys.meta_path.insert(0, Interrupting())
main()
"""
"""``watchbus``, interrupted when it imports its so many-th module, which would take a minute."""


@pytest.mark.parametrize("number", STATUS)
@pytest.mark.parametrize(
    ("command", "moments"),
    [
        ("--help", (1, 2, 10)),
        ("publish a x --bus http://127.0.0.1:9", (1, 10, 50, 100, 200)),
        ("watch a --bus http://127.0.0.1:9", (10, 100, 200)),
        ("serve --bind 127.0.0.1:0", (10, 100, 200, 400)),
        ("bench memory", (10, 100, 200)),
    ],
)
async def test_while_it_imports(
    command: str, moments: tuple[int, ...], number: signal.Signals
) -> None:
    for moment in moments:
        program = (sys.executable, "-c", AT_IMPORT, str(moment), str(int(number)))
        async with running(*command.split(), program=program) as process:
            assert await process.end() == (STATUS[number], b"", ""), moment


@pytest.mark.parametrize("command", ["publish a x", "publish a -", "watch a"])
@pytest.mark.parametrize("number", STATUS)
async def test_while_it_waits_for_a_server(command: str, number: signal.Signals) -> None:
    with trio.socket.socket() as silent:
        await silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with running(*command.split(), "--bus", url) as process:
            assert await process.error_line() == f"watchbus: waiting for {url}"
            process.process.send_signal(number)
            ended = await process.end()
    # To stop watching is what a supervisor asks for; a publish may be undone.
    status = 0 if (command, number) == ("watch a", signal.SIGTERM) else STATUS[number]
    assert ended == (status, b"", "")


@pytest.mark.parametrize("number", STATUS)
@pytest.mark.parametrize("bench", ["memory", "sse", "publish"])
async def test_while_it_measures(bench: str, number: signal.Signals) -> None:
    """The terminal is left as it was, with its cursor, and no server goes on."""
    controlling, terminal = pty.openpty()
    process = await trio.lowlevel.open_process(
        [*WATCHBUS, "bench", bench, "--messages", "100000000", "--keys", "1"], stderr=terminal
    )
    os.close(terminal)
    text = b""
    try:
        with trio.fail_after(SECONDS):
            while b"%" not in text:
                text += await trio.to_thread.run_sync(os.read, controlling, 1000)
            children = await descendants(process.pid)
            while bench != "memory" and not children:
                await trio.sleep(0.01)
                children = await descendants(process.pid)
            process.send_signal(number)
            while True:
                try:
                    text += await trio.to_thread.run_sync(os.read, controlling, 1000)
                except OSError:
                    # The other end is closed.
                    break
            assert await process.wait() == STATUS[number], text.decode()
    finally:
        process.kill()
        os.close(controlling)
    assert b"Traceback" not in text
    assert text.rindex(b"\x1b[?25h") > text.rindex(b"\x1b[?25l")
    with trio.fail_after(SECONDS):
        # One that was being started ends by itself, when the bench's end of its pipe is closed.
        while any([await trio.Path(f"/proc/{child}").exists() for child in children]):  # noqa: ASYNC110
            await trio.sleep(0.01)


async def descendants(process: int) -> list[str]:
    """Return the children of a process."""
    return (await trio.Path(f"/proc/{process}/task/{process}/children").read_text()).split()
