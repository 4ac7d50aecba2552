"""``watchbus publish``, in a process of its own, to a bus that is served."""

from __future__ import annotations

import os
import pty
import signal
from contextlib import suppress
from typing import Any

import pytest
import trio
from command import WATCHBUS, command, running
from redis_bus.servers import free_port
from served import served, until

from trio_watchbus import InMemoryWatchBus
from trio_watchbus.abc import Watch
from trio_watchbus.testing import FaultProxy


async def datas(watch: Watch, count: int) -> list[bytes]:
    return [(await watch.receive()).data for _ in range(count)]


async def test_one_message_is_published_and_its_id_printed() -> None:
    async with served() as server, server.bus.subscribe_prefix("") as watch:
        for arguments, key, data, is_prefix in (
            (["a", "h\u00e9llo"], "a", "h\u00e9llo", False),
            (["a", ""], "a", "", False),
            (["a", "--", "--json"], "a", "--json", False),
            (["--prefix", "a", "x"], "a", "x", True),
            (["--prefix", "", "x"], "", "x", True),
        ):
            ended = await command("publish", "--bus", server.url, *arguments)
            message = await watch.receive()
            assert (message.key, message.data.decode(), message.is_prefix) == (key, data, is_prefix)
            assert ended == (0, f"{message.id}\n".encode(), "")


@pytest.mark.parametrize("dash", [["-"], []])
async def test_each_line_of_standard_input_is_a_message(dash: list[str]) -> None:
    """Its end, LF or CRLF, is not a part of it; everything else is."""
    lines = b"\xef\xbb\xbf1\n\n\xff\r\n\r\n2\r3\r\r\n\0\nlast without end\r"
    async with served() as server, server.bus.watch("a") as watch:
        ended = await command("publish", "a", *dash, "--bus", server.url, text=lines)
        assert ended == (0, b"", "")
        assert await datas(watch, 7) == [
            *(b"\xef\xbb\xbf1", b"", b"\xff", b"", b"2\r3\r", b"\0", b"last without end\r")
        ]
        assert (await command("publish", "a", *dash, "--bus", server.url)).status == 0
        with pytest.raises(trio.WouldBlock):
            watch.receive_nowait()


async def test_lines_are_published_as_they_come() -> None:
    async with (
        served() as server,
        server.bus.subscribe_prefix("a") as watch,
        running("publish", "--prefix", "a", "-", "--bus", server.url) as process,
    ):
        for number in range(3):
            await process.write(b"%d\nbegun" % number)
            message = await watch.receive()
            assert message.is_prefix
            assert message.data == (b"begun" * bool(number)) + b"%d" % number


async def test_a_line_end_may_come_in_two_parts() -> None:
    async with (
        served() as server,
        server.bus.watch("a") as watch,
        running("publish", "a", "-", "--bus", server.url) as process,
    ):
        await process.write(b"0\n1\r")
        assert await datas(watch, 1) == [b"0"]
        await process.write(b"\n2\r")
        assert await datas(watch, 1) == [b"1"]
        await process.write(b"3\n")
        assert await datas(watch, 1) == [b"2\r3"]


async def test_a_line_may_be_as_long_as_a_message_whatever_its_end() -> None:
    bus = InMemoryWatchBus(max_message_size=200_000)
    line = b"x" * 200_000
    async with served(bus) as server, bus.watch("a") as watch:
        ended = await command("publish", "a", "--bus", server.url, text=line + b"\r\n" + line)
        assert ended == (0, b"", "")
        assert await datas(watch, 2) == [line, line]


async def test_many_lines_arrive_all_in_order() -> None:
    lines = [b"%d" % number for number in range(9_000)]
    async with served() as server, server.bus.watch("a") as watch:
        ended = await command(
            "publish", "a", "-", "--bus", server.url, text=b"\n".join([*lines, b""])
        )
        assert ended == (0, b"", "")
        assert await datas(watch, len(lines)) == lines


