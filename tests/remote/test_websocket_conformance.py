"""A suite of WebSocket cases against the connection of a remote bus."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

import pytest
import trio
from trio_websocket import WebSocketConnection
from websocket_cases import AT_ONCE, KOSOKU, assert_conforms, only

from trio_watchbus import _protocol as protocol
from trio_watchbus._remote import _link
from trio_watchbus._remote._address import Address
from trio_watchbus._remote._link import Link, LinkError, LinkOptions
from trio_watchbus._remote._websocket import WebSocket

SECONDS = 60
"""How long one case may take before the test gives up: far longer than it does."""


async def visit(port: int, path: str, take: Callable[[Link, Any], None]) -> None:
    """Connect to a part of the suite, and call `take` with what comes until the suite closes."""
    # The path of the WebSocket is appended to that of the address.
    address = Address("127.0.0.1", port, tls=False, path=f"/{path}&route=")
    link = Link(LinkOptions(address, (), None, SECONDS, SECONDS, SECONDS, 64 * 1024 * 1024))
    with trio.fail_after(SECONDS), pytest.raises(LinkError):
        await link.run(lambda _: None, lambda frame: take(link, frame), lambda _: None)


@asynccontextmanager
async def suite(report: Path, cases: Sequence[str]) -> AsyncIterator[int]:
    """Serve all cases, or these, during the body; give the port. Then its report is written."""
    process = await trio.lowlevel.open_process(
        [KOSOKU, "--mode", "fuzzingserver", "127.0.0.1:0", "--outdir", str(report), *only(cases)],
        stdout=DEVNULL,
        stderr=PIPE,
    )
    assert process.stderr is not None
    try:
        line = b""
        with trio.fail_after(SECONDS):
            while not line.endswith(b"\n"):
                byte = await process.stderr.receive_some(1)
                assert byte, line
                line += byte
        port = int(line.rpartition(b":")[2])
        yield port
        await visit(port, "updateReports?agent=link", Link.send)
        with trio.fail_after(SECONDS):
            async for _ in process.stderr:
                pass
            await process.wait()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        await process.stderr.aclose()


def take_for_a_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a connection take whatever comes for answers of a bus, as these servers are none."""

    async def receive_hello(_: WebSocket) -> protocol.Hello:
        await trio.lowlevel.checkpoint()
        return protocol.Hello("e-0", 0, 0, 0, 1)

    # These servers choose no subprotocol.
    monkeypatch.setattr(WebSocketConnection, "subprotocol", protocol.SUBPROTOCOL)
    monkeypatch.setattr(_link, "_receive_hello", receive_hello)
    monkeypatch.setattr(_link, "_parse", lambda frame: frame)


async def test_the_client_conforms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The connection of a remote bus, sending back what it gets."""
    take_for_a_bus(monkeypatch)
    places = trio.CapacityLimiter(AT_ONCE)

    async def echo(port: int, case: int) -> None:
        async with places:
            await visit(port, f"runCase?case={case}&agent=link", Link.send)

    async def run(report: Path, cases: Sequence[str]) -> list[str]:
        async with suite(report, cases) as port:
            counts: list[str] = []
            await visit(port, "getCaseCount?agent=link", lambda _, count: counts.append(count))
            async with trio.open_nursery() as nursery:
                for case in range(1, int(counts[0]) + 1):
                    nursery.start_soon(echo, port, case)
        return assert_conforms(report, cases)

    late = await run(tmp_path / "all", ())
    assert not late or await run(tmp_path / "late", late) == []
