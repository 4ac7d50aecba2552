"""``watchbus watch``, in a process of its own, of a bus that is served."""

from __future__ import annotations

import json
import os
import signal

import pytest
import trio
from command import command, running
from served import Server, served, until

from trio_watchbus import InMemoryWatchBus, Retention
from trio_watchbus._core._watch import BufferedWatch
from trio_watchbus._request import WatchRequest
from trio_watchbus.testing import FaultProxy


async def watched(server: Server) -> None:
    await until(lambda: server.watches)


async def test_data_is_printed_as_it_is_a_line_a_message() -> None:
    async with (
        served() as server,
        running("watch", "a", "--prefix", "b/", "--bus", server.url) as process,
    ):
        await watched(server)
        await server.bus.publish_many(
            [("a", b"1"), ("c", b"2"), ("b/x", b"\xff\x00\r"), ("a", b""), ("", b"all", True)]
        )
        assert [await process.line() for _ in range(4)] == [b"1", b"\xff\x00\r", b"", b"all"]


async def test_json_has_all_of_a_message() -> None:
    async with (
        served() as server,
        running("watch", "--prefix", "", "--json", "--bus", server.url) as process,
    ):
        await watched(server)
        ids = await server.bus.publish_many(
            [("a", "\u00e9\n".encode()), ("b", b"\xff"), ("c", b"x", True)]
        )
        lines = [json.loads(await process.line()) for _ in range(3)]
        assert all(line.pop("time") > 1e9 for line in lines)
        assert lines == [
            {"key": "a", "data": "\u00e9\n", "id": ids[0]},
            {"key": "b", "data_base64": "/w==", "id": ids[1]},
            {"key": "c", "data": "x", "id": ids[2], "prefix": True},
        ]


async def test_it_starts_in_the_past_where_that_is_asked_for() -> None:
    async with served() as server:
        ids = await server.bus.publish_many([("a", b"1"), ("a", b"2"), ("a", b"3")])
        async with running("watch", "a", "--after", ids[0], "--bus", server.url) as process:
            assert [await process.line() for _ in range(2)] == [b"2", b"3"]
        async with running("watch", "a", "--history", "1", "--bus", server.url) as process:
            assert await process.line() == b"3"


async def test_it_follows_over_a_cut_and_says_so() -> None:
    async with served() as server, FaultProxy(("127.0.0.1", server.port)) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        async with running("watch", "a", "--bus", url) as process:
            await watched(server)
            await server.bus.publish("a", b"1")
            assert await process.line() == b"1"
            proxy.refuse()
            proxy.cut()
            assert "lost the connection" in await process.error_line()
            await server.bus.publish("a", b"2")
            proxy.accept()
            assert await process.line() == b"2"
            assert "connected" in await process.error_line()


async def test_what_is_lost_is_told_and_it_goes_on() -> None:
    bus = InMemoryWatchBus(retention=Retention(messages=2))
    async with served(bus) as server, FaultProxy(("127.0.0.1", server.port)) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        async with running("watch", "a", "--bus", url) as process:
            await watched(server)
            # So that it knows that it watches: before that, nothing is missed.
            await bus.publish("a", b"before")
            assert await process.line() == b"before"
            proxy.refuse()
            proxy.cut()
            assert "lost the connection" in await process.error_line()
            await bus.publish_many([("a", b"%d" % number) for number in range(5)])
            proxy.accept()
            assert [await process.line() for _ in range(2)] == [b"3", b"4"]
            assert "connected" in await process.error_line()
            assert "lost 3 messages" in await process.error_line()


async def test_a_reader_that_has_seen_enough_ends_it_quietly() -> None:
    async with served() as server:
        reading, writing = os.pipe()
        async with running("watch", "a", "--bus", server.url, stdout=writing) as process:
            os.close(writing)
            await watched(server)
            os.close(reading)
            # Before anything is written, too.
            assert await process.process.wait() == 0
            assert process.process.stderr is not None
            assert await process.process.stderr.receive_some() == b""


async def test_a_reader_that_goes_while_it_is_written_to_ends_it_quietly() -> None:
    async with served() as server:
        await server.bus.publish("a", b"x" * 1_000_000)
        reading, writing = os.pipe()
        async with running(
            *("watch", "a", "--history", "1", "--bus", server.url), stdout=writing
        ) as process:
            os.close(writing)
            assert await trio.to_thread.run_sync(os.read, reading, 10) == b"x" * 10
            os.close(reading)
            assert await process.process.wait() == 0
            assert process.process.stderr is not None
            assert await process.process.stderr.receive_some() == b""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
