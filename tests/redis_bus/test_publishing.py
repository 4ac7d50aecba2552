"""Publishing over Redis: once each, together, and with the truth when it fails."""

from __future__ import annotations

import pytest
import trio
from redis_bus.servers import RedisServer
from served import until

from trio_watchbus import (
    BusUnavailableError,
    MessageTooLargeError,
    PublishUnknownError,
    Retention,
    open_redis_watchbus,
)
from trio_watchbus._redis._backend_errors import BackendError
from trio_watchbus._redis._connection import connection_maker
from trio_watchbus._redis._layout import Names
from trio_watchbus.abc import Publication, WatchBus
from trio_watchbus.testing import FaultProxy


def entries(server: RedisServer) -> list[bytes]:
    """The data of all messages in the log."""
    with server.client() as client:
        return [fields[b"d"] for _, fields in client.xrange("watchbus:log")]


async def test_concurrent_publishes_share_calls(server: RedisServer) -> None:
    """Publishes of many tasks at once reach Redis in a few calls, and each gets its id."""
    ids: list[str] = []
    async with open_redis_watchbus(server.url) as bus:
        server.call("CONFIG", "RESETSTAT")

        async def publish(number: int) -> None:
            ids.append(await bus.publish(f"key-{number}", b"%d" % number))

        async with trio.open_nursery() as nursery:
            for number in range(256):
                nursery.start_soon(publish, number)
        calls = server.call("INFO", "commandstats")["cmdstat_evalsha"]["calls"]
    assert len(set(ids)) == len(entries(server)) == 256
    assert calls < 40


async def test_a_publish_of_the_same_group_fails_alone(server: RedisServer) -> None:
    """Where one key's stream is something else, publishes beside it are stored, it is not."""
    server.call("SET", "watchbus:key:bad", "somebody else's")
    outcomes: dict[str, str | BusUnavailableError] = {}
    async with open_redis_watchbus(server.url) as bus:

        async def publish(*keys: str) -> None:
            try:
                await bus.publish_many([(key, key.encode()) for key in keys])
                outcomes[keys[0]] = "stored"
            except BusUnavailableError as error:
                outcomes[keys[0]] = error

        async with trio.open_nursery() as nursery:
            for keys in (("good",), ("first", "bad"), ("better",)):
                nursery.start_soon(publish, *keys)
    assert outcomes["good"] == outcomes["better"] == "stored"
    assert "WRONGTYPE" in str(outcomes["first"])
    assert sorted(entries(server)) == [b"better", b"good"]
    assert server.call("GET", "watchbus:key:bad") == b"somebody else's"


@pytest.mark.parametrize("held", [("LPUSH", "x"), ("SET", "two words")], ids=["list", "words"])
async def test_an_idempotency_key_of_somebody_else_fails_alone(
    server: RedisServer, held: tuple[str, str]
) -> None:
    """Publishes in the group of one whose idempotency key's name holds another thing are stored."""
    command, value = held
    server.call(command, "watchbus:idem:theirs", value)
    async with open_redis_watchbus(server.url) as bus, bus.watch("k") as watch:
        await beside(bus, b"1", "theirs", refused="WRONGTYPE")
        await bus.publish("k", b"2")
        with trio.fail_after(5):
            assert [(await watch.receive()).data for _ in range(4)] == [b"1", b"1", b"1", b"2"]


async def test_an_idempotency_key_that_looks_like_the_bus_s_own_disturbs_nobody(
    server: RedisServer,
) -> None:
    """Also where it names calls that no publisher makes, or a record that is something else."""
    server.call("LPUSH", "watchbus:publisher:list", "x")
    server.call("SET", "watchbus:publisher:text", "x")
    keys = [f"unanswered.x.{'9' * digits}.{place}" for digits in (15, 16, 400) for place in (1, 2)]
    keys += ["unanswered.list.1.1", "unanswered.text.1.1", f"unanswered.y.1.{'9' * 400}"]
    async with open_redis_watchbus(server.url) as bus, bus.watch("k") as watch:
        # Calls that this very publisher does not make.
        keys += [f"unanswered.{bus._process}.{call}.1" for call in ("1", "999", "cafe")]
        for key in keys:
            await beside(bus, b"1", key, refused=None)
        with trio.fail_after(5):
            for _ in range(4 * len(keys)):
                assert (await watch.receive()).data == b"1"


