"""What cannot work is refused at once, in words that say what to do, and without secrets."""

from __future__ import annotations

import logging
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import inf, nan
from typing import Any

import pytest
import redis
import trio
from redis_bus.load import one_of_each
from redis_bus.servers import RedisServer, free_port, running
from served import until

from trio_watchbus import (
    BusUnavailableError,
    InvalidKeyError,
    open_redis_watchbus,
    open_watchbus,
)
from trio_watchbus._redis._states import BusEvent

SECRET = "pa55-w0rd"

# What the page on settings says that the bus needs.
PERMISSIONS = ("~watchbus*", "+@read", "+@write", "+@scripting", "+@connection", "+time", "+info")


def shown(error: BaseException) -> str:
    """All that a traceback shows of an error and of its causes, and their reprs."""
    texts = ["".join(traceback.format_exception(error))]
    cause: BaseException | None = error
    while cause is not None:
        texts.append(repr(cause))
        cause = cause.__cause__ or cause.__context__
    return "\n".join(texts)


@contextmanager
def user(server: RedisServer, *permissions: str) -> Iterator[str]:
    """The URL of a user with a password and these permissions."""
    server.call("ACL", "SETUSER", "somebody", "reset", "on", f">{SECRET}", *permissions)
    try:
        yield f"redis://somebody:{SECRET}@127.0.0.1:{server.port}"
    finally:
        server.call("ACL", "DELUSER", "somebody")


async def opening_fails(url_or_client: Any, **options: Any) -> BusUnavailableError:
    """Open a bus, which is refused without waiting; return the error."""
    with trio.fail_after(5), pytest.raises(BusUnavailableError) as caught:
        async with open_redis_watchbus(url_or_client, **options):
            pytest.fail("it opened")
    return caught.value


async def test_a_wrong_password(server: RedisServer) -> None:
    """It is refused on opening, and neither password nor URL is in any text."""
    with user(server, *PERMISSIONS) as url:
        error = await opening_fails(url.replace(SECRET, "wr0ng-" + SECRET))
    assert "WRONGPASS" in str(error) or "invalid username-password" in str(error)
    assert SECRET not in shown(error)


async def test_no_password_where_one_is_needed(server: RedisServer) -> None:
    """It is refused on opening."""
    server.call("CONFIG", "SET", "requirepass", SECRET)
    try:
        error = await opening_fails(server.url)
        assert "Authentication required" in str(error)
        async with open_redis_watchbus(server.url.replace("//", f"//:{SECRET}@")) as bus:
            await bus.publish("k", b"")
    finally:
        with server.client(password=SECRET) as client:
            client.config_set("requirepass", "")


@pytest.mark.parametrize("permissions", [PERMISSIONS, PERMISSIONS[:-1]], ids=["all", "no INFO"])
async def test_the_permissions_that_are_documented_are_enough(
    server: RedisServer, permissions: tuple[str, ...]
) -> None:
    """A user who has them can do all that the bus does, and may lack the one for `INFO`."""
    with user(server, *permissions) as url:
        async with open_redis_watchbus(url) as bus, bus.subscribe_prefix("", history=1) as watch:
            await bus.publish("k", b"1", idempotency_key="once")
            assert (await watch.receive()).data == b"1"
            async with bus.watch("k", history=1):
                assert await bus.watched_keys() == {"k"}
            assert await bus.latest("k") is not None


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        (("~other*", "+@all"), ""),
        ((*PERMISSIONS, "-xadd"), "xadd"),
        ((*PERMISSIONS, "-zpopmin"), "zpopmin"),
        ((*PERMISSIONS, "-xread"), "xread"),
        ((*PERMISSIONS, "-evalsha", "-eval"), "eval"),
        ((*PERMISSIONS, "-xrevrange"), "xrevrange"),
        ((*PERMISSIONS, "-zrangebylex"), "zrangebylex"),
    ],
    ids=["names", "xadd", "zpopmin", "xread", "eval", "xrevrange", "zrangebylex"],
)
async def test_a_missing_permission(
    server: RedisServer, missing: tuple[str, ...], named: str
) -> None:
    """It is refused on opening, and the error names what is missing."""
    with user(server, *missing) as url:
        error = await opening_fails(url)
    assert named in str(error).lower()
    assert SECRET not in shown(error)
    assert server.call("EXISTS", "watchbus:probe") == 0


@pytest.mark.parametrize("name", ["facts", "log", "marks", "recent", "keys", "index", "processes"])
async def test_a_name_of_another_type(server: RedisServer, name: str) -> None:
    """It is refused on opening, and the error names it."""
    server.call("SET", f"watchbus:{name}", "somebody else's")
    error = await opening_fails(server.url)
    assert f"watchbus:{name}" in str(error)
    assert server.call("GET", f"watchbus:{name}") == b"somebody else's"