async def test_a_signal_ends_it_without_a_word(number: int, status: int) -> None:
    async with served() as server:
        async with running("watch", "a", "--bus", server.url) as process:
            await watched(server)
            process.process.send_signal(number)
            assert await process.end() == (status, b"", "")
        await until(lambda: not server.watches)


async def test_a_signal_ends_it_while_nobody_reads_what_it_writes() -> None:
    async with served() as server:
        await server.bus.publish("a", b"x" * 1_000_000)
        reading, writing = os.pipe()
        async with running(
            *("watch", "a", "--history", "1", "--bus", server.url), stdout=writing
        ) as process:
            os.close(writing)
            # As much as the pipe holds is there, and more is being written.
            await trio.to_thread.run_sync(os.read, reading, 1)
            process.process.send_signal(signal.SIGINT)
            assert await process.process.wait() == 130
        os.close(reading)


async def test_a_slow_reader_costs_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """While nobody reads, the server still hears that it is there."""
    # It has a heartbeat's time to answer.
    async with served(heartbeat=1) as server:
        await server.bus.publish("a", b"x" * 1_000_000)
        opened: list[str] = []
        opening = server.bus.open_watch

        async def note(request: WatchRequest) -> BufferedWatch:
            opened.extend(request.keys)
            return await opening(request)

        monkeypatch.setattr(server.bus, "open_watch", note)
        reading, writing = os.pipe()
        async with running(
            *("watch", "a", "--history", "1", "--bus", server.url), stdout=writing
        ) as process:
            os.close(writing)
            await watched(server)
            async with await server.connect() as client:
                await client.stream_events("/sse?key=b")
                for _ in range(3):
                    await client.event()
            # It is the one that it had at first.
            assert server.watches
            assert opened == ["a", "b"]
            process.process.send_signal(signal.SIGTERM)
            assert await process.process.wait() == 0
        os.close(reading)


async def test_options_may_come_from_the_environment() -> None:
    async with served() as server:
        await server.bus.publish("a", b"1")
        environment = {"WATCHBUS_BUS": server.url, "WATCHBUS_WATCH_HISTORY": "1"}
        async with running("watch", "a", environment=environment) as process:
            assert await process.line() == b"1"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "at least one key or prefix"),
        (["a\n"], "control character"),
        ([""], "empty"),
        (["a" * 513], "513 bytes"),
        (["a", "--after", "nonsense"], "not a position"),
        (["a", "--history", "-1"], "history"),
        (["a", "--history", "x"], "history"),
        (["a", "--history", "1001"], "history"),
        (["a", "--history", "99999999999999999999"], "history"),
        (["a", "--history", "1", "--after", "e-1"], "not both"),
        (["a", "--bus", "ftp://user:secret@h"], "unknown bus URL 'ftp://***@h'"),
        (["a", "--bus", "http://user:secret@h"], "give a token"),
        (["a", "--bus", "http://h:secret"], "not the URL"),
        (["a", "--bus", "redis://user:secret@h:port"], "Redis"),
        (["a", "--token", "very secret"], "a token"),
        (["a", "--token", "x", "--bus", "redis://h"], "--token"),
        (["a", "--bus", "memory://"], "exists only inside this command"),
        (["a", "--surprise"], "surprise"),
        ([b"\xff"], "UTF-8"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_cannot_be_meant_is_said_in_one_line(
    arguments: list[str | bytes], said: str
) -> None:
    ended = await command("watch", *arguments)
    assert ended.status == 2
    assert said in ended.err
    assert ended.err.count("\n") == 1
    assert "secret" not in ended.err
    assert ended.out == b""


async def test_without_a_server_it_says_what_to_do() -> None:
    async with FaultProxy(("127.0.0.1", 1)) as proxy:
        proxy.refuse()
        ended = await command("watch", "a", "--bus", f"http://127.0.0.1:{proxy.port}")
    assert ended.status == 1
    assert "refused" in ended.err
    assert "--bus" in ended.err
    assert ended.err.count("\n") == 1


async def test_a_limit_of_the_server_is_said() -> None:
    async with served(max_keys=2) as server:
        ended = await command("watch", "a", "b", "c", "--bus", server.url)
    assert ended.status == 1
    assert "at most 2 keys" in ended.err
    assert ended.err.count("\n") == 1


async def test_a_position_that_is_lost_is_said() -> None:
    async with served() as server:
        ended = await command("watch", "a", "--after", "other-1", "--bus", server.url)
        oldest = server.bus.position
    assert ended.status == 1
    assert "cannot resume" in ended.err
    assert ended.err.endswith(f"; leave out --after, or give --after {oldest}\n")
    assert ended.err.count("\n") == 1