async def beside(bus: WatchBus, data: bytes, key: str, refused: str | None) -> None:
    """Publish under an idempotency key, and in the same group three times without one."""

    async def publish() -> None:
        if refused is None:
            await bus.publish("k", data, idempotency_key=key)
        else:
            with pytest.raises(BusUnavailableError, match=refused):
                await bus.publish("k", data, idempotency_key=key)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(bus.publish, "k", data)
        nursery.start_soon(publish)


async def test_an_idempotency_key_holds_across_processes(server: RedisServer) -> None:
    """Who publishes under a key that was used gets the ids of then, wherever it was."""
    batch: list[Publication] = [("k", b"1"), ("k", b"2")]
    async with open_redis_watchbus(server.url) as one, open_redis_watchbus(server.url) as two:
        single = await one.publish("k", b"0", idempotency_key="single")
        ids = await one.publish_many(batch, idempotency_key="batch")
        assert await two.publish("k", b"0", idempotency_key="single") == single
        assert await two.publish_many(batch, idempotency_key="batch") == ids
        assert await two.publish_many(batch, idempotency_key="single") == [single]
    assert entries(server) == [b"0", b"1", b"2"]
    assert 0 < server.call("PTTL", "watchbus:idem:single") <= 3_600_000


async def test_a_batch_that_is_too_large_is_refused(server: RedisServer) -> None:
    """A batch that would hold Redis up for long is a `ValueError`."""
    async with open_redis_watchbus(server.url) as bus:
        with pytest.raises(ValueError, match="at most 100000"):
            await bus.publish_many(("k", b"") for _ in range(100_001))
        with pytest.raises(MessageTooLargeError, match="at most 268435456 bytes"):
            await bus.publish_many([("k", bytes(1024 * 1024))] * 257)
    assert entries(server) == []


async def unknown(bus: WatchBus, proxy: FaultProxy, data: bytes) -> PublishUnknownError:
    """Publish what is stored without an answer."""
    proxy.to_client.swallow()
    with pytest.raises(PublishUnknownError) as caught:
        await bus.publish("k", data)
    proxy.to_client.release()
    proxy.cut()
    return caught.value


@pytest.mark.parametrize(
    "how", ["by itself", "by another", "by another, after more", "by another, after a refusal"]
)
async def test_what_is_unknown_is_published_again_under_its_key(
    server: RedisServer, how: str
) -> None:
    """Under the key of `PublishUnknownError` a publish that was stored is not stored again."""
    async with (
        FaultProxy(("127.0.0.1", server.port)) as proxy,
        # Long enough for what is to be answered to be so.
        open_redis_watchbus(f"redis://127.0.0.1:{proxy.port}", timeout=1) as bus,
        open_redis_watchbus(server.url) as another,
    ):
        error = await unknown(bus, proxy, b"1")
        assert entries(server) == [b"1"]
        if how == "by another, after a refusal":
            server.call("CONFIG", "SET", "maxmemory", 1)
            with pytest.raises(BusUnavailableError, match="memory"):
                await publish_until_answered(bus, b"refused")
            server.call("CONFIG", "SET", "maxmemory", 0)
        if how.startswith("by another, after"):
            await publish_when_back(bus, b"2")
        publisher = bus if how == "by itself" else another
        identifier = await publish_when_back(publisher, b"1", error.idempotency_key)
        assert identifier.endswith("-1")
        assert entries(server).count(b"1") == 1