async def test_a_permission_taken_away(server: RedisServer) -> None:
    """It ends the watches with `BrokenResourceError`, and is raised where the bus was opened."""
    with (
        user(server, *PERMISSIONS) as url,
        trio.fail_after(10),
        pytest.raises(BusUnavailableError, match="refuses"),
    ):
        async with open_redis_watchbus(url) as bus, bus.watch("k") as watch:
            server.call("ACL", "SETUSER", "somebody", "-xread")
            with pytest.raises(trio.BrokenResourceError) as caught:
                await watch.receive()
            assert isinstance(caught.value.__cause__, BusUnavailableError)


async def test_a_log_replaced_by_something_else(server: RedisServer) -> None:
    """It ends the watches, and is raised where the bus was opened."""
    with trio.fail_after(10), pytest.raises(BusUnavailableError, match=r"WRONGTYPE|wrong kind"):
        async with open_redis_watchbus(server.url) as bus, bus.watch("k") as watch:
            await bus.publish("k", b"")
            await watch.receive()
            server.call("DEL", "watchbus:log")
            server.call("SET", "watchbus:log", "somebody else's")
            await watch.receive()
    assert server.call("GET", "watchbus:log") == b"somebody else's"


async def test_a_publish_that_is_refused_for_good_is_surely_not_stored(server: RedisServer) -> None:
    """It is not said to be unknown, as nothing was done."""
    with trio.fail_after(10), pytest.raises(BusUnavailableError, match="refuses"):
        async with open_redis_watchbus(server.url) as bus:
            await bus.publish("k", b"1")
            server.call("SET", "watchbus:recent", "somebody else's")
            with trio.CancelScope(shield=True), pytest.raises(trio.BrokenResourceError):
                await bus.publish("k", b"2")
    assert server.call("XLEN", "watchbus:log") == 1


@pytest.mark.parametrize(
    "url",
    [
        f"redis://user:{SECRET}@a..b",
        f"redis://user:{SECRET}@{'a' * 64}",
        f"redis://user:\ud800{SECRET}@127.0.0.1:PORT",
        f"redis://user:{SECRET}@127.0.0.1:PORT?client_name=a%20b",
    ],
    ids=["empty label", "long label", "surrogate", "client name"],
)
async def test_what_no_server_can_be_told(server: RedisServer, url: str) -> None:
    """It is refused at once, as waiting does not help."""
    with user(server, *PERMISSIONS):
        error = await opening_fails(url.replace("PORT", str(server.port)))
    assert "refuses" in str(error)
    assert SECRET not in shown(error)


async def test_a_database_that_is_not_there(server: RedisServer) -> None:
    """It is refused at once, as waiting does not help."""
    error = await opening_fails(f"{server.url}/99")
    assert "DB index" in str(error)


async def test_after_a_failure_everything_is_broken(server: RedisServer) -> None:
    """What is asked of a bus that failed raises `BrokenResourceError` with the cause."""
    with pytest.raises(BusUnavailableError):
        async with open_redis_watchbus(server.url) as bus:
            server.call("SET", "watchbus:log", "somebody else's")
            with trio.CancelScope(shield=True):
                await until(lambda: not bus.statistics().connected)
                for operation in one_of_each(bus):
                    with pytest.raises(trio.BrokenResourceError) as caught:
                        await operation()
                    assert isinstance(caught.value.__cause__, BusUnavailableError)


@pytest.mark.parametrize("how", ["client", "url"])
def test_decoded_responses_are_refused(how: str) -> None:
    """A client that would break binary data is refused before anything is opened."""
    given: Any = (
        redis.Redis(decode_responses=True)
        if how == "client"
        else "redis://localhost?decode_responses=True"
    )
    with pytest.raises(ValueError, match="decode_responses"):
        open_redis_watchbus(given)


def test_what_is_no_client_is_refused() -> None:
    """Other things, and clients of another kind, are a `TypeError` that says what is wanted."""
    for wrong in (None, 1, b"redis://localhost", redis.asyncio.Redis()):
        with pytest.raises(TypeError, match=r"redis\.Redis"):
            open_redis_watchbus(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    [
        f"redis://user:{SECRET}@localhost:port",
        f"redis://user:{SECRET}/with/slash@localhost",
        f"redis://user:{SECRET}@[::1",
        f"redis://:{SECRET}@localhost?socket_timeout=x",
        f"redis://user:{SECRET}@localhost?nonsense=1",
        f"mysql://user:{SECRET}@localhost",
    ],
)
def test_a_bad_url_does_not_show_its_password(url: str) -> None:
    """The error says how a URL looks, and nothing of this one."""
    with pytest.raises(ValueError, match="the URL of a Redis server") as caught:
        open_redis_watchbus(url)
    assert SECRET not in shown(caught.value)


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
@pytest.mark.parametrize("path", [f"/{SECRET}", "/0/1", "/0/", "//0", "/-1", "/1_0", "/\u0661"])
def test_a_database_that_is_no_number_is_refused(scheme: str, path: str) -> None:
    """Instead of taking another; the path is not shown, as part of a password may be in it."""
    for query in ("", "?db=1"):
        with pytest.raises(ValueError, match="number of a database, or empty; wanted") as caught:
            open_redis_watchbus(f"{scheme}://{SECRET}@localhost{path}{query}")
        assert SECRET not in shown(caught.value)
    for path_of_one in ("", "/", "/0", "/15", "?db=1"):
        open_redis_watchbus(f"{scheme}://localhost{path_of_one}")


