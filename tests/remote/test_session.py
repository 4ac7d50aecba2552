"""The server's side of watchbus.v1, without a network: what each frame is answered with."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from trio_watchbus import (
    BusUnavailableError,
    InMemoryWatchBus,
    Message,
    PublishUnknownError,
    Retention,
)
from trio_watchbus._protocol import encode_message
from trio_watchbus.web._options import WebOptions
from trio_watchbus.web._session import serve_session
from trio_watchbus.web._watches import Openings
from trio_watchbus.web._websocket import CloseConnection


class Peer:
    """A connection whose client is the test."""

    def __init__(self, room: float) -> None:
        self.draining = trio.Event()
        self._to_server, self._inbound = trio.open_memory_channel[str | bytes](100)
        self._outbound, self._from_server = trio.open_memory_channel[str](room)
        self.closed: CloseConnection | None = None

    async def receive(self) -> str | bytes:
        return await self._inbound.receive()

    async def send(self, data: str) -> None:
        await self._outbound.send(data)

    async def say(self, frame: dict[str, Any] | str | bytes) -> None:
        """Send a frame to the server."""
        await self._to_server.send(json.dumps(frame) if isinstance(frame, dict) else frame)

    async def hear(self) -> dict[str, Any]:
        """Return the next frame from the server."""
        frame = json.loads(await self._from_server.receive())
        assert isinstance(frame, dict)
        return frame

    async def ask(self, frame: dict[str, Any] | str | bytes) -> dict[str, Any]:
        await self.say(frame)
        return await self.hear()

    async def hear_all(self) -> list[dict[str, Any]]:
        """Return the frames that the server has sent until it has nothing more to do."""
        frames = []
        await trio.testing.wait_all_tasks_blocked()
        while True:
            try:
                frames.append(json.loads(self._from_server.receive_nowait()))
            except trio.WouldBlock:
                return frames
            await trio.testing.wait_all_tasks_blocked()

    def unread(self) -> int:
        """Return how many frames the server has not looked at."""
        return self._to_server.statistics().current_buffer_used

    async def ending(self) -> CloseConnection:
        """Return with what the server closes the connection."""
        await trio.testing.wait_all_tasks_blocked()
        assert self.closed is not None
        return self.closed


@asynccontextmanager
async def session(
    bus: Any, options: WebOptions | None = None, *, room: float = 1000
) -> AsyncIterator[Peer]:
    """Serve `bus` to a client that has heard the greeting."""
    peer = Peer(room)

    async def serve() -> None:
        try:
            await serve_session(bus, peer, options or WebOptions(), encode_message, Openings())
        except CloseConnection as closing:
            peer.closed = closing

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        assert (await peer.hear())["op"] == "hello"
        yield peer
        nursery.cancel_scope.cancel()


async def test_the_greeting_says_where_the_bus_is_and_what_fits() -> None:
    bus = InMemoryWatchBus(max_message_size=1000)
    await bus.publish("a", b"1")
    peer = Peer(10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_session, bus, peer, WebOptions(), encode_message, Openings())
        assert await peer.hear() == {
            "op": "hello",
            "position": bus.position,
            "max_message_size": 1000,
            "max_frame_size": 2000 + 64 * 1024,
            "max_request_size": 64 * 1024,
            "max_batch_messages": 10_000,
        }
        nursery.cancel_scope.cancel()


async def test_a_watch_gets_what_matches_from_its_position_on() -> None:
    bus = InMemoryWatchBus()
    async with session(bus) as peer:
        watching = await peer.ask({"op": "watch", "id": 1, "key": "a", "prefixes": ["b/"]})
        assert watching == {"op": "watching", "id": 1, "position": bus.position}
        await bus.publish_many([("a", b"1"), ("c", b"2"), ("b/x", b"\xff"), ("b", b"4", True)])
        messages = await peer.hear()
        assert messages["op"] == "messages"
        assert messages["id"] == 1
        assert messages["position"] == bus.position
        assert [
            (message["key"], message.get("data"), message.get("data_base64"), message.get("prefix"))
            for message in messages["messages"]
        ] == [("a", "1", None, None), ("b/x", None, "/w==", None), ("b", "4", None, True)]


async def test_watches_are_told_apart_by_their_ids_and_one_may_end_before_the_others() -> None:
    bus = InMemoryWatchBus()
    async with session(bus) as peer:
        for identifier, key in ((1, "a"), (2, "b")):
            assert (await peer.ask({"op": "watch", "id": identifier, "key": key}))[
                "id"
            ] == identifier
        assert await peer.ask({"op": "unwatch", "id": 1}) == {"op": "unwatched", "id": 1}
        assert await bus.watched_keys() == {"b"}
        await bus.publish_many([("a", b""), ("b", b"")])
        assert [frame["id"] for frame in await peer.hear_all()] == [2]
        assert (await peer.ask({"op": "watch", "id": 1, "key": "c"}))["op"] == "watching"


async def test_after_and_history_start_in_the_past() -> None:
    bus = InMemoryWatchBus(retention=Retention(per_key=2))
    ids = [await bus.publish("a", b"%d" % number) for number in range(3)]
    async with session(bus) as peer:
        await peer.say({"op": "watch", "id": 1, "key": "a", "after": ids[0]})
        await peer.say({"op": "watch", "id": 2, "key": "a", "history": 1})
        frames = await peer.hear_all()
        got = {
            frame["id"]: [message["id"] for message in frame["messages"]]
            for frame in frames
            if frame["op"] == "messages"
        }
        assert got == {1: ids[1:], 2: ids[2:]}


@pytest.mark.parametrize("overflow", ["replay", "latest", "drop_oldest", "drop_newest"])
async def test_history_comes_whole_before_the_watch_is_open(overflow: str) -> None:
    """Whatever room there is, and whatever is published before it has gone out."""
    keys = [f"a{number}" for number in range(4)]
    bus = InMemoryWatchBus()
    for key in [*keys, "b"]:
        # Two go into a frame, that which exceeds it being the last.
        await bus.publish(key, b"x" * 200_000)
    async with session(bus, room=0) as peer:
        request = {"op": "watch", "id": 1, "prefix": "a", "history": 1, "overflow": overflow}
        await peer.say({**request, "buffer_size": 1, "window": 1})
        await trio.testing.wait_all_tasks_blocked()
        for key in keys:
            await bus.publish(key, b"new")
        frames = [await peer.hear() for _ in range(4)]
        assert [frame["op"] for frame in frames] == ["messages", "messages", "watching", "messages"]
        got = [[message["key"] for message in frame.get("messages", ())] for frame in frames]
        assert got[:3] == [keys[:2], keys[2:], []]
        # The window is for what comes after it, and the position is before that.
        [message] = frames[3]["messages"]
        assert message["data"] == "new"
        before, first = (
            int(place.rpartition("-")[2]) for place in (frames[2]["position"], message["id"])
        )
        assert first == before + 1
        assert await peer.hear_all() == []


async def test_what_waits_goes_out_in_one_frame_up_to_its_bounds() -> None:
    bus = InMemoryWatchBus()
    async with session(bus) as peer:
        await peer.ask({"op": "watch", "id": 1, "prefix": ""})
        await bus.publish_many([("a", b"")] * 1500)
        assert [len(frame["messages"]) for frame in await peer.hear_all()] == [1024, 476]
        await bus.publish_many([("a", b"x" * 100_000)] * 5)
        assert [len(frame["messages"]) for frame in await peer.hear_all()] == [3, 2]


async def test_a_window_is_never_exceeded_and_opened_by_more() -> None:
    bus = InMemoryWatchBus()
    async with session(bus) as peer:
        await peer.ask({"op": "watch", "id": 1, "key": "a", "window": 2})
        await bus.publish_many([("a", b"%d" % number) for number in range(5)])
        frames = await peer.hear_all()
        assert [message["data"] for message in frames[0]["messages"]] == ["0", "1"]
        assert len(frames) == 1
        await peer.say({"op": "more", "id": 1, "count": 2})
        assert [m["data"] for f in await peer.hear_all() for m in f["messages"]] == ["2", "3"]
        await peer.say({"op": "more", "id": 7, "count": 2})
        assert await peer.hear_all() == []


async def test_a_watch_with_a_closed_window_can_be_closed() -> None:
    bus = InMemoryWatchBus()
    async with session(bus) as peer:
        await peer.ask({"op": "watch", "id": 1, "key": "a", "window": 0})
        await bus.publish("a", b"")
        assert await peer.ask({"op": "unwatch", "id": 1}) == {"op": "unwatched", "id": 1}
        assert bus.statistics().watches == 0


async def test_a_loss_is_told_at_its_place_with_its_size() -> None:
    bus = InMemoryWatchBus(retention=Retention(messages=3))
    async with session(bus) as peer:
        await peer.ask({"op": "watch", "id": 1, "key": "a", "buffer_size": 2})
        ids = await bus.publish_many([("a", b"")] * 10)
        first, lagged, second = await peer.hear_all()
        assert [message["id"] for message in first["messages"]] == ids[:2]
        # Resuming from there, the loss is found again.
        assert first["position"] == ids[1]
        assert lagged == {
            "op": "lagged",
            "id": 1,
            "missed": 5,
            "position": ids[6],
            "reason": "trimmed",
        }
        assert [message["id"] for message in second["messages"]] == ids[7:]


async def test_dropped_messages_are_counted() -> None:
    bus = InMemoryWatchBus()
    async with session(bus) as peer:
        await peer.ask(
            {"op": "watch", "id": 1, "key": "a", "buffer_size": 1, "overflow": "drop_newest"}
        )
        ids = await bus.publish_many([("a", b"")] * 4)
        frame = await peer.hear()
        assert [message["id"] for message in frame["messages"]] == ids[:1]
        assert frame["dropped"] == 3


async def test_publishing_is_answered_with_the_ids() -> None:
    bus = InMemoryWatchBus()
    async with bus.subscribe_prefix("") as watch, session(bus) as peer:
        answers = [
            await peer.ask({"op": "publish", "id": 1, "key": "a", "data": "é"}),
            await peer.ask({"op": "publish", "id": 1, "prefix": "", "data_base64": "/w=="}),
            await peer.ask(
                {
                    "op": "publish_many",
                    "id": 1,
                    "messages": [{"key": "a", "data": "1"}, {"prefix": "a", "data": "2"}],
                }
            ),
        ]
        messages = await watch.receive_batch()
        assert [(m.key, m.data, m.is_prefix) for m in messages] == [
            ("a", "é".encode(), False),
            ("", b"\xff", True),
            ("a", b"1", False),
            ("a", b"2", True),
        ]
        ids = [message.id for message in messages]
        assert answers == [
            {"op": "published", "id": 1, "message_id": ids[0]},
            {"op": "published", "id": 1, "message_id": ids[1]},
            {"op": "published", "id": 1, "message_ids": ids[2:]},
        ]


@pytest.mark.parametrize(
    "request_frame",
    [
        {"op": "publish", "id": 1, "key": "a", "data": ""},
        {"op": "publish_many", "id": 1, "messages": [{"key": "a", "data": ""}] * 2},
    ],
)
async def test_one_idempotency_key_publishes_once(request_frame: dict[str, Any]) -> None:
    bus = InMemoryWatchBus()
    async with session(bus) as peer:
        first = await peer.ask({**request_frame, "idempotency_key": "k"})
        position = bus.position
        assert await peer.ask({**request_frame, "idempotency_key": "k"}) == first
        assert bus.position == position


async def test_latest_and_watched_keys_are_answered() -> None:
    bus = InMemoryWatchBus()
    async with bus.watch_any(["b", "a"]), session(bus) as peer:
        assert await peer.ask({"op": "latest", "id": 1, "key": "a"}) == {
            "op": "latest",
            "id": 1,
            "message": None,
        }
        message_id = await bus.publish("a", b"1")
        latest = await peer.ask({"op": "latest", "id": 1, "key": "a"})
        assert latest["message"]["id"] == message_id
        assert await peer.ask({"op": "watched_keys", "id": 1}) == {
            "op": "watched_keys",
            "id": 1,
            "keys": ["a", "b"],
        }
        assert (await peer.ask({"op": "watched_keys", "id": 1, "prefix": "c"}))["keys"] == []


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ({"op": "watch", "id": 7, "key": ""}, "invalid_key"),
        ({"op": "watch", "id": 7, "key": "\ud800"}, "invalid_key"),
        ({"op": "watch", "id": 7, "key": "a", "after": "nonsense"}, "invalid_position"),
        ({"op": "watch", "id": 7, "key": "a", "after": "\ud800e-1"}, "invalid_position"),
        ({"op": "watch", "id": 7, "key": "a", "after": "other-1"}, "history_lost"),
        ({"op": "watch", "id": 7}, "invalid_request"),
        ({"op": "watch", "id": 7, "key": "a", "history": 1, "after": "e-1"}, "invalid_request"),
        ({"op": "watch", "id": 7, "key": "a", "buffer_size": 0}, "invalid_request"),
        ({"op": "watch", "id": 7, "keys": ["a", "b", "c"], "prefix": ""}, "limit"),
        ({"op": "unwatch", "id": 7}, "unknown_id"),
        ({"op": "publish", "id": 7, "key": "a\n", "data": ""}, "invalid_key"),
        ({"op": "publish", "id": 7, "key": "a", "data": "\ud800"}, "invalid_request"),
        ({"op": "publish", "id": 7, "data": ""}, "invalid_request"),
        ({"op": "publish", "id": 7, "key": "a", "data": "x" * 101}, "message_too_large"),
        ({"op": "publish", "id": 7, "key": "a", "data": "", "idempotency_key": ""}, "invalid_key"),
        ({"op": "publish_many", "id": 7, "messages": [{"key": "a"}]}, "invalid_request"),
        ({"op": "publish_many", "id": 7, "messages": [{"key": "a", "data": ""}] * 4}, "limit"),
        ({"op": "latest", "id": 7, "key": ""}, "invalid_key"),
        ({"op": "watched_keys", "id": 7, "prefix": "\0"}, "invalid_key"),
        ({"op": "fly", "id": 7}, "invalid_request"),
    ],
)
async def test_a_wrong_request_is_refused_and_the_connection_goes_on(
    frame: dict[str, Any], code: str
) -> None:
    bus = InMemoryWatchBus(max_message_size=100)
    options = WebOptions(max_keys=3, max_batch_messages=3)
    async with session(bus, options) as peer:
        position = bus.position
        answer = await peer.ask(frame)
        assert (answer["op"], answer["id"], answer["code"]) == ("error", 7, code)
        assert answer["detail"]
        assert (await peer.ask({"op": "ping"})) == {"op": "pong"}
        assert bus.position == position
        assert bus.statistics().watches == 0
        # The id is free again.
        assert (await peer.ask({"op": "watch", "id": 7, "key": "a"}))["op"] == "watching"


async def test_history_that_is_lost_says_why_and_from_where_there_is_some() -> None:
    bus = InMemoryWatchBus()
    async with session(bus) as peer:
        answer = await peer.ask({"op": "watch", "id": 7, "key": "a", "after": "other-1"})
        assert (answer["reason"], answer["position"]) == ("epoch", bus.position)


async def test_a_lossy_watch_is_told_what_is_lost_and_goes_on_behind_that() -> None:
    bus = InMemoryWatchBus(retention=Retention(messages=2))
    start = bus.position
    ids = [await bus.publish("a", b"%d" % number) for number in range(5)]
    async with session(bus) as peer:
        lagged = await peer.ask({"op": "watch", "id": 7, "key": "a", "after": start, "lossy": True})
        assert lagged == {
            "op": "lagged",
            "id": 7,
            "missed": 3,
            "position": ids[2],
            "reason": "trimmed",
        }
        assert await peer.hear() == {"op": "watching", "id": 7, "position": ids[2]}
        assert [message["data"] for message in (await peer.hear())["messages"]] == ["3", "4"]
        # Where nothing is lost, nothing is told.
        watching = await peer.ask(
            {"op": "watch", "id": 8, "key": "a", "after": ids[3], "lossy": True}
        )
        assert watching == {"op": "watching", "id": 8, "position": ids[3]}


async def test_a_lossy_watch_of_another_epoch_gets_all_there_is() -> None:
    bus = InMemoryWatchBus()
    start, first = bus.position, await bus.publish("a", b"")
    async with session(bus) as peer:
        lagged = await peer.ask(
            {"op": "watch", "id": 7, "key": "a", "after": "other-1", "lossy": True}
        )
        assert (lagged["missed"], lagged["position"], lagged["reason"]) == (None, start, "epoch")
        assert (await peer.hear())["op"] == "watching"
        assert [message["id"] for message in (await peer.hear())["messages"]] == [first]


async def test_a_lossy_watch_from_the_future_gets_nothing_that_it_may_have_had() -> None:
    bus = InMemoryWatchBus()
    await bus.publish("a", b"")
    now = bus.position
    future = now.replace("-1", "-9")
    async with session(bus) as peer:
        lagged = await peer.ask(
            {"op": "watch", "id": 7, "key": "a", "after": future, "lossy": True}
        )
        assert (lagged["missed"], lagged["position"], lagged["reason"]) == (None, now, "epoch")
        assert await peer.hear() == {"op": "watching", "id": 7, "position": now}
        later = await bus.publish("a", b"")
        assert [message["id"] for message in (await peer.hear())["messages"]] == [later]


async def test_a_lossy_watch_gets_on_where_the_oldest_is_gone_before_it_is_there() -> None:
    """As where more is published in one round trip than the bus holds."""
    bus = InMemoryWatchBus(retention=Retention(messages=1))
    start = bus.position
    await bus.publish("a", b"")
    opening = bus.open_watch

    async def overtaken(request: Any) -> Any:
        if request.after is not None:
            bus.publish_many_nowait([("a", b"")] * 3)
        return await opening(request)

    bus.open_watch = overtaken  # type: ignore[method-assign]
    async with session(bus) as peer:
        lagged = await peer.ask({"op": "watch", "id": 7, "key": "a", "after": start, "lossy": True})
        assert (lagged["missed"], lagged["position"]) == (7, bus.position)
        assert (await peer.hear())["op"] == "watching"


async def test_an_id_in_use_is_refused_and_what_has_it_goes_on() -> None:
    bus = InMemoryWatchBus()
    async with session(bus) as peer:
        await peer.ask({"op": "watch", "id": 7, "key": "a"})
        for frame in (
            {"op": "watch", "id": 7, "key": "b"},
            {"op": "publish", "id": 7, "key": "b", "data": ""},
        ):
            assert (await peer.ask(frame))["code"] == "duplicate_id"
        await bus.publish("a", b"")
        assert (await peer.hear())["op"] == "messages"


async def test_a_connection_has_a_bounded_number_of_watches() -> None:
    bus = InMemoryWatchBus()
    async with session(bus, WebOptions(max_watches=1)) as peer:
        await peer.ask({"op": "watch", "id": 1, "key": "a"})
        assert (await peer.ask({"op": "watch", "id": 2, "key": "a"}))["code"] == "limit"
        await peer.ask({"op": "unwatch", "id": 1})
        assert (await peer.ask({"op": "watch", "id": 2, "key": "a"}))["op"] == "watching"


async def test_a_watch_that_was_closed_does_not_count_while_that_is_not_yet_answered() -> None:
    bus = InMemoryWatchBus()
    async with session(bus, WebOptions(max_watches=1), room=0) as peer:
        await peer.ask({"op": "watch", "id": 1, "key": "a"})
        await bus.publish("a", b"")
        await trio.testing.wait_all_tasks_blocked()
        await peer.say({"op": "unwatch", "id": 1})
        await peer.say({"op": "watch", "id": 2, "key": "a"})
        assert [(await peer.hear())["op"] for _ in range(3)] == [
            "messages",
            "unwatched",
            "watching",
        ]


async def test_a_client_that_reads_nothing_cannot_pile_up_closed_watches() -> None:
    """What it asks for beyond a bound is not looked at before it reads."""
    bus = InMemoryWatchBus()
    async with (
        session(bus, WebOptions(max_watches=1), room=0) as peer,
        trio.open_nursery() as nursery,
    ):

        async def open_and_close() -> None:
            for identifier in range(200):
                await peer.say({"op": "watch", "id": identifier, "key": "a"})
                await peer.say({"op": "unwatch", "id": identifier})

        nursery.start_soon(open_and_close)
        await trio.testing.wait_all_tasks_blocked()
        assert peer.unread() == 100
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("frame", ["x", "[]", "{}", '{"op":"ping","op":"ping"}', b""])
async def test_a_malformed_frame_is_told_and_ends_the_connection(frame: str | bytes) -> None:
    bus = InMemoryWatchBus()
    async with session(bus) as peer:
        await peer.ask({"op": "watch", "id": 1, "key": "a"})
        answer = await peer.ask(frame)
        assert (answer["op"], answer["code"]) == ("error", "malformed")
        assert (await peer.ending()).code == 4400
        assert bus.statistics().watches == 0


async def test_a_long_frame_is_refused_unless_it_publishes() -> None:
    bus = InMemoryWatchBus()
    async with session(bus, WebOptions(max_inbound_size=100)) as peer:
        published = await peer.ask({"op": "publish", "id": 1, "key": "a", "data": "x" * 1000})
        assert published["op"] == "published"
        await peer.say({"op": "latest", "id": 1, "key": "x" * 100})
        assert (await peer.ending()).code == 1009


async def test_a_connection_that_is_too_much_for_its_transport_is_closed_as_that_says() -> None:
    class Refusing(Peer):
        async def receive(self) -> str | bytes:
            await trio.testing.wait_all_tasks_blocked()
            raise CloseConnection(1009, "too long")

    peer = Refusing(10)
    with pytest.raises(CloseConnection) as caught:
        await serve_session(InMemoryWatchBus(), peer, WebOptions(), encode_message, Openings())
    assert caught.value.code == 1009


async def test_a_drain_is_announced_and_closes_with_1001() -> None:
    bus = InMemoryWatchBus()
    async with session(bus) as peer:
        await peer.ask({"op": "watch", "id": 1, "key": "a"})
        peer.draining.set()
        assert (await peer.hear())["op"] == "end"
        assert (await peer.ending()).code == 1001
        assert bus.statistics().watches == 0


async def test_a_bus_that_closes_ends_the_connection_after_what_it_accepted() -> None:
    bus = InMemoryWatchBus()
    async with session(bus) as peer:
        await peer.ask({"op": "watch", "id": 1, "key": "a"})
        await peer.ask({"op": "watch", "id": 2, "key": "b"})
        await bus.publish("a", b"")
        bus.close()
        assert [frame["op"] for frame in await peer.hear_all()] == ["messages", "end"]
        assert (await peer.ending()).code == 1001


@pytest.mark.parametrize(
    "frame",
    [{"op": "publish", "id": 1, "key": "a", "data": ""}, {"op": "watch", "id": 1, "key": "a"}],
)
async def test_a_request_to_a_closed_bus_ends_the_connection(frame: dict[str, Any]) -> None:
    bus = InMemoryWatchBus()
    async with session(bus) as peer:
        bus.close()
        assert (await peer.ask(frame))["op"] == "end"
        assert (await peer.ending()).code == 1001


async def test_a_bus_that_failed_closes_with_1011() -> None:
    bus = InMemoryWatchBus()
    async with session(bus) as peer:
        await peer.ask({"op": "watch", "id": 1, "key": "a"})
        bus._dispatcher.close(OSError("gone"))
        assert (await peer.ending()).code == 1011


@pytest.mark.parametrize(
    ("error", "code", "logged"),
    [
        (BusUnavailableError("redis.internal"), "unavailable", False),
        (PublishUnknownError("redis.internal", idempotency_key="k"), "publish_unknown", False),
        (OSError("redis.internal"), "failed", True),
    ],
)
async def test_what_a_bus_says_from_inside_is_not_told(
    error: Exception,
    code: str,
    logged: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(*_: object, **__: object) -> str:
        await trio.lowlevel.checkpoint()
        raise error

    bus = InMemoryWatchBus()
    monkeypatch.setattr(bus, "publish", fail)
    async with session(bus) as peer:
        answer = await peer.ask({"op": "publish", "id": 1, "key": "a", "data": ""})
        assert answer["code"] == code
        assert "redis" not in answer["detail"]
        assert ("redis.internal" in caplog.text) is logged
        assert (await peer.ask({"op": "ping"})) == {"op": "pong"}


async def test_an_idle_session_says_where_it_is_and_so_that_it_lives(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bus = InMemoryWatchBus()
    async with session(bus, WebOptions(heartbeat=15)) as peer:
        # Without a watch, where the bus is.
        assert await peer.hear() == {"op": "position", "position": bus.position}
        await peer.ask({"op": "watch", "id": 1, "key": "a"})
        await bus.publish("b", b"")
        with trio.fail_after(31):
            while "id" not in (frame := await peer.hear()):
                assert frame["op"] == "position"
        assert frame == {"op": "position", "id": 1, "position": bus.position}
        # What did not move is not told again, and yet it is heard of.
        for _ in range(3):
            with trio.fail_after(31):
                assert await peer.hear() == {"op": "position", "position": bus.position}


async def test_a_client_that_reads_nothing_holds_one_frame_and_gets_all_in_order_later() -> None:
    bus = InMemoryWatchBus()
    async with session(bus, room=0) as peer:
        for identifier in (1, 2):
            await peer.ask({"op": "watch", "id": identifier, "key": "a"})
        ids = [await bus.publish("a", b"") for _ in range(3000)]
        await trio.testing.wait_all_tasks_blocked()
        assert bus.statistics().watches == 2
        got: dict[int, list[str]] = {1: [], 2: []}
        order = []
        while len(got[1]) + len(got[2]) < 6000:
            frame = await peer.hear()
            order.append(frame["id"])
            got[frame["id"]] += [message["id"] for message in frame["messages"]]
        assert got == {1: ids, 2: ids}
        # They take turns.
        assert order[1:3] in ([1, 2], [2, 1])


async def test_a_pong_has_its_turn_before_a_busy_watch_has_its_next() -> None:
    bus = InMemoryWatchBus()
    async with session(bus, room=0) as peer:
        await peer.ask({"op": "watch", "id": 1, "key": "a"})
        await bus.publish_many([("a", b"")] * 5000)
        await trio.testing.wait_all_tasks_blocked()
        await peer.say({"op": "ping"})
        await trio.testing.wait_all_tasks_blocked()
        assert [(await peer.hear())["op"] for _ in range(3)] == ["messages", "pong", "messages"]


async def test_what_is_published_has_the_order_in_which_it_was_sent() -> None:
    bus = InMemoryWatchBus()
    async with bus.watch("a") as watch, session(bus) as peer:
        for number in range(300):
            frame: dict[str, Any] = {"key": "a", "data": f"{number}"}
            if number % 2:
                frame = {"op": "publish_many", "messages": [frame]}
            await peer.say({"op": "publish", **frame, "id": number})
        await peer.hear_all()
        got = [int(message.data) for message in await watch.receive_batch()]
        assert got == list(range(300))


async def test_publishes_keep_their_order_where_the_bus_lets_others_run_between() -> None:
    """As one in memory does now and then, so that the next request is done before."""
    bus = InMemoryWatchBus()
    async with session(bus, room=10_000) as peer, bus.watch("a", buffer_size=10_000) as watch:
        for number in range(2000):
            await peer.say({"op": "publish", "id": number, "key": "a", "data": f"{number}"})
        got = [int((await watch.receive()).data) for _ in range(2000)]
        assert got == list(range(2000))


async def test_a_buffer_is_no_larger_than_the_server_lets_it_be() -> None:
    """Else one request could fill its memory with what its client does not read."""
    bus = InMemoryWatchBus()
    async with session(bus) as peer:
        request = {"op": "watch", "id": 1, "key": "a", "window": 0, "overflow": "drop_newest"}
        await peer.ask({**request, "buffer_size": 1_000_000})
        await bus.publish_many([("a", b"")] * 3000)
        [watch] = bus._dispatcher.watches
        statistics = watch.statistics()
        assert (statistics.buffered, statistics.dropped) == (1024, 1976)


async def test_requests_beyond_a_bound_wait_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    bus = InMemoryWatchBus()
    begun = 0
    may_end = trio.Event()

    async def slow(*_: object, **__: object) -> str:
        nonlocal begun
        begun += 1
        await may_end.wait()
        return "epoch-1"

    monkeypatch.setattr(bus, "publish", slow)
    async with session(bus) as peer:
        for number in range(70):
            await peer.say({"op": "publish", "id": number, "key": "a", "data": ""})
        await trio.testing.wait_all_tasks_blocked()
        # One more was read, and the others were not.
        assert (begun, peer.unread()) == (64, 5)
        may_end.set()
        answered = {frame["id"] for frame in await peer.hear_all()}
        assert answered == set(range(70))


async def test_of_answers_that_may_be_large_one_waits_for_a_client_that_reads_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bus = InMemoryWatchBus(max_message_size=4096)
    await bus.publish("a", bytes(4096))
    asked = 0
    latest = bus.latest

    async def counted(key: str) -> Message | None:
        nonlocal asked
        asked += 1
        return await latest(key)

    monkeypatch.setattr(bus, "latest", counted)
    async with session(bus, room=0) as peer:
        for number in range(40):
            await peer.say({"op": "latest", "id": number, "key": "a"})
        await trio.testing.wait_all_tasks_blocked()
        assert asked == 1
        # Publishes do not wait for them: what answers those is small.
        await peer.say({"op": "publish", "id": 100, "key": "b", "data": ""})
        await trio.testing.wait_all_tasks_blocked()
        assert bus.position.endswith("-2")
        assert [(await peer.hear())["id"] for _ in range(41)].count(100) == 1


async def test_leaving_by_a_cancel_leaves_no_watch() -> None:
    bus = InMemoryWatchBus()
    async with session(bus) as peer:
        await peer.ask({"op": "watch", "id": 1, "keys": ["a", "b"], "prefix": "c"})
        assert bus.statistics().watches == 1
    assert bus.statistics().watches == 0
    assert bus.statistics().trie_nodes == 0


async def test_an_unwatch_right_behind_its_watch_closes_it() -> None:
    bus = InMemoryWatchBus()
    async with session(bus) as peer:
        await peer.say({"op": "watch", "id": 1, "key": "a"})
        await peer.say({"op": "unwatch", "id": 1})
        assert [frame["op"] for frame in await peer.hear_all()][-1] == "unwatched"
        assert bus.statistics().watches == 0
