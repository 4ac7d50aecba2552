"""Leaving the bus: at once, whatever Redis does, and nothing is left."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress

import pytest
import trio
from redis_bus.load import one_of_each
from redis_bus.servers import RedisServer, running
from served import until

from trio_watchbus import BusUnavailableError, open_redis_watchbus
from trio_watchbus._redis import _bus, _open, _redis_py
from trio_watchbus._redis._layout import Facts
from trio_watchbus.abc import Watch, WatchBus
from trio_watchbus.testing import FaultProxy, assert_nothing_left


@contextmanager
def stopped(server: RedisServer) -> Iterator[None]:
    """Let the server stand still during the body."""
    server.stop()
    try:
        yield
    finally:
        server.go_on()


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer is late, and no connection: who waits for one waits for as long as the test."""
    monkeypatch.setattr(_open, "_READ_TIMEOUT", 1000)
    monkeypatch.setattr(_open, "_LONGEST_ANSWER", 1000)
    monkeypatch.setattr(_redis_py, "_CONNECT_TIMEOUT", 1000)
    assert _bus._FAREWELL_SECONDS < 1


SOON = 10.0
"""Seconds that a busy machine may take for what waits for nobody."""


def reader_waits(server: RedisServer) -> bool:
    """Whether Redis lets a read wait."""
    waiting: int = server.call("INFO", "clients")["blocked_clients"]
    return waiting == 1


async def test_leaving_while_the_reader_waits(server: RedisServer) -> None:
    """The reader's thread, socket and limiter token are gone when the bus has been left."""
    for _ in range(5):
        async with (
            assert_nothing_left(),
            open_redis_watchbus(server.url) as bus,
            bus.watch("k"),
        ):
            await until(lambda: reader_waits(server))


async def test_leaving_while_the_reader_rests(server: RedisServer) -> None:
    """While nobody watches it waits for nothing of Redis's, and leaves as little behind."""
    for _ in range(5):
        async with assert_nothing_left(), open_redis_watchbus(server.url) as bus:
            # It ends a read that may be under way since the bus was opened.
            await bus.publish("k", b"")
            await until(lambda: not reader_waits(server))


async def test_leaving_while_redis_stands_still(server: RedisServer, endless: None) -> None:
    """It waits for no answer, but for the farewell's part of a second, and leaves nothing."""
    async with assert_nothing_left():
        async with (
            open_redis_watchbus(server.url, timeout=3000) as bus,
            trio.open_nursery() as nursery,
        ):
            await bus.publish("k", b"")
            async with bus.watch("k"):
                server.stop()
                calls = bus._publisher._call
                nursery.start_soon(bus.publish, "k", b"")
                nursery.start_soon(bus.latest, "k")
                await until(lambda: bus._publisher._call > calls and bus._queries.may_be_done)
                # All three threads are at work, and none of them is one that others could want.
                assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
                start = time.monotonic()
                nursery.cancel_scope.cancel()
        took = time.monotonic() - start
        server.go_on()
    assert took < SOON


async def test_leaving_by_a_cancel_while_redis_stands_still(
    server: RedisServer, endless: None
) -> None:
    """A cancel from outside leaves the bus as quickly."""
    async with assert_nothing_left():
        with trio.CancelScope() as scope:
            async with (
                open_redis_watchbus(server.url, timeout=3000) as bus,
                bus.watch("k") as watch,
            ):
                server.stop()
                start = time.monotonic()
                scope.cancel()
                await watch.receive()
        took = time.monotonic() - start
        server.go_on()
    assert scope.cancelled_caught
    assert took < SOON


@pytest.mark.parametrize("fault", ["refused", "swallowed"])
async def test_leaving_while_it_reconnects(server: RedisServer, fault: str, endless: None) -> None:
    """So does a bus that has no connection, or hangs in making one."""
    async with assert_nothing_left(), FaultProxy(("127.0.0.1", server.port)) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}"
        async with open_redis_watchbus(url, timeout=3000) as bus:
            if fault == "refused":
                proxy.refuse()
            else:
                proxy.to_target.swallow()
                proxy.to_client.swallow()
            proxy.cut()
            await until(lambda: not bus.statistics().connected)
            if fault == "swallowed":
                await until(lambda: proxy.statistics().connections)
            start = time.monotonic()
        assert time.monotonic() - start < SOON


async def test_opening_is_cancelled_while_redis_stands_still(server: RedisServer) -> None:
    """A cancel while the bus is being opened is not held up."""
    async with assert_nothing_left():
        with stopped(server), trio.move_on_after(0.2) as scope:
            async with open_redis_watchbus(server.url):
                pytest.fail("it opened")
        assert scope.cancelled_caught


