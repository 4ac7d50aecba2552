"""What hypercorn is told, and what is done in its place."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from trio_watchbus.web._hypercorn import WebSocketGuard, make_config
from trio_watchbus.web._options import ServerOptions


class SilentClient:
    """A client that was heard once and then never again."""

    def __init__(self) -> None:
        self.last_heard = trio.current_time()
        self.pinged: list[float] = []
        self.scope = trio.CancelScope()

    async def ping(self) -> None:
        await trio.lowlevel.checkpoint()
        self.pinged.append(trio.current_time() - self.last_heard)

    def cut(self) -> None:
        self.scope.cancel()


@pytest.mark.parametrize(("heartbeat", "patience"), [(60.0, 5.0), (15.0, 5.0), (2.0, 2.0)])
async def test_who_answers_no_ping_is_cut_five_seconds_later(
    autojump_clock: MockClock, heartbeat: float, patience: float
) -> None:
    """Or a heartbeat later, where that is shorter."""
    client = SilentClient()
    guard = WebSocketGuard(cast(Any, None), heartbeat)
    with trio.fail_after(1000), client.scope:
        await guard._cut_when_silent(cast(Any, client))
    assert client.pinged == [pytest.approx(heartbeat)]
    assert trio.current_time() - client.last_heard == pytest.approx(heartbeat + patience)


def test_a_tls_handshake_may_take_ten_seconds() -> None:
    """Hypercorn's minute would hold connections for those who only begin one."""
    assert make_config(ServerOptions(), 0).ssl_handshake_timeout == 10
