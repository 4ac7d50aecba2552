"""``watchbus serve`` in a process of its own."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trustme
from command import SECONDS, WATCHBUS, Running, command, running
from redis_bus.servers import binaries, free_port
from redis_bus.servers import running as running_redis
from served import Client, until

from trio_watchbus._cli._main import run


@asynccontextmanager
async def serving(
    *arguments: str, program: Sequence[str] = WATCHBUS, **environment: str
) -> AsyncIterator[tuple[Running, int]]:
    """Run ``watchbus serve`` on a free port; give it and the port."""
    options = ("serve", "--bind", "127.0.0.1:0", *arguments)
    async with running(*options, environment=environment, program=program) as server:
        line = await server.error_line()
        url = re.search(r"http://127\.0\.0\.1:([0-9]+)", line)
        assert url is not None, line
        assert f"curl -N '{url[0]}/sse?key=" in await server.error_line()
        try:
            yield server, int(url[1])
        except Exception as error:
            server.process.terminate()
            error.add_note(f"the server said: {(await server.end()).err}")
            raise


GROUP = ("setsid", *WATCHBUS)
"""``watchbus`` in a process group of its own, whose id is the process's."""


async def connect(port: int, *, receive_buffer: int | None = None) -> Client:
    connection = trio.socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, receive_buffer)
    await connection.connect(("127.0.0.1", port))
    return Client(connection, trio.SocketStream(connection))


async def publish(port: int, data: bytes) -> None:
    async with await connect(port) as client:
        await client.request("/publish?key=a", "POST", data)
        assert (await client.response()).status == 200


SIGNALS = (signal.SIGTERM, signal.SIGINT)


def draining(number: signal.Signals, grace: str = "5") -> str:
    """What a server says when it hears its first signal."""
    return (
        f"watchbus: {number.name}: draining for up to {grace} s; a second signal stops it at once"
    )


@pytest.mark.parametrize("number", SIGNALS)
async def test_it_serves_until_a_signal_ends_it(number: signal.Signals) -> None:
    """What is published is received; a signal ends streams in good order, and the status is 0."""
    async with serving() as (server, port), await connect(port) as client:
        await client.stream_events("/sse?key=a")
        await publish(port, b"1")
        assert (await client.message_event()).data == "1"
        server.process.send_signal(number)
        assert (await client.message_event()).event == "end"
        ended = await server.end()
        assert (ended.status, ended.err) == (0, f"{draining(number)}\n")


async def test_clients_that_are_killed_are_forgotten() -> None:
    """A client that ended without a word leaves the server to the others."""
    async with serving("--heartbeat", "0.1") as (server, port):
        for _ in range(10):
            client = await connect(port)
            await client.stream_events("/sse?key=a")
            client.vanish()
        await publish(port, b"1")
        server.process.terminate()
        assert (await server.end()).status == 0


async def stops_accepting(port: int) -> None:
    """Return once nobody accepts connections at this port."""
    with (
        contextlib.suppress(ConnectionRefusedError, ConnectionResetError),
        trio.fail_after(SECONDS),
    ):
        while True:
            with trio.socket.socket() as connection:
                await connection.connect(("127.0.0.1", port))


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
async def test_a_second_signal_ends_it_at_once(
    first: signal.Signals, second: signal.Signals
) -> None:
    """Without the grace that clients who do not read would have; the status is the signal's."""
    async with (
        serving("--grace", "1000") as (server, port),
        await connect(port, receive_buffer=4096) as client,
    ):
        await client.stream_events("/sse?key=a")
        for _ in range(10):
            await publish(port, bytes(1_000_000))
        server.process.send_signal(first)
        await stops_accepting(port)
        server.process.send_signal(second)
        ended = await server.end()
        assert (ended.status, ended.err) == (128 + second, f"{draining(first, '1000')}\n")


SHIELDED = """
async def hold(*_):
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()

InMemoryWatchBus.__aexit__ = hold
"""
"""A server whose bus never closes, whatever is cancelled."""

STALLED = """
publish = InMemoryWatchBus.publish
lock = threading.Lock()

async def hold(bus, key, *arguments, **options):
    if key == "stall":
        sys.stderr.write("stalled\\n")
        with lock:
            lock.acquire()
    return await publish(bus, key, *arguments, **options)

InMemoryWatchBus.publish = hold
"""
"""A server whose event loop stands still once something is published to "stall"."""

BUSY = STALLED.replace("lock.acquire()", "while True: pass")

LATE = "watchbus: stopped late: something did not end by itself\n"


