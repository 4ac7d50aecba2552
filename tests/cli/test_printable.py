"""What others published or said is safe to show on a terminal."""

from __future__ import annotations

import io
import json
import logging
import os
import pty

import pytest
import trio
from command import WATCHBUS
from served import served, until

from trio_watchbus._cli._errors import say
from trio_watchbus._cli._logging import log_to_stderr
from trio_watchbus._cli._printable import printable, printable_data, printable_json

CASES = [
    (b"plain, h\xc3\xa9llo \xe2\x82\xac", "plain, h\u00e9llo \u20ac"),
    (b"tab\tand\nnewline", "tab\tand\nnewline"),
    (b"\x1b]0;title\x07\x1b[31m", "\\x1b]0;title\\x07\\x1b[31m"),
    (b"over\rwritten\x08\x7f\0", "over\\x0dwritten\\x08\\x7f\\x00"),
    ("\u009b31m".encode(), "\\x9b31m"),
    (b"\x9b31m\xff", "\\x9b31m\\xff"),
    ("\u202eexe.txt\u2066\u2028".encode(), "\\u202eexe.txt\\u2066\\u2028"),
    ("\u05e9\u05dc\u200f".encode(), "\u05e9\u05dc\u200f"),
    (b"a \\ stays", "a \\ stays"),
]


@pytest.mark.parametrize(("data", "shown"), CASES)
def test_what_a_terminal_would_act_on_is_escaped(data: bytes, shown: str) -> None:
    assert printable_data(data).decode() == shown


@pytest.mark.parametrize("data", [data for data, _ in CASES])
def test_json_stays_the_same_json(data: bytes) -> None:
    text = data.decode(errors="replace")
    line = printable_json(json.dumps({"data": text}, ensure_ascii=False).encode())
    assert json.loads(line) == {"data": text}
    assert printable(line.decode()) == line.decode()


@pytest.mark.parametrize("as_json", [False, True])
async def test_messages_on_a_terminal(as_json: bool) -> None:
    controlling, terminal = pty.openpty()
    options = ("--json",) if as_json else ()
    async with served() as server:
        process = await trio.lowlevel.open_process(
            [*WATCHBUS, "watch", "--prefix", "", "--bus", server.url, *options], stdout=terminal
        )
        os.close(terminal)
        try:
            await until(lambda: server.watches)
            await server.bus.publish("k\u202e", "\x1b[2J\u009b\x7f\u202e|".encode())
            text = b""
            while b"\n" not in text:
                text += await trio.to_thread.run_sync(os.read, controlling, 1000)
        finally:
            process.terminate()
            await process.wait()
            os.close(controlling)
    line = text.decode().removesuffix("\r\n")
    assert line.isprintable()
    if as_json:
        message = json.loads(line)
        assert (message["key"], message["data"]) == ("k\u202e", "\x1b[2J\u009b\x7f\u202e|")
    else:
        assert line == "\\x1b[2J\\x9b\\x7f\\u202e|"


def test_errors_of_others(capsys: pytest.CaptureFixture[str]) -> None:
    """On one line, wherever they go."""
    say("the server said \x1b[2J\n\u202e")
    assert capsys.readouterr().err == "watchbus: the server said \\x1b[2J \\u202e\n"


def test_log_lines_about_others(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = io.StringIO()
    monkeypatch.setattr("sys.stderr", errors)
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.root.level)
    log_to_stderr("%(levelname)s %(message)s", logging.WARNING)
    logging.getLogger("trio_watchbus.test").warning("refused: %s", "\x1b[2J")
    assert errors.getvalue() == "WARNING refused: \\x1b[2J\n"
