"""Settings belong to the log: all who use it have the same."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
import trio
from redis_bus.servers import KINDS, RedisServer, running
from served import until

from trio_watchbus import MessageTooLargeError, Retention, open_redis_watchbus
from trio_watchbus.testing import FaultProxy

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with running(request.param) as started:
        yield started


def stored(server: RedisServer) -> dict[bytes, bytes]:
    """The settings that are stored."""
    facts = server.call("HGETALL", "watchbus:facts")
    return {name: value for name, value in facts.items() if name.startswith((b"retain", b"max"))}


async def test_what_nobody_gave_is_not_stored(server: RedisServer) -> None:
    async with open_redis_watchbus(server.url) as bus:
        await bus.publish("k", b"")
        assert stored(server) == {}
        assert bus.max_message_size == 1024 * 1024


async def test_only_fields_that_were_given_are_stored(server: RedisServer) -> None:
    retention = Retention(per_key=50, seconds=1.5)
    async with open_redis_watchbus(server.url, retention=retention, max_message_size=10):
        assert stored(server) == {
            b"retain_per_key": b"50",
            b"retain_milliseconds": b"1500",
            b"max_message_size": b"10",
        }


async def test_who_gives_nothing_takes_what_is_stored_and_leaves_it(server: RedisServer) -> None:
    retention = Retention(per_key=3, messages=7)
    async with open_redis_watchbus(server.url, retention=retention, max_message_size=5) as bus:
        before = stored(server)
        async with open_redis_watchbus(server.url) as another:
            assert another.max_message_size == 5
            with pytest.raises(MessageTooLargeError):
                await another.publish("k", b"123456")
            for number in range(4):
                await another.publish("k", b"%d" % number)
            async with another.watch("k", history=9) as watch:
                assert [(await watch.receive()).data for _ in range(3)] == [b"1", b"2", b"3"]
            assert another._reader.dispatcher.journal._messages_bound == 7
        assert stored(server) == before
        assert bus.max_message_size == 5


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        (Retention(per_key=50), Retention(per_key=1), r"retention\.per_key=50 and not 1"),
        (Retention(seconds=60), Retention(seconds=0.5), r"retention\.seconds=60 and not 0\.5"),
        (
            Retention(keys=5, kept_bytes=6),
            Retention(kept_bytes=7, keys=8),
            r"retention\.keys=5 and not 8, retention\.kept_bytes=6 and not 7",
        ),
        (12, 13, "max_message_size=12 and not 13"),
    ],
)
async def test_a_difference_is_refused_with_both_values(
    server: RedisServer, first: Retention | int, second: Retention | int, named: str
) -> None:
    """Nothing changes; what is left out, the same, or not stored yet is no difference."""

    def options(given: Retention | int) -> dict[str, Retention | int]:
        return {"retention" if isinstance(given, Retention) else "max_message_size": given}

    async with open_redis_watchbus(server.url, **options(first)):  # type: ignore[arg-type]
        before = stored(server)
        with pytest.raises(ValueError, match=named) as caught:
            await open_redis_watchbus(server.url, **options(second)).__aenter__()  # type: ignore[arg-type]
        assert "change_retention=True" in str(caught.value)
        assert "'watchbus'" in str(caught.value)
        assert stored(server) == before
        async with open_redis_watchbus(server.url, **options(first)):  # type: ignore[arg-type]
            pass
        async with open_redis_watchbus(server.url, retention=Retention(bytes=9999)):
            assert stored(server) == before | {b"retain_bytes": b"9999"}


async def test_a_change_is_adopted_and_logged_by_who_reconnects(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "trio_watchbus")
    async with (
        FaultProxy(("127.0.0.1", server.port)) as proxy,
        open_redis_watchbus(
            f"redis://127.0.0.1:{proxy.port}", retention=Retention(messages=50)
        ) as bus,
        bus.watch("k"),
        open_redis_watchbus(
            server.url,
            retention=Retention(messages=5),
            max_message_size=7,
            change_retention=True,
        ) as another,
    ):
        assert stored(server)[b"retain_messages"] == b"5"
        proxy.cut()
        await until(lambda: bus.max_message_size == 7)
        assert "retention.messages=5 instead of 50" in caplog.text
        assert "max_message_size=7 instead of 1048576" in caplog.text
        for _ in range(20):
            last = await another.publish("k", b"")
        await until(lambda: bus.position == last)
        await until(lambda: bus.statistics().journal_messages == 5)


async def test_after_a_lost_log_who_gave_settings_stores_them_again(server: RedisServer) -> None:
    """Those that are in use, where somebody changed them meanwhile."""
    async with (
        open_redis_watchbus(server.url) as other,
        open_redis_watchbus(server.url, retention=Retention(per_key=7), max_message_size=9) as bus,
    ):
        await bus.publish("k", b"")
        server.call("FLUSHALL")
        await until(lambda: stored(server).get(b"retain_per_key") == b"7")
        assert stored(server) == {b"retain_per_key": b"7", b"max_message_size": b"9"}
        await until(lambda: other.position.partition("-")[0] == bus.position.partition("-")[0])


async def test_what_others_wrote_in_place_of_settings_counts_as_not_stored(
    server: RedisServer,
) -> None:
    async with open_redis_watchbus(server.url):
        junk = ("retain_messages", "many", "retain_bytes", "0", "retain_milliseconds", "9" * 40)
        server.call("HSET", "watchbus:facts", *junk, "max_message_size", "-1")
    async with open_redis_watchbus(server.url) as bus:
        assert bus.max_message_size == 1024 * 1024
        await bus.publish("k", b"x")
        assert (await bus.latest("k")) is not None


async def test_a_command_takes_settings_and_is_refused_with_their_options(
    server: RedisServer,
) -> None:
    """Its status and what it says name both values, and how to change them for everybody."""
    command = [sys.executable, "-m", "trio_watchbus", "publish", "--bus", server.url, "k", "x"]

    async def publish(*options: str) -> subprocess.CompletedProcess[bytes]:
        return await trio.run_process(
            [*command, *options], capture_stdout=True, capture_stderr=True, check=False
        )

    assert (await publish("--retain-per-key", "9", "--max-message-size", "5")).returncode == 0
    refused = await publish("--retain-per-key", "1")
    assert refused.returncode == 1
    assert b"--retain-per-key 9 and not 1" in refused.stderr
    assert b"--change-retention" in refused.stderr
    assert stored(server)[b"retain_per_key"] == b"9"
    assert (await publish("--retain-per-key", "1", "--change-retention")).returncode == 0
    assert stored(server) == {b"retain_per_key": b"1", b"max_message_size": b"5"}
    assert (await publish("--namespace", "other", "--retain-keys", "2")).returncode == 0
    assert server.call("HGET", "other:facts", "retain_keys") == b"2"


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
async def test_a_server_is_refused_with_the_options(
    server: RedisServer, workers: tuple[str, ...]
) -> None:
    command = [sys.executable, "-m", "trio_watchbus", "serve", "--bind", "127.0.0.1:0", *workers]
    async with open_redis_watchbus(server.url, retention=Retention(keys=7)):
        refused = await trio.run_process(
            [*command, "--bus", server.url, "--retain-keys", "8"],
            capture_stderr=True,
            check=False,
        )
    assert refused.returncode == 1
    assert b"--retain-keys 7 and not 8" in refused.stderr
    assert b"Traceback" not in refused.stderr


async def test_a_command_leaves_the_log_as_it_is(server: RedisServer) -> None:
    """`watchbus publish` to a log that keeps 50 messages of each key does not cut it to 1."""
    async with open_redis_watchbus(server.url, retention=Retention(per_key=50)) as bus:
        for number in range(5):
            await bus.publish("k", b"%d" % number)
        before = stored(server)
        command = [sys.executable, "-m", "trio_watchbus", "publish", "--bus", server.url]
        await trio.run_process([*command, "k", "5"], stdout=subprocess.DEVNULL)
        async with bus.watch("k", history=50) as watch:
            assert [(await watch.receive()).data for _ in range(6)] == [
                b"%d" % number for number in range(6)
            ]
        assert stored(server) == before