def held(patch: str) -> tuple[str, ...]:
    """Return a program that is ``watchbus`` with a patch, and ends late soon."""
    program = f"""
import sys, threading, trio
from trio_watchbus import InMemoryWatchBus
from trio_watchbus._cli import _worker, main
_worker.LATE_SECONDS = 0
{patch}
main()
"""
    return (sys.executable, "-c", program)


@pytest.mark.parametrize(
    ("grace", "numbers", "status", "last"),
    [
        ("1000", [signal.SIGTERM, signal.SIGTERM], 143, ""),
        ("1000", [signal.SIGTERM, signal.SIGINT], 130, ""),
        ("0.1", [signal.SIGTERM], 1, LATE),
        ("0.1", [signal.SIGINT], 1, LATE),
    ],
)
@pytest.mark.parametrize("patch", [SHIELDED, STALLED, BUSY], ids=["shielded", "stalled", "busy"])
async def test_nothing_keeps_it_past_a_second_signal_or_the_grace(
    grace: str, numbers: list[signal.Signals], status: int, last: str, patch: str
) -> None:
    """Neither a wait that no cancel reaches, nor an event loop that stands still."""
    async with serving("--grace", grace, program=held(patch)) as (server, port):
        if patch is not SHIELDED:
            async with await connect(port) as client:
                await client.request("/publish?key=stall", "POST", b"x")
                assert await server.error_line() == "stalled"
        for number in numbers[:-1]:
            server.process.send_signal(number)
            # It was heard, though the loop stands still.
            assert await server.error_line() == draining(number, grace)
        server.process.send_signal(numbers[-1])
        ended = await server.end()
    heard = "" if len(numbers) > 1 else f"{draining(numbers[0], grace)}\n"
    assert (ended.status, ended.err) == (status, heard + last)


async def test_a_signal_before_it_serves_ends_it() -> None:
    """Without a word; the status is the signal's."""
    with trio.socket.socket() as silent:
        await silent.bind(("127.0.0.1", 0))
        silent.listen()
        bus = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        for number in SIGNALS:
            async with running("serve", "--bind", "127.0.0.1:0", "--bus", bus) as server:
                assert "waiting for" in await server.error_line()
                server.process.send_signal(number)
                assert await server.end() == (128 + number, b"", "")


async def test_options_from_the_environment() -> None:
    """Each option is a variable too."""
    async with serving(WATCHBUS_SERVE_MAX_KEYS="1") as (_, port), await connect(port) as client:
        await client.request("/sse?key=a&key=b")
        assert (await client.response()).error == "too_many_keys"


async def test_it_may_have_as_many_files_open_as_it_takes_connections() -> None:
    """Whatever the shell allows at first, up to what the system does."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    low = ("sh", "-c", 'ulimit -Sn 256; exec "$@"', "sh", *WATCHBUS)
    async with serving("--max-connections", "1000", program=low) as (server, _):
        allowed, _ = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        assert allowed == (1100 if hard == resource.RLIM_INFINITY else min(1100, hard))


async def test_the_access_log() -> None:
    """It goes to standard error."""
    async with serving("--access-log") as (server, port):
        await publish(port, b"1")
        assert "POST /publish 200" in await server.error_line()


async def test_a_port_that_is_taken() -> None:
    """Status 1, and one line that says what to do."""
    async with serving() as (_, port):
        ended = await command("serve", "--bind", f"127.0.0.1:{port}")
    assert ended.status == 1
    assert ended.err == (
        f"watchbus: cannot listen on 127.0.0.1:{port}: address already in use;"
        " stop what listens there, or choose another with --bind\n"
    )


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ("--bind nowhere", 2, "--bind: "),
        ("--bind 127.0.0.1:99999", 2, "host:port"),
        ("--bind ::1:80", 2, "brackets"),
        ("--bind 0.0.0.0:0", 2, "allow it with --allow-anonymous (see"),
        ("--bind absent.invalid:0", 1, "choose another with --bind"),
        ("--bus ftp://user:secret@there", 2, "--bus"),
        ("--bus memory://there", 2, "takes nothing after it"),
        ("--bus memory", 2, "unknown bus URL 'memory'"),
        ("--bus memory:", 2, "unknown bus URL 'memory:'"),
        ("--bus redis://user:secret@there:port", 2, "--bus"),
        ("--workers 0", 2, "--workers"),
        ("--workers 2", 2, "--workers 1"),
        ("--workers 2 --bus MEMORY://", 2, "--workers 1"),
        ("--heartbeat 0", 2, "--heartbeat must be"),
        ("--heartbeat x", 2, "--heartbeat"),
        ("--grace -1", 2, "--grace must be"),
        ("--max-keys 0", 2, "--max-keys must be"),
        ("--allowed-host https://shop.example/", 2, "what --allowed-host names must be a name"),
        ("--allowed-origin foo", 2, "what --allowed-origin names must be scheme"),
        ("--certfile /dev/null", 2, "--certfile and --keyfile go together"),
        ("--certfile /absent --keyfile /absent", 2, "--certfile"),
        ("--certfile /etc/passwd --keyfile /etc/passwd", 1, "the first is not a PEM certificate"),
        ("--unknown", 2, "--unknown"),
        ("redis://user:secret@there", 2, "unexpected"),
    ],
)
def test_bad_options(
    options: str, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, or 1 where the options are fine and the machine is not; one line; no password."""
    assert run(["serve", *options.split()]) == status
    out, err = capsys.readouterr()
    assert message in err
    assert err.count("\n") == 1
    assert "secret" not in err
    assert out == ""