async def test_lines_go_in_batches_that_the_server_takes() -> None:
    lines = [b"%d" % number for number in range(1, 1001)]
    async with served(max_batch_messages=7) as server, server.bus.watch("a") as watch:
        ended = await command(
            "publish", "a", "-", "--bus", server.url, text=b"\n".join([*lines, b""])
        )
        assert ended == (0, b"", "")
        assert await datas(watch, len(lines)) == lines


async def test_lines_survive_a_cut() -> None:
    async with (
        served() as server,
        server.bus.watch("a") as watch,
        FaultProxy(("127.0.0.1", server.port)) as proxy,
        running("publish", "a", "-", "--bus", f"http://127.0.0.1:{proxy.port}") as process,
    ):
        for number in range(10):
            await process.write(b"%d\n" % number)
            assert await datas(watch, 1) == [b"%d" % number]
            if number % 3 == 0:
                proxy.cut()


async def test_a_line_that_is_too_long_is_said_with_what_was_published() -> None:
    bus = InMemoryWatchBus(max_message_size=10)
    async with served(bus) as server, bus.watch("a") as watch:
        for text in (b"1\n2\n" + b"x" * 11 + b"\n", b"1\n2\n" + b"x" * 200_000):
            async with running("publish", "a", "-", "--bus", server.url) as process:
                await process.write(text[:4])
                assert await datas(watch, 2) == [b"1", b"2"]
                # It reads no further than it has to.
                with suppress(trio.BrokenResourceError):
                    await process.write(text[4:])
                ended = await process.end()
                assert ended.status == 1
                assert "bytes" in ended.err
                assert "2 lines were published" in ended.err
                assert ended.err.count("\n") == 1


async def test_on_a_terminal_the_progress_is_shown_when_it_is_long() -> None:
    controlling, terminal = pty.openpty()
    async with served() as server:
        process = await trio.lowlevel.open_process(
            [*WATCHBUS, "publish", "a", "-", "--bus", server.url], stdin=-1, stderr=terminal
        )
        os.close(terminal)
        assert process.stdin is not None
        shown = trio.Event()

        async def type_lines(stdin: trio.abc.SendStream) -> None:
            while not shown.is_set():
                await stdin.send_all(b"line\n" * 10)
                # The pace of what comes in.
                await trio.sleep(0.01)
            await stdin.aclose()

        text = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(type_lines, process.stdin)
            with trio.fail_after(30):
                while b"lines published\r\n" not in text:
                    try:
                        text += await trio.to_thread.run_sync(os.read, controlling, 1000)
                    except OSError:
                        break
                    if b"lines published" in text:
                        shown.set()
        assert await process.wait() == 0
        os.close(controlling)
        assert text.startswith(b"\r")
        count = int(text.rpartition(b"\r")[0].rpartition(b"\r")[2].split()[0])
        assert server.bus.position.endswith(f"-{count}")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_ends_it_without_a_traceback(number: int, status: int) -> None:
    async with (
        served() as server,
        server.bus.watch("a") as watch,
        running("publish", "a", "-", "--bus", server.url) as process,
    ):
        await process.write(b"1\n")
        assert await datas(watch, 1) == [b"1"]
        process.process.send_signal(number)
        assert await process.end() == (status, b"", "")