async def test_what_was_called_unknown_a_moment_too_early_is_known_under_its_key(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the answer came after all, and the publisher has gone on since."""
    async with (
        FaultProxy(("127.0.0.1", server.port)) as proxy,
        open_redis_watchbus(f"redis://127.0.0.1:{proxy.port}", timeout=1) as bus,
        open_redis_watchbus(server.url) as another,
    ):
        # Else the answer is not waited for when nobody wants it any more.
        monkeypatch.setattr(bus._publisher._worker.link, "cut", lambda: None)
        proxy.to_client.hold()
        with pytest.raises(PublishUnknownError) as caught:
            await bus.publish("k", b"1")
        proxy.to_client.release()
        assert (await publish_when_back(bus, b"2")).endswith("-2")
        key = caught.value.idempotency_key
        assert (await another.publish("k", b"1", idempotency_key=key)).endswith("-1")
    assert entries(server) == [b"1", b"2"]


async def publish_until_answered(bus: WatchBus, data: bytes) -> None:
    """Publish, although the connection was cut a moment ago; what Redis refuses is raised."""
    with trio.fail_after(20):
        while True:
            try:
                await bus.publish("k", data)
            except BusUnavailableError as error:
                if "no answer" not in str(error):
                    raise


async def publish_when_back(bus: WatchBus, data: bytes, key: str | None = None) -> str:
    """Publish, although the connection was cut a moment ago."""
    with trio.fail_after(20):
        while True:
            try:
                return await bus.publish("k", data, idempotency_key=key)
            except PublishUnknownError:
                raise
            except BusUnavailableError:
                continue


async def test_what_never_arrived_is_not_done_late(server: RedisServer) -> None:
    """A call that was given up before Redis read it does nothing when Redis comes to it."""
    async with (
        open_redis_watchbus(server.url, timeout=1) as bus,
        open_redis_watchbus(server.url) as another,
    ):
        await bus.publish("k", b"0")
        server.stop()
        with pytest.raises(PublishUnknownError) as caught:
            await bus.publish("k", b"1")
        key = caught.value.idempotency_key
        # On a socket that the server comes to as well; in which order, it decides.
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish_when_back, another, b"1", key)
                await trio.testing.wait_all_tasks_blocked(0.05)
                server.go_on()
        await publish_when_back(bus, b"2")
    assert sorted(entries(server)) == [b"0", b"1", b"2"]


def call(server: RedisServer, publisher: str, number: int, data: bytes, key: str = "") -> bytes:
    """Make one call of the script as a publisher does."""
    link = connection_maker(server.url, timeout=5, name="x")()
    settings = ("nonce", f"{publisher}{number}", publisher, number, "", 0, 60_000)
    command = Names("watchbus").script("publish", *settings, key, 1, "k", "k", data)
    [answer] = link.exchange(command)
    link.disconnect()
    if isinstance(answer, Exception):
        raise answer
    assert isinstance(answer, bytes)
    return answer.partition(b"\n")[0]


def test_a_call_that_comes_after_its_successor_does_nothing(server: RedisServer) -> None:
    """What a publisher gave up and sent something after is not done any more."""
    assert call(server, "p", 1, b"1") == b"p1_nonce-1"
    assert call(server, "p", 3, b"3") == b"p1_nonce-2"
    with pytest.raises(BackendError, match="later call"):
        call(server, "p", 2, b"2")
    # The newest again, as after a lost answer.
    assert call(server, "p", 3, b"3") == b"p1_nonce-2"
    assert entries(server) == [b"1", b"3"]


def test_a_call_that_was_published_again_by_another_does_nothing(server: RedisServer) -> None:
    """What somebody published again under the key for that is not done late."""
    call(server, "p", 1, b"1")
    assert call(server, "q", 1, b"2", "unanswered.p.p2.1") == b"p1_nonce-2"
    assert call(server, "p", 2, b"2") == call(server, "p", 2, b"2") == b""
    assert call(server, "q", 2, b"2", "unanswered.p.p2.1") == b"p1_nonce-2"
    assert entries(server) == [b"1", b"2"]
    assert 0 < server.call("PTTL", "watchbus:publisher:p.p2") <= 60_000


async def publish_and_lose_the_reply(
    server: RedisServer, proxy: FaultProxy, bus: WatchBus, data: bytes
) -> str:
    """Publish what is stored without an answer, and return the id that it got after all."""
    identifiers: list[str] = []

    async def publish() -> None:
        identifiers.append(await bus.publish("k", data))

    proxy.to_client.swallow()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(publish)
        await until(lambda: data in entries(server))
        proxy.cut()
        proxy.to_client.release()
    return identifiers[0]


async def test_a_publish_whose_reply_is_lost_is_stored_once_and_answered(
    server: RedisServer,
) -> None:
    """The bus asks again by itself, and gets the answer of the first time."""
    async with (
        FaultProxy(("127.0.0.1", server.port)) as proxy,
        open_redis_watchbus(f"redis://127.0.0.1:{proxy.port}") as bus,
    ):
        for number in range(1, 4):
            identifier = await publish_and_lose_the_reply(server, proxy, bus, b"%d" % number)
            assert identifier.endswith(f"-{number}")
    assert entries(server) == [b"1", b"2", b"3"]


async def test_a_call_that_is_sent_again_after_a_loss_of_data_gets_another_position(
    server: RedisServer,
) -> None:
    """Somebody may have the position that the first attempt got, and the data may come back."""

    def nonces() -> list[bytes]:
        with server.client() as client:
            return [fields[b"n"] for _, fields in client.xrange("watchbus:log")]

    async with (
        FaultProxy(("127.0.0.1", server.port)) as proxy,
        open_redis_watchbus(f"redis://127.0.0.1:{proxy.port}") as bus,
        trio.open_nursery() as nursery,
    ):
        await bus.publish("k", b"before")
        for name in server.call("KEYS", "*"):
            server.call("COPY", name, name, "DB", 1)
        proxy.to_client.swallow()
        nursery.start_soon(bus.publish, "k", b"1")
        await until(lambda: b"1" in entries(server))
        lost = nonces()[-1]
        server.call("SWAPDB", 0, 1)
        assert entries(server) == [b"before"]
        proxy.cut()
        proxy.to_client.release()
        await until(lambda: b"1" in entries(server))
        assert lost not in nonces()


async def test_a_user_key_is_the_key_of_what_is_unknown(server: RedisServer) -> None:
    """Where the publish had an idempotency key, that is the one to use again."""
    async with (
        FaultProxy(("127.0.0.1", server.port)) as proxy,
        open_redis_watchbus(f"redis://127.0.0.1:{proxy.port}", timeout=0.4) as bus,
    ):
        proxy.to_client.swallow()
        with pytest.raises(PublishUnknownError) as caught:
            await bus.publish("k", b"1", idempotency_key="mine")
        assert caught.value.idempotency_key == "mine"


async def test_what_was_never_sent_is_surely_not_stored(server: RedisServer) -> None:
    """Where nobody could connect, the error says that nothing was stored."""
    async with (
        FaultProxy(("127.0.0.1", server.port)) as proxy,
        open_redis_watchbus(f"redis://127.0.0.1:{proxy.port}", timeout=0.4) as bus,
    ):
        proxy.refuse()
        proxy.cut()
        with pytest.raises(BusUnavailableError) as caught:
            await bus.publish("k", b"1")
        assert not isinstance(caught.value, PublishUnknownError)
    assert entries(server) == []


async def test_what_redis_refuses_is_told_at_once(server: RedisServer) -> None:
    """Long before a publish is late; and it is not stored when Redis takes more again."""
    async with open_redis_watchbus(server.url) as bus:
        await bus.publish("k", b"before")
        server.call("CONFIG", "SET", "maxmemory", 1)
        try:
            with trio.fail_after(5), pytest.raises(BusUnavailableError, match=r"refused: .*memory"):
                await bus.publish("k", b"refused")
        finally:
            server.call("CONFIG", "SET", "maxmemory", 0)
        await bus.publish("k", b"after")
    assert entries(server) == [b"before", b"after"]


async def test_what_was_told_to_be_refused_is_not_sent_later(server: RedisServer) -> None:
    """A publish that was late while the connection was made is not sent when that is there."""
    async with (
        FaultProxy(("127.0.0.1", server.port)) as proxy,
        open_redis_watchbus(f"redis://127.0.0.1:{proxy.port}", timeout=0.4) as bus,
    ):
        proxy.to_target.hold()
        proxy.cut()
        with pytest.raises(BusUnavailableError) as caught:
            await bus.publish("k", b"late")
        assert not isinstance(caught.value, PublishUnknownError)
        proxy.to_target.release()
        await publish_when_back(bus, b"after")
    assert entries(server) == [b"after"]


async def test_of_publishes_that_wait_for_a_connection_the_cancelled_is_not_sent(
    server: RedisServer,
) -> None:
    """Though it waits together with others that are."""
    async with (
        FaultProxy(("127.0.0.1", server.port)) as proxy,
        open_redis_watchbus(f"redis://127.0.0.1:{proxy.port}") as bus,
    ):
        proxy.to_target.hold()
        proxy.cut()
        async with trio.open_nursery() as staying:
            async with trio.open_nursery() as leaving:
                staying.start_soon(bus.publish, "k", b"stays")
                leaving.start_soon(bus.publish, "k", b"leaves")
                await until(lambda: len(bus._publisher._batch) == 2)
                leaving.cancel_scope.cancel()
            proxy.to_target.release()
    assert entries(server) == [b"stays"]


async def test_a_publish_under_way_when_the_bus_is_closed_is_unknown(server: RedisServer) -> None:
    """Closing the bus ends publishes: what waits is refused, what was sent is unknown."""
    errors: list[Exception] = []
    async with open_redis_watchbus(server.url) as bus:

        async def publish() -> None:
            try:
                await bus.publish("k", b"1")
            except (PublishUnknownError, trio.ClosedResourceError) as error:
                errors.append(error)

        await bus.publish("k", b"0")
        async with trio.open_nursery() as nursery:
            server.stop()
            try:
                calls = bus._publisher._call
                nursery.start_soon(publish)
                await until(lambda: bus._publisher._call > calls)
                nursery.start_soon(publish)
                await trio.testing.wait_all_tasks_blocked()
                bus.close()
            finally:
                server.go_on()
    assert {type(error) for error in errors} == {PublishUnknownError, trio.ClosedResourceError}


async def test_a_cancelled_publish_that_waits_is_taken_back(server: RedisServer) -> None:
    """A cancel before its group was sent leaves nothing stored; one after that leaves all."""
    async with open_redis_watchbus(server.url) as bus:
        await bus.publish("k", b"0")
        server.stop()
        try:
            async with trio.open_nursery() as nursery:
                calls = bus._publisher._call
                nursery.start_soon(bus.publish, "k", b"under way")
                await until(lambda: bus._publisher._call > calls)
                nursery.start_soon(bus.publish, "k", b"waiting")
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        finally:
            server.go_on()
        await bus.publish("k", b"last")
    assert entries(server) == [b"0", b"under way", b"last"]


@pytest.mark.parametrize(
    ("retention", "size"),
    [
        (Retention(messages=100), 1),
        (Retention(messages=100_000, bytes=20_000), 100),
    ],
    ids=["messages", "bytes"],
)
async def test_the_log_is_trimmed(server: RedisServer, retention: Retention, size: int) -> None:
    """The log holds what it should, and not far more."""
    async with open_redis_watchbus(server.url, retention=retention) as bus:
        for _ in range(40):
            await bus.publish_many([("k", b"x" * size) for _ in range(100)])
        held = server.call("XLEN", "watchbus:log")
        bounds = retention.filled()
        least = min(bounds.messages, bounds.bytes // (size + 1))
        assert least <= held < least * 17
        assert server.call("LLEN", "watchbus:marks") < 200


async def test_the_log_is_trimmed_by_age(server: RedisServer) -> None:
    """What is older than the bound leaves the log when something is published."""
    async with open_redis_watchbus(server.url, retention=Retention(seconds=0.5)) as bus:
        await bus.publish_many([("k", b"old") for _ in range(100)])
        assert entries(server) == [b"old"] * 100
        # What is tested is that time passes: for longer than messages are kept.
        await trio.sleep(0.6)
        await bus.publish("k", b"new")
        assert entries(server) == [b"new"]


async def test_streams_are_kept_for_the_newest_keys(server: RedisServer) -> None:
    """Each of the newest keys has its newest messages, in a stream and in the sets of names."""
    retention = Retention(per_key=2, keys=3)
    async with open_redis_watchbus(server.url, retention=retention) as bus:
        for number in range(5):
            await bus.publish_many([(f"key-{number}", b"%d" % i) for i in range(4)])
        await bus.publish("key-2", b"newest")
        await bus.publish("key-5", b"")
        with server.client() as client:
            kept = sorted(client.keys("watchbus:key:*"))
            assert kept == [b"watchbus:key:key-2", b"watchbus:key:key-4", b"watchbus:key:key-5"]
            assert client.zrange("watchbus:keys", 0, -1) == [b"key-2", b"key-4", b"key-5"]
            assert client.zcard("watchbus:recent") == 3
            newest = client.xrange("watchbus:key:key-2")
            assert [fields[b"data"] for _, fields in newest] == [b"3", b"newest"]
        assert await bus.latest("key-0") is None


async def test_of_each_key_of_a_large_batch_the_newest_message_is_kept(
    server: RedisServer,
) -> None:
    """It alone, where one is to be kept, which is so unless told."""
    async with open_redis_watchbus(server.url) as bus:
        await bus.publish("key-0", b"before")
        await bus.publish_many([(f"key-{number % 600}", b"%d" % number) for number in range(1200)])
    with server.client() as client:
        for number in range(600):
            kept = client.xrange(f"watchbus:key:key-{number}")
            assert [fields[b"data"] for _, fields in kept] == [b"%d" % (number + 600)]
        assert client.zcard("watchbus:recent") == client.zcard("watchbus:keys") == 600


async def test_the_newest_keys_are_kept_though_the_log_is_gone(server: RedisServer) -> None:
    """Numbers go on above those of what is kept: by them the oldest keys are found."""
    async with open_redis_watchbus(server.url, retention=Retention(keys=2)) as bus:
        await bus.publish_many([("a", b""), ("b", b"")] * 10)
    server.call("DEL", "watchbus:facts", "watchbus:log", "watchbus:marks")
    async with open_redis_watchbus(server.url, retention=Retention(keys=2)) as bus:
        identifier = await bus.publish("c", b"")
        assert identifier.endswith("-21")
        assert [await bus.latest(key) is not None for key in ("a", "b", "c")] == [False, True, True]


@pytest.mark.parametrize("per_key", [1, 2])
async def test_what_alone_is_left_of_an_old_numbering_makes_room(
    server: RedisServer, per_key: int
) -> None:
    """A key's stream of higher numbers than those given now does not stand in the way."""
    retention = Retention(per_key=per_key)
    async with open_redis_watchbus(server.url, retention=retention) as bus:
        await bus.publish_many([("k", b"old")] * 5)
    server.call(
        "DEL", *(f"watchbus:{name}" for name in ("facts", "log", "marks", "recent", "keys"))
    )
    async with open_redis_watchbus(server.url, retention=retention) as bus:
        assert (await bus.publish("k", b"new")).endswith("-1")
        latest = await bus.latest("k")
        assert latest is not None
        assert latest.data == b"new"


@pytest.mark.parametrize("name", ["keys", "recent"])
async def test_the_names_of_keys_heal(server: RedisServer, name: str) -> None:
    """Where one of the sets of names was evicted, prefixes and bounds hold again soon."""
    async with open_redis_watchbus(server.url, retention=Retention(keys=5)) as bus:
        await bus.publish_many([(f"key-{number}", b"") for number in range(4)])
        server.call("DEL", f"watchbus:{name}")
        await bus.publish("key-3", b"newest")
        async with bus.subscribe_prefix("key-", history=1) as watch:
            with trio.fail_after(5):
                got = [(await watch.receive()).key for _ in range(4)]
        assert got == [f"key-{number}" for number in range(4)]
        await bus.publish_many([(f"other-{number}", b"") for number in range(4)])
        kept = sorted(server.call("KEYS", "watchbus:key:*"))
        assert kept == [b"watchbus:key:key-3", *(b"watchbus:key:other-%d" % n for n in range(4))]
        assert server.call("ZCARD", "watchbus:recent") == server.call("ZCARD", "watchbus:keys") == 5


async def test_nothing_is_kept_of_keys_where_nothing_shall_be(server: RedisServer) -> None:
    """With `per_key` or `keys` 0 there is the log alone."""
    for retention in (Retention(per_key=0), Retention(keys=0)):
        async with open_redis_watchbus(server.url, retention=retention) as bus:
            await bus.publish("k", b"")
            assert await bus.latest("k") is None
    assert server.call("KEYS", "watchbus:key*") == []


async def test_what_comes_in_a_burst_stays_for_who_stands_still(server: RedisServer) -> None:
    """For ten seconds the log keeps sixteen times as many messages, within its bytes."""
    retention = Retention(messages=100)
    async with open_redis_watchbus(server.url, retention=retention) as bus:
        start = bus.position
        batches = [await bus.publish_many([("k", b"x")] * 100) for _ in range(10)]
        assert server.call("XLEN", "watchbus:log") == 1000
        async with bus.watch("k", after=start) as watch:
            with trio.fail_after(20):
                got = [(await watch.receive()).id for _ in range(1000)]
    assert got == [identifier for batch in batches for identifier in batch]


async def test_a_call_is_bounded(server: RedisServer) -> None:
    """Batches that wait together do not hold Redis up for as long as all of them take."""
    async with open_redis_watchbus(server.url) as bus, trio.open_nursery() as nursery:
        calls = bus._publisher._call
        for _ in range(6):
            nursery.start_soon(bus.publish_many, [("k", b"")] * 600)
        await until(lambda: bus.position.endswith("-3600"))
        assert bus._publisher._call - calls == 6


async def test_a_key_whose_stream_is_something_else_is_nobody_elses_trouble(
    server: RedisServer,
) -> None:
    """Who asks for it is told; the bus and its watches go on."""
    async with open_redis_watchbus(server.url) as bus, bus.watch("other") as watch:
        server.call("SET", "watchbus:key:k", "somebody else's")
        with pytest.raises(BusUnavailableError, match="refused"):
            await bus.latest("k")
        with pytest.raises(BusUnavailableError, match="refused"):
            await bus.watch("k", history=1).__aenter__()
        assert await bus.latest("other") is None
        await bus.publish("other", b"1")
        assert (await watch.receive()).data == b"1"
        assert bus.statistics().watches == 1


async def test_keys_count_among_the_bytes_of_the_log(server: RedisServer) -> None:
    """As they do in a journal: else long keys fill Redis."""
    async with open_redis_watchbus(server.url, retention=Retention(bytes=20_000)) as bus:
        for _ in range(20):
            await bus.publish_many([("k" * 500, b"x")] * 50)
        assert 20_000 // 501 <= server.call("XLEN", "watchbus:log") < 200


async def test_few_large_messages_are_trimmed_by_their_bytes(server: RedisServer) -> None:
    """Though they are far fewer than the log may have messages."""
    async with open_redis_watchbus(server.url, retention=Retention(bytes=20_000)) as bus:
        for _ in range(119):
            await bus.publish("k", b"x" * 999)
        assert 20 <= server.call("XLEN", "watchbus:log") <= 22


def move_marks(server: RedisServer, milliseconds: int) -> None:
    """Write the times of all marks anew, as if the clock had been set."""
    for place, mark in enumerate(server.call("LRANGE", "watchbus:marks", 0, -1)):
        seq, size, time = mark.split()
        moved = b"%b %b %d" % (seq, size, int(time) + milliseconds)
        server.call("LSET", "watchbus:marks", place, moved)


@pytest.mark.parametrize("milliseconds", [-10_001, 3_600_000], ids=["later", "clock set back"])
async def test_what_came_in_a_burst_goes_when_its_time_is_up(
    server: RedisServer, milliseconds: int
) -> None:
    """Ten seconds later the log has no more than it is to keep, and a mark's worth.

    A mark from the future is old: else a clock that was set back would keep everything.
    """
    async with open_redis_watchbus(server.url, retention=Retention(messages=100)) as bus:
        for _ in range(50):
            await bus.publish_many([("k", b"x")] * 20)
        assert server.call("XLEN", "watchbus:log") == 1000
        move_marks(server, milliseconds)
        # A call drops 500 at most.
        for _ in range(2):
            await bus.publish("k", b"")
        assert 100 <= server.call("XLEN", "watchbus:log") < 130


async def test_a_clock_that_was_set_back_keeps_nothing_for_longer(server: RedisServer) -> None:
    """Ages bound the log also where all that it knows of time is from the future."""
    async with open_redis_watchbus(server.url, retention=Retention(seconds=60)) as bus:
        for _ in range(5):
            await bus.publish("k", b"old")
        server.call("HINCRBY", "watchbus:facts", "time", 3_600_000)
        move_marks(server, 3_600_000)
        for _ in range(3):
            await bus.publish("k", b"new")
        assert entries(server) == [b"new"] * 3


async def test_a_retry_does_not_take_the_position_back(server: RedisServer) -> None:
    """Who rests knows what it stored itself, and a retry is answered with what is old."""
    async with open_redis_watchbus(server.url) as bus:
        first = await bus.publish("k", b"1", idempotency_key="one")
        [*_, last] = await bus.publish_many([("k", b"")] * 5)
        assert await bus.publish("k", b"1", idempotency_key="one") == first
        assert bus.position == last
        assert str(bus._publisher.stored) == last
