"""What a bus logs when Redis goes away: that it did, and that it is back, and no secret."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import fakeredis
import pytest
import redis
import trio
from command import running as running_command
from redis_bus.servers import RedisServer, fake_client, running
from served import until

from trio_watchbus import open_redis_watchbus
from trio_watchbus._redis._reader import Reader

SECRET = "pa55-w0rd"
LOGGER = "trio_watchbus.redis"

Target = tuple[str | redis.Redis, str, Callable[[], None], Callable[[], None]]
"""What a bus is opened with, what it is called then, and what takes it away and back."""

Made = Callable[[str], AbstractContextManager[Target]]


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """The level and text of what is shown unless somebody asks for more."""
    return [(r.levelname, r.getMessage()) for r in caplog.records if r.levelno > logging.DEBUG]


def waiting(server: RedisServer) -> int:
    """How many reads Redis lets wait."""
    count: int = server.call("INFO", "clients")["blocked_clients"]
    return count


@contextmanager
def real(scheme: str) -> Iterator[Target]:
    """A server with a user who has a password."""
    settings = f'save ""\nuser somebody on >{SECRET} ~* +@all\n'
    with running("valkey", settings=settings) as server:
        where = f"127.0.0.1:{server.port}" if scheme == "redis" else str(server.path)
        yield f"{scheme}://somebody:{SECRET}@{where}", where, server.kill, server.start


@contextmanager
def fake(_: str) -> Iterator[Target]:
    """A server that has no address."""
    server = fakeredis.FakeServer()

    def connect(*, connected: bool) -> None:
        server.connected = connected

    with fake_client(server) as client:
        yield (
            client,
            "Redis",
            lambda: connect(connected=False),
            lambda: connect(connected=True),
        )


@pytest.mark.parametrize(
    ("made", "scheme"), [(real, "redis"), (real, "unix"), (fake, "")], ids=["TCP", "path", "fake"]
)
async def test_a_loss_of_the_connection_is_logged_once(
    caplog: pytest.LogCaptureFixture, made: Made, scheme: str
) -> None:
    """And its end; attempts in between are for those who look for a fault."""
    caplog.set_level(logging.DEBUG, LOGGER)
    with made(scheme) as (url_or_client, where, take_away, bring_back):
        async with open_redis_watchbus(url_or_client) as bus, bus.watch("k"):
            assert caplog.records == []
            take_away()
            await until(lambda: len(caplog.records) >= 3)
            await trio.to_thread.run_sync(bring_back)
            await until(lambda: bus.statistics().connected)
    (lost, text), back = told(caplog)
    assert lost == "WARNING"
    assert text.startswith(f"lost the connection to {where}: ")
    assert back == ("INFO", f"connected to {where} again")
    debug = [r.getMessage() for r in caplog.records if r.levelno == logging.DEBUG]
    assert all(message.startswith(f"no connection to {where}: ") for message in debug)
    assert SECRET not in caplog.text
    assert "somebody" not in caplog.text


@pytest.mark.parametrize("how", ["it waits", "it rests", "it waits, by a cancel"])
async def test_leaving_logs_nothing(
    server: RedisServer, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """Whatever its reader does; nor does its rest, and the end of that."""
    caplog.set_level(logging.DEBUG, LOGGER)
    with trio.CancelScope() as scope:
        async with open_redis_watchbus(server.url) as bus:
            await until(lambda: waiting(server) == 0)
            async with bus.watch("k"):
                await until(lambda: waiting(server) == 1)
                if how == "it waits, by a cancel":
                    scope.cancel()
                    await trio.sleep_forever()
            if how == "it rests":
                await until(lambda: waiting(server) == 0)
    assert caplog.records == []


async def test_giving_up_to_open_logs_nothing(
    server: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its reader waits for Redis already."""

    async def reach(*_: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(Reader, "reach", reach)
    caplog.set_level(logging.DEBUG, LOGGER)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_redis_watchbus(server.url).__aenter__)
        await until(lambda: waiting(server) == 1)
        nursery.cancel_scope.cancel()
    assert caplog.records == []


async def test_the_command_that_serves_shows_a_loss() -> None:
    """On standard error, with the time and where it is from."""
    with running("valkey") as redis_server:
        arguments = ("serve", "--bind", "127.0.0.1:0", "--bus", redis_server.url)
        async with running_command(*arguments) as command:
            for _ in range(2):
                await command.error_line()
            redis_server.kill()
            line = await command.error_line()
            assert f"WARNING {LOGGER}: lost the connection to 127.0.0.1:" in line
            command.process.terminate()
            assert (await command.end()).status == 0