async def test_no_secret_is_in_logs_or_reprs(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A bus shows neither its URL nor its password, also while it cannot connect."""
    caplog.set_level(logging.DEBUG)
    with user(server, *PERMISSIONS) as url:
        async with open_redis_watchbus(url) as bus:
            await bus.publish("k", b"")
            texts = [repr(bus), str(bus.statistics())]
        error = await opening_fails(url.replace(str(server.port), str(free_port())), timeout=0.2)
    assert SECRET not in "".join((*texts, shown(error), caplog.text))


def test_options_out_of_range_are_refused() -> None:
    """So is a namespace that is none."""
    for timeout in (0, inf, nan):
        with pytest.raises(ValueError, match="timeout"):
            open_redis_watchbus("redis://", timeout=timeout)
    for open_bus in (open_watchbus, open_redis_watchbus):
        with pytest.raises(TypeError, match="must be a Retention, not int"):
            open_bus("redis://", retention=5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_message_size"):
        open_redis_watchbus("redis://", max_message_size=0)
    for bad in ("", "a\nb"):
        with pytest.raises(InvalidKeyError, match="namespace"):
            open_redis_watchbus("redis://", namespace=bad)
    with pytest.raises(TypeError, match="namespace"):
        open_redis_watchbus("redis://", namespace=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="nonsense"):
        open_watchbus("redis://", nonsense=1)


def test_without_redis_py_the_error_says_what_to_install() -> None:
    """Everything else works without it."""
    code = """
import sys
sys.modules["redis"] = None
from trio_watchbus import open_watchbus
try:
    open_watchbus("redis://localhost")
except ImportError as error:
    assert "pip install 'trio-watchbus[redis]'" in str(error), error
else:
    raise AssertionError("it opened")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_what_is_remembered_of_publishers_expires(server: RedisServer) -> None:
    """Else each process that ever published would leave something for ever."""
    async with open_redis_watchbus(server.url) as bus:
        await bus.publish("k", b"", idempotency_key="one")
        with server.client() as client:
            names = [*client.keys("watchbus:publisher:*"), *client.keys("watchbus:idem:*")]
            assert len(names) == 2
            for name in names:
                assert 3_000_000 < client.pttl(name) <= 3_600_000


@pytest.mark.parametrize("command", ["XREAD", "XTRIM", "XADD", "ZPOPMIN"])
async def test_a_server_without_a_command_is_refused_on_opening(command: str) -> None:
    """Renamed away, or too old for it: else what is stored is told to be refused in the end."""
    with running("valkey", settings=f'save ""\nrename-command {command} ""\n') as server:
        assert command in str(await opening_fails(server.url)).upper()


async def test_a_missing_permission_for_scripts_that_are_cached(server: RedisServer) -> None:
    """It is refused on opening, as the cache may be empty later."""
    async with open_redis_watchbus(server.url) as bus:
        await bus.publish("k", b"")
    with user(server, *PERMISSIONS, "-eval") as url:
        error = await opening_fails(url)
    assert "eval" in str(error).lower()


@pytest.mark.parametrize("command", ["CLIENT", "EVAL", "XREAD"])
async def test_a_proxy_that_closes_on_what_it_does_not_know(
    server: RedisServer, command: str
) -> None:
    """It is named as one at once, with the command: that it cannot be reached would mislead."""

    async def serve(client: trio.SocketStream) -> None:
        async with client, await trio.open_tcp_stream("127.0.0.1", server.port) as inner:
            async for data in client:
                if f"\r\n{command}".encode() in data:
                    return
                await inner.send_all(data)
                await client.send_all(await inner.receive_some())

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        error = await opening_fails(f"redis://127.0.0.1:{port}")
        nursery.cancel_scope.cancel()
    assert "proxy such as twemproxy" in str(error)
    assert command in str(error)


async def test_a_proxy_that_refuses_scripts_is_named() -> None:
    """Where it answers with an error, as a server does whose commands were renamed."""
    with running("valkey", settings='save ""\nrename-command EVALSHA ""\n') as server:
        error = await opening_fails(server.url)
    assert "EVALSHA" in str(error)
    assert "proxy" in str(error)


def test_a_bus_that_never_opened_has_a_repr() -> None:
    """A debugger or a traceback with locals may show it at any time."""
    opening: Any = open_redis_watchbus("redis://127.0.0.1:1")
    assert repr(opening._bus) == "<RedisWatchBus: opening>"
    opening._bus._move(BusEvent.CLOSE)
    assert repr(opening._bus) == "<RedisWatchBus: closed>"
