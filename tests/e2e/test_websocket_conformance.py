"""A suite of WebSocket cases against the server."""

from __future__ import annotations

from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import pytest
import trio
from served import served
from websocket_cases import AT_ONCE, KOSOKU, assert_conforms, only

from trio_watchbus import InMemoryWatchBus
from trio_watchbus.web._websocket import Connection

_SIZE = 16 * 1024 * 1024
"""Bytes of the longest message of a case."""


async def test_the_server_conforms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`/ws` sends back what it gets, by the code that sends and receives everything else."""

    async def echo(*arguments: Any) -> None:
        connection: Connection = arguments[-1]
        while True:
            await connection.send(await connection.receive())

    monkeypatch.setattr("trio_watchbus.web._app.serve_raw", echo)
    async with served(
        InMemoryWatchBus(max_message_size=_SIZE), max_inbound_size=_SIZE + 1
    ) as server:
        url = f"ws://127.0.0.1:{server.port}/ws?key=a"
        late: list[str] = []
        for report in (tmp_path / "all", tmp_path / "late"):
            # Its status says that some failed: those that need compression.
            await trio.run_process(
                [KOSOKU, url, "--parallelism", str(AT_ONCE), "--outdir", str(report), *only(late)],
                stdout=DEVNULL,
                stderr=DEVNULL,
                check=False,
            )
            late = assert_conforms(report, late)
            if not late:
                break
    assert late == []