async def test_opening_where_nobody_listens(server: RedisServer) -> None:
    """A bus that cannot be reached in time is refused, and leaves nothing."""
    async with assert_nothing_left(), FaultProxy(("127.0.0.1", server.port)) as proxy:
        proxy.refuse()
        with pytest.raises(BusUnavailableError, match="cannot be reached"):
            async with open_redis_watchbus(f"redis://127.0.0.1:{proxy.port}", timeout=0.3):
                pytest.fail("it opened")


async def test_the_error_of_the_body_is_raised_as_it_is(server: RedisServer) -> None:
    """An error of the body comes out in no group, and leaves nothing."""
    async with assert_nothing_left():
        with pytest.raises(ZeroDivisionError):
            async with open_redis_watchbus(server.url):
                raise ZeroDivisionError


async def test_closing_ends_the_wait_of_a_watch_that_is_being_opened(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told so at once, though Redis stands still and what it waits for will not come."""
    async with open_redis_watchbus(server.url) as bus:
        entered = trio.Event()
        enter = bus._index.enter

        async def enter_ahead(keys: Collection[str]) -> Facts:
            facts = await enter(keys)
            entered.set()
            newest = facts.newest
            ahead = newest._replace(sequence=newest.sequence + 1)
            return facts._replace(newest=ahead)

        monkeypatch.setattr(bus._index, "enter", enter_ahead)
        told = trio.Event()

        async def open_watch() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await bus.watch("k").__aenter__()
            told.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_watch)
            await entered.wait()
            with stopped(server):
                bus.close()
                await told.wait()
        assert not bus.statistics().watched_keys


async def test_a_bus_that_was_closed_before_it_was_left_is_closed(server: RedisServer) -> None:
    """Whatever is asked of it says so, and waits for nobody."""
    async with open_redis_watchbus(server.url) as bus, bus.watch("k"):
        bus.close()
        await bus.aclose()
    assert server.call("EXISTS", "watchbus:index", "watchbus:processes") == 0
    for operation in one_of_each(bus):
        with trio.fail_after(5), pytest.raises(trio.ClosedResourceError):
            await operation()


@pytest.mark.parametrize("error", [None, KeyError("the body's own")], ids=["none", "own"])
async def test_leaving_where_redis_takes_no_farewell(error: KeyError | None) -> None:
    """As after a save that failed, which stops all writes: it is left, and its watches end."""
    settings = "save 3600 1000000\n"
    with running("valkey", settings=settings) as server, trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            with pytest.raises(KeyError) if error else nullcontext():
                async with open_redis_watchbus(server.url) as bus:
                    watch = await nursery.start(receive_until_the_end, bus)
                    (server.folder / "dump.rdb").mkdir()
                    server.call("BGSAVE")
                    with pytest.raises(BusUnavailableError, match="MISCONF"):
                        while True:
                            await bus.publish("other", b"")
                    # Watching goes on.
                    async with bus.watch("k"):
                        pass
                    if error is not None:
                        raise error
            assert repr(bus).endswith("closed>")
        assert watch.statistics().buffered == 0


async def receive_until_the_end(bus: WatchBus, task_status: trio.TaskStatus[Watch]) -> None:
    """Watch a key until the bus is closed."""
    async with bus.watch("k") as watch:
        task_status.started(watch)
        with pytest.raises(trio.EndOfChannel):
            await watch.receive()


async def test_a_bus_that_closes_during_a_call_of_the_index_leaves_no_key(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer says what Redis has noted, and comes after the bus has begun to leave."""
    monkeypatch.setattr(_bus, "_FAREWELL_SECONDS", 20)
    async with FaultProxy(("127.0.0.1", server.port)) as proxy, trio.open_nursery() as nursery:
        async with open_redis_watchbus(f"redis://127.0.0.1:{proxy.port}") as bus:
            watch = bus.watch("k")
            await watch.__aenter__()

            async def hold_an_answer() -> None:
                with suppress(trio.ClosedResourceError):
                    await bus._index.request(None)

            async def release_it() -> None:
                await until(lambda: repr(bus).endswith("closed>"))
                proxy.to_client.release()

            await until(lambda: not bus._index.may_be_done)
            proxy.to_client.hold()
            nursery.start_soon(hold_an_answer)
            await until(lambda: bus._index.may_be_done)
            nursery.start_soon(release_it)
        assert server.call("EXISTS", "watchbus:index", "watchbus:processes") == 0


async def test_leaving_where_the_farewell_is_late(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That nobody heard it is no error, nor does it hide the body's."""
    monkeypatch.setattr(_bus, "_FAREWELL_SECONDS", 60)
    for error in (None, KeyError("the body's own")):
        with trio.fail_after(30), pytest.raises(KeyError) if error else nullcontext():
            async with open_redis_watchbus(server.url, timeout=1) as bus:
                server.stop()
                if error is not None:
                    raise error
        server.go_on()
        assert repr(bus).endswith("closed>")