def test_a_key_of_another_certificate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 1, and what is wrong."""
    authority = trustme.CA()
    ours, other = authority.issue_cert("localhost"), authority.issue_cert("localhost")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    ours.cert_chain_pems[0].write_to_path(certificate)
    other.private_key_pem.write_to_path(key)
    assert run(["serve", "--certfile", str(certificate), "--keyfile", str(key)]) == 1
    assert "the key is not that of the certificate" in capsys.readouterr().err


async def test_arguments_that_are_not_utf8() -> None:
    """Status 2, and one line."""
    ended = await command("serve", "--bus", b"memory://\xff")
    assert (ended.status, ended.err) == (2, "watchbus: arguments must be UTF-8\n")


async def test_a_redis_that_is_not_there() -> None:
    """It is waited for, which is said, and then what to do, without the password; status 1."""
    address = f"127.0.0.1:{free_port()}"
    bus = f"redis://user:secret@{address}"
    async with running("serve", "--bind", "127.0.0.1:0", "--bus", bus) as server:
        assert await server.error_line() == f"watchbus: waiting for redis://***@{address}"
        ended = await server.end()
    assert ended.status == 1
    assert ended.err.endswith("refused; start it, or name another with --bus\n")
    assert ended.err.count("\n") == 1
    assert "secret" not in ended.err


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    """A real server."""
    with running_redis(min(binaries())) as redis:
        yield redis.url


def children(process: int) -> list[int]:
    """Return the workers of a server, by their ids."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
            command_line = (path.parent / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == process and b"spawn_main" in command_line:
            found.append(int(path.parent.name))
    return found


async def workers_of(server: Running, port: int, count: int) -> list[int]:
    """Return the ids of a server's workers, once it serves."""
    await publish(port, b"")
    found: list[int] = []

    def are_there() -> bool:
        # Looked at once: reading of a process that starts may fail the next time.
        found[:] = children(server.process.pid)
        return len(found) == count

    await until(are_there)
    return found


async def gone(process: int) -> None:
    """Return once a process has ended."""
    with trio.fail_after(SECONDS), contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(process)
        try:
            await trio.lowlevel.wait_readable(descriptor)
        finally:
            os.close(descriptor)


@asynccontextmanager
async def streams_of_workers(port: int) -> AsyncIterator[list[Client]]:
    """Open streams until each of two workers very likely has some."""
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for _ in range(10):
            client = await stack.enter_async_context(await connect(port))
            await client.stream_events("/sse?key=a")
            clients.append(client)
        yield clients


async def test_workers_share_a_socket_and_a_bus(redis_url: str) -> None:
    """What one of them is given, the clients of each receive; a signal ends them all."""
    async with serving("--workers", "2", "--bus", redis_url) as (server, port):
        workers = await workers_of(server, port, 2)
        async with streams_of_workers(port) as clients:
            await publish(port, b"1")
            for client in clients:
                assert (await client.message_event()).data == "1"
            server.process.terminate()
            for client in clients:
                assert (await client.message_event()).event == "end"
        ended = await server.end()
        assert (ended.status, ended.err) == (0, f"{draining(signal.SIGTERM)}\n")
        for worker in workers:
            await gone(worker)


@pytest.mark.parametrize("number", SIGNALS)
async def test_a_signal_to_the_whole_group_is_one(redis_url: str, number: signal.Signals) -> None:
    """As Ctrl-C in a terminal is, and a stop by systemd: streams end in good order."""
    async with serving("--workers", "2", "--bus", redis_url, program=GROUP) as (server, port):
        await workers_of(server, port, 2)
        async with streams_of_workers(port) as clients:
            os.killpg(server.process.pid, number)
            for client in clients:
                assert (await client.message_event()).event == "end"
        ended = await server.end()
        assert (ended.status, ended.err) == (0, f"{draining(number)}\n")


@pytest.mark.parametrize("number", SIGNALS)
async def test_a_signal_to_a_worker_alone_is_not_for_it(
    redis_url: str, number: signal.Signals
) -> None:
    """It ends when its parent says so."""
    async with serving("--workers", "2", "--bus", redis_url) as (server, port):
        workers = await workers_of(server, port, 2)
        async with streams_of_workers(port) as clients:
            for worker in workers:
                os.kill(worker, number)
            await publish(port, b"1")
            for client in clients:
                assert (await client.message_event()).data == "1"
        server.process.terminate()
        ended = await server.end()
        assert (ended.status, ended.err) == (0, f"{draining(signal.SIGTERM)}\n")


@pytest.mark.parametrize("number", SIGNALS)
async def test_a_second_signal_to_the_group_ends_all_at_once(
    redis_url: str, number: signal.Signals
) -> None:
    """Though a client does not read, and the grace is long."""
    options = ("--workers", "2", "--bus", redis_url, "--grace", "1000")
    async with (
        serving(*options, program=GROUP) as (server, port),
        await connect(port, receive_buffer=4096) as client,
    ):
        workers = await workers_of(server, port, 2)
        await client.stream_events("/sse?key=a")
        for _ in range(10):
            await publish(port, bytes(1_000_000))
        os.killpg(server.process.pid, number)
        await stops_accepting(port)
        os.killpg(server.process.pid, number)
        ended = await server.end()
        assert (ended.status, ended.err) == (128 + number, f"{draining(number, '1000')}\n")
        for worker in workers:
            await gone(worker)


@pytest.mark.parametrize("count", [1, 2])
async def test_ctrl_c_in_a_terminal_drains(redis_url: str, count: int) -> None:
    """The terminal sends it to the parent and to the workers."""
    controlling, terminal = pty.openpty()
    try:
        process = await trio.lowlevel.open_process(
            [
                *("setsid", "--ctty", *WATCHBUS, "serve", "--bind", "127.0.0.1:0"),
                *("--workers", str(count), "--bus", redis_url),
            ],
            stdin=terminal,
            stdout=terminal,
            stderr=subprocess.PIPE,
        )
        server = Running(process)
        try:
            url = (await server.error_line()).rpartition(" ")[2]
            await server.error_line()
            async with streams_of_workers(int(url.rpartition(":")[2])) as clients:
                os.write(controlling, b"\x03")
                for client in clients:
                    assert (await client.message_event()).event == "end"
            assert await server.error_line() == draining(signal.SIGINT)
            with trio.fail_after(SECONDS):
                assert await process.wait() == 0
        finally:
            process.kill()
            assert process.stderr is not None
            await process.stderr.aclose()
    finally:
        os.close(terminal)
        os.close(controlling)


async def test_a_worker_that_dies_ends_the_others(redis_url: str) -> None:
    """So that whoever started the server learns it: status 1, and one line that says which."""
    async with serving("--workers", "2", "--bus", redis_url) as (server, port):
        first, second = await workers_of(server, port, 2)
        os.kill(first, signal.SIGKILL)
        ended = await server.end()
        assert ended.status == 1
        assert f"worker {first} ended by itself" in ended.err
        assert ended.err.count("\n") == 1
        await gone(second)


async def test_workers_do_not_outlive_their_parent(redis_url: str) -> None:
    """When it is killed they end, as if told to."""
    async with serving("--workers", "2", "--bus", redis_url) as (server, port):
        workers = await workers_of(server, port, 2)
        server.process.kill()
        for worker in workers:
            await gone(worker)


async def test_a_second_signal_ends_workers_at_once(redis_url: str) -> None:
    """Though a client does not read, and the grace is long."""
    options = ("--workers", "2", "--bus", redis_url, "--grace", "1000")
    async with (
        serving(*options) as (server, port),
        await connect(port, receive_buffer=4096) as client,
    ):
        workers = await workers_of(server, port, 2)
        await client.stream_events("/sse?key=a")
        for _ in range(10):
            await publish(port, bytes(1_000_000))
        server.process.terminate()
        await stops_accepting(port)
        server.process.terminate()
        ended = await server.end()
        assert (ended.status, ended.err) == (143, f"{draining(signal.SIGTERM, '1000')}\n")
        for worker in workers:
            await gone(worker)


async def test_workers_that_cannot_serve_are_not_announced() -> None:
    """Where it is served is said when all of them serve, and not before."""
    bus = f"redis://127.0.0.1:{free_port()}"
    options = ("--bind", "127.0.0.1:0", "--workers", "2", "--bus", bus)
    async with running("serve", *options) as server:
        ended = await server.end()
    assert ended.status == 1
    assert "served at" not in ended.err
