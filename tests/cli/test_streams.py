"""Standard streams that are closed, full, or read by nobody neither hold a command nor crash it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from command import SECONDS, WATCHBUS, Ended, Running, command, running
from served import Client, served

from trio_watchbus._cli._streams import ErrorOutput

FULL = "cannot write to standard output: No space left on device"
CLOSED = "cannot write to standard output: Bad file descriptor"


async def in_shell(text: str, *arguments: str) -> Ended:
    """Run a line of shell, in which ``watchbus`` is the command."""
    script = f'watchbus() {{ exec "$0" -m trio_watchbus "$@"; }}; {text}'
    async with running(*arguments, program=("bash", "-c", script, WATCHBUS[0])) as process:
        assert process.process.stdin is not None
        await process.process.stdin.aclose()
        return await process.end()


@pytest.mark.parametrize("arguments", ["--help", "--version", "serve --help", "bench --help"])
@pytest.mark.parametrize(
    ("streams", "status", "error"),
    [
        (">/dev/full", 1, f"watchbus: {FULL}\n"),
        (">&-", 1, f"watchbus: {CLOSED}\n"),
        (">/dev/full 2>&-", 1, ""),
        (">&- 2>/dev/full", 1, ""),
        (">&- 2>&- <&-", 1, ""),
    ],
)
async def test_help_that_cannot_be_written_is_a_failure(
    arguments: str, streams: str, status: int, error: str
) -> None:
    """Told in one line, where that can be."""
    assert await in_shell(f"watchbus {arguments} {streams}") == (status, b"", error)


@pytest.mark.parametrize("command", ["publish a x", "watch a --history 1"])
@pytest.mark.parametrize(("stream", "error"), [(">/dev/full", FULL), (">&-", CLOSED)])
async def test_output_that_cannot_be_written_is_a_failure(
    command: str, stream: str, error: str
) -> None:
    async with served() as server:
        await server.bus.publish("a", b"x")
        ended = await in_shell(f"watchbus {command} --bus {server.url} {stream}")
        assert ended == (1, b"", f"watchbus: {error}\n")


@pytest.mark.parametrize("stream", ["2>/dev/full", "2>&-"])
async def test_an_error_that_cannot_be_written_is_told_by_the_status(stream: str) -> None:
    assert await in_shell(f"watchbus serve --nonsense {stream}") == (2, b"", "")
    assert await in_shell(f"watchbus {stream}") == (2, b"", "")


async def test_lines_of_a_closed_standard_input_are_a_failure() -> None:
    async with served() as server:
        ended = await in_shell(f"watchbus publish a --bus {server.url} <&-")
        assert ended.status == 1
        assert ended.err == "watchbus: cannot read standard input: Bad file descriptor\n"


@pytest.mark.parametrize("streams", ["2>/dev/full", "2>&-", ">&- 2>&- <&-"])
async def test_a_server_without_streams_serves(streams: str) -> None:
    """And nothing that it opens gets the number of a stream that is closed."""
    text = f"exec {' '.join(WATCHBUS)} serve --bind 127.0.0.1:0 --access-log {streams}"
    async with running(program=("bash", "-c", text)) as server:
        port = await serving_port(server)
        for number, stream in enumerate(("<&-", ">&-", "2>&-")):
            if stream in streams.split():
                link = trio.Path(f"/proc/{server.process.pid}/fd/{number}")
                assert str(await link.readlink()) == "/dev/null"
        await publish_times(3, port)
        server.process.terminate()
        assert (await server.end()).status == 0


async def publish_times(count: int, port: int) -> None:
    """Publish to a server, and have it log that."""
    connection = trio.socket.socket()
    await connection.connect(("127.0.0.1", port))
    async with Client(connection, trio.SocketStream(connection)) as client:
        for _ in range(count):
            await client.request("/publish?key=a", "POST", b"x")
            assert (await client.response()).status == 200


async def serving_port(server: Running) -> int:
    """Return the port of a server that cannot say it."""
    with trio.fail_after(SECONDS):
        while not (port := listening_port(server.process.pid)):  # noqa: ASYNC110, it tells nobody
            await trio.sleep(0.01)
    return port


def listening_port(pid: int) -> int:
    """Return the port that a process listens on, or 0."""
    inodes = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(file))  # noqa: PTH115
        except OSError:
            continue
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
            return int(fields[1].partition(":")[2], 16)
    return 0


@pytest.fixture
def full_pipe() -> Iterator[tuple[int, int]]:
    """A pipe that holds as much as it can, of one page."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writing, b"x" * 4096)
    yield reading, writing
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("number", [15, 2])
async def test_a_log_that_nobody_reads_does_not_stop_the_server(
    full_pipe: tuple[int, int], number: int
) -> None:
    """It serves, and it ends when told to."""
    options = ("serve", "--bind", "127.0.0.1:0", "--access-log")
    async with running(*options, stderr=full_pipe[1]) as server:
        await publish_times(100, await serving_port(server))
        server.process.send_signal(number)
        assert (await server.end()).status == 0


async def test_lines_that_found_no_room_are_counted(full_pipe: tuple[int, int]) -> None:
    """What waits is written once it is read, and then how many lines are missing."""
    reading, writing = full_pipe
    errors = ErrorOutput(writing)
    line = b"y" * 1023 + b"\n"
    for _ in range(1500):
        errors.write(line)
    text = b""
    while b"dropped" not in text:
        text += await trio.to_thread.run_sync(os.read, reading, 65536)
    text = text[4096:]
    kept = text.count(line)
    assert kept == 1024
    assert text == line * kept + (
        b"watchbus: 476 lines were dropped, as standard error could not take them\n"
    )


async def test_lines_that_could_not_be_written_are_counted() -> None:
    """They are told once writing works again."""
    reading, writing = os.pipe()
    full = os.open("/dev/full", os.O_WRONLY)
    target = os.dup(full)
    errors = ErrorOutput(target)
    errors.write(b"1\n2\n")
    errors.drain(10)
    os.dup2(writing, target)
    errors.write(b"3\n")
    errors.drain(10)
    assert os.read(reading, 1000) == (
        b"3\nwatchbus: 2 lines were dropped, as standard error could not take them\n"
    )
    for descriptor in (reading, writing, full):
        os.close(descriptor)


def test_waiting_for_a_reader_is_bounded(full_pipe: tuple[int, int]) -> None:
    errors = ErrorOutput(full_pipe[1])
    errors.write(b"never written\n")
    errors.drain(0.01)


async def test_a_pipe_that_does_not_block_is_waited_for(full_pipe: tuple[int, int]) -> None:
    """Another process that shares it may have made it so."""
    reading, writing = full_pipe
    os.set_blocking(writing, False)
    async with running("--help", stdout=writing) as process:
        text = b""
        while b"Commands:" not in text:
            text += await trio.to_thread.run_sync(os.read, reading, 100)
        while process.process.poll() is None:
            with trio.move_on_after(0.05):
                await process.process.wait()
        assert await process.end() == (0, b"", "")
    assert text.startswith(b"x" * 4096)


async def test_an_error_goes_whole_to_standard_error_before_the_end() -> None:
    ended = await command("publish", "a", "x", "--bus", "nonsense" * 100)
    assert ended.err.endswith("--help)\n")