async def test_a_reader_that_has_gone_is_no_failure() -> None:
    """Of the id that is printed, when the message is published; nor of any help."""
    async with served() as server, server.bus.watch("a") as watch:
        for arguments in (["publish", "a", "x", "--bus", server.url], ["publish", "--help"]):
            reading, writing = os.pipe()
            os.close(reading)
            async with running(*arguments, stdout=writing) as process:
                os.close(writing)
                assert await process.process.wait() == 0
                assert process.process.stderr is not None
                assert await process.process.stderr.receive_some() == b""
        assert (await watch.receive()).data == b"x"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "KEY"),
        (["a", "b", "c"], "quotes"),
        (["--prefix", "a", "b", "c"], "quotes"),
        (["a\n", "x"], "control character"),
        (["--prefix", "a\x7f", "x"], "control character"),
        (["a", "x", "--bus", "nonsense"], "unknown bus URL 'nonsense'; supported: memory://"),
        (["a", "x", "--bus", "nonsense"], "publish --help"),
        (["a", "x", "--bus", "memory://"], "exists only inside this command"),
        (["a", b"\xff"], "UTF-8"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_cannot_be_meant_is_said_in_one_line(
    arguments: list[str | bytes], said: str
) -> None:
    ended = await command("publish", *arguments)
    assert ended.status == 2
    assert said in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize("data", ["x", "-"])
async def test_without_a_server_it_says_what_to_do(data: str) -> None:
    async with FaultProxy(("127.0.0.1", 1)) as proxy:
        proxy.refuse()
        url = f"http://127.0.0.1:{proxy.port}"
        ended = await command("publish", "a", data, "--bus", url, text=b"")
    assert ended.status == 1
    assert "refused" in ended.err
    assert "--bus" in ended.err
    assert ended.err.count("\n") == 1


async def test_without_a_redis_it_says_what_to_do() -> None:
    """In one sentence, though what redis-py says is one by itself."""
    ended = await command("publish", "a", "x", "--bus", f"redis://127.0.0.1:{free_port()}")
    assert ended.status == 1
    assert ended.err.endswith("refused; start it, or name another with --bus\n")


async def test_a_server_that_goes_away_for_good_is_said() -> None:
    async with served() as server, FaultProxy(("127.0.0.1", server.port)) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        async with running("publish", "a", "-", "--bus", url) as process:
            await process.write(b"1\n")
            await until(lambda: server.bus.position.endswith("-1"))
            proxy.refuse()
            proxy.cut()
            await process.write(b"2\n")
            ended = await process.end()
    assert ended.status == 1
    assert "lost the connection" in ended.err
    assert "lines were published" in ended.err


@pytest.mark.parametrize(("path", "status"), [("/elsewhere", 404), ("/sse", 400)])
async def test_what_is_no_bus_is_not_to_be_started(path: str, status: int) -> None:
    """It is there: the advice would be wrong."""
    async with served() as server:
        ended = await command("publish", "a", "x", "--bus", server.url + path)
    assert ended.status == 1
    assert ended.err.startswith("watchbus: cannot use the bus at http://127.0.0.1:")
    assert ended.err.endswith("; check --bus\n")
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [("publish", "a", "x"), ("watch", "a")], ids=" ".join)
async def test_an_answer_that_does_not_come_is_said_to_be_waited_for(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a server whose Redis is away."""
    answering = trio.Event()
    async with served() as server:
        url = f"http://127.0.0.1:{server.port}"
        for name in ("publish", "open_watch"):
            function = getattr(server.bus, name)

            async def late(*given: Any, function: Any = function, **more: Any) -> Any:
                await answering.wait()
                return await function(*given, **more)

            monkeypatch.setattr(server.bus, name, late)
        async with running(*arguments, "--bus", url) as process:
            assert await process.error_line() == f"watchbus: waiting for {url}"
            answering.set()
            await until(lambda: server.watches or server.bus.position.endswith("-1"))


async def test_a_bus_that_does_not_answer_is_said_to_be_waited_for() -> None:
    """Once, without its password, and then the command goes on."""
    async with served() as server, FaultProxy(("127.0.0.1", server.port)) as proxy:
        proxy.to_client.hold()
        url = f"http://127.0.0.1:{proxy.port}"
        async with running("publish", "a", "x", "--bus", url) as process:
            assert await process.error_line() == f"watchbus: waiting for {url}"
            proxy.to_client.release()
            ended = await process.end()
            assert (ended.status, ended.err) == (0, "")
    async with running(
        *("publish", "a", "x", "--bus", f"redis://u:secret@127.0.0.1:{free_port()}/0?db=1")
    ) as process:
        assert (await process.error_line()).startswith(
            "watchbus: waiting for redis://***@127.0.0.1:"
        )
