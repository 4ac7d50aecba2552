"""What a program may pass that is wrong, and the error that it gets, which says what to do.

After any of them the bus still serves, and no watch is left.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from naive import received_now

from trio_watchbus import (
    HistoryLostError,
    InMemoryWatchBus,
    InvalidKeyError,
    InvalidPositionError,
    MessageTooLargeError,
    Retention,
    WatchBusError,
    open_watchbus,
)
from trio_watchbus._keys import check_key, check_prefix
from trio_watchbus._message import Position, check_data

# Wrong on purpose: what a type checker would refuse.
Wrong = Any


@pytest.fixture
async def bus() -> AsyncIterator[InMemoryWatchBus]:
    """A bus that has to be as good as new afterwards."""
    bus = InMemoryWatchBus()
    yield bus
    position = bus.position
    async with bus.subscribe_prefix("", after=position) as watch:
        bus.publish_nowait("still serves", b"1")
        assert received_now(watch) == [b"1"]
    statistics = bus.statistics()
    assert (statistics.watches, statistics.trie_nodes) == (0, 0)


async def test_the_empty_key_is_refused_and_the_empty_prefix_is_every_key(
    bus: InMemoryWatchBus,
) -> None:
    with pytest.raises(InvalidKeyError, match="this key is empty"):
        bus.watch("")
    with pytest.raises(InvalidKeyError, match="this key is empty"):
        await bus.publish("", b"")
    async with bus.subscribe_prefix("") as watch:
        bus.publish_nowait("anything", b"1")
        bus.publish_prefix_nowait("", b"2")
        assert received_now(watch) == [b"1", b"2"]


@pytest.mark.parametrize("key", [b"k", None, 1, 1.5, ["k"], ("k",), object()])
async def test_a_key_of_another_type_is_refused(bus: InMemoryWatchBus, key: Wrong) -> None:
    uses: list[Callable[[], object]] = [
        lambda: bus.watch(key),
        lambda: bus.watch_any([key]),
        lambda: bus.publish_many_nowait([(key, b"")]),
    ]
    if not isinstance(key, list):
        uses.append(lambda: bus.publish_nowait(key, b""))
    for use in uses:
        with pytest.raises(TypeError, match=f"the key must be a str, not {type(key).__name__}"):
            use()
    with pytest.raises(TypeError, match="the prefix must be a str"):
        bus.subscribe_prefix(key)
    with pytest.raises(TypeError):
        bus.publish_prefix_nowait(key, b"")
    with pytest.raises(TypeError):
        await bus.latest(key)
    with pytest.raises(TypeError):
        await bus.watched_keys(key)


@pytest.mark.parametrize(
    ("key", "complaint"),
    [
        ("a\ud800", r"this key has a lone surrogate \(at character 1\)"),
        ("\udfff", "lone surrogate"),
        ("\0", r"this key has a control character \(U\+0000 at character 0\)"),
        ("ab\n", r"U\+000A at character 2"),
        ("\r", r"U\+000D"),
        ("\x7f", r"U\+007F"),
        ("\x80", r"U\+0080"),
        ("\x9f", r"U\+009F"),
        ("a" * 513, "this key has 513 bytes as UTF-8; at most 512 are allowed"),
        ("\u00e9" * 257, "this key has 514 bytes"),
    ],
)
async def test_a_key_that_is_none_is_refused_with_the_reason(
    bus: InMemoryWatchBus, key: str, complaint: str
) -> None:
    uses: list[Callable[[], object]] = [
        lambda: bus.watch(key),
        lambda: bus.watch_any(["good", key]),
        lambda: bus.publish_nowait(key, b""),
        lambda: bus.publish_many_nowait([("good", b""), (key, b"")]),
    ]
    for use in uses:
        with pytest.raises(InvalidKeyError, match=complaint):
            use()
    with pytest.raises(InvalidKeyError, match=complaint.replace("key", "prefix")):
        bus.subscribe_prefix(key)
    with pytest.raises(InvalidKeyError, match=complaint.replace("key", "idempotency key")):
        bus.publish_nowait("good", b"", idempotency_key=key)


async def test_data_as_text_is_refused_with_what_to_do(bus: InMemoryWatchBus) -> None:
    text: Wrong = "text"
    for publish in (bus.publish_nowait, bus.publish_prefix_nowait):
        with pytest.raises(TypeError, match=r"not str; encode it first, as in data.encode\(\)"):
            publish("k", text)
    with pytest.raises(TypeError, match="encode it first"):
        await bus.publish("k", text)


@pytest.mark.parametrize("data", [None, 1, [1], object()])
async def test_data_of_another_type_is_refused(bus: InMemoryWatchBus, data: Wrong) -> None:
    with pytest.raises(TypeError, match=f"data must be bytes, not {type(data).__name__}"):
        bus.publish_nowait("k", data)


async def test_data_that_is_too_long_is_refused_with_the_bound(bus: InMemoryWatchBus) -> None:
    with pytest.raises(MessageTooLargeError, match=r"1048577 bytes, and .* at most 1048576"):
        bus.publish_nowait("k", b"x" * (1024 * 1024 + 1))


@pytest.mark.parametrize("item", [None, 1, "", "k", ("k",), ("k", b"", True, 1), [], {}])
async def test_what_is_no_item_of_a_batch_is_refused(bus: InMemoryWatchBus, item: Wrong) -> None:
    with pytest.raises(TypeError, match=r"an item of a batch is \(key, data\)"):
        bus.publish_many_nowait([("k", b""), item])


@pytest.mark.parametrize(
    "after",
    [
        *("", "nonsense", "e", "e-", "-", "-1", "e-x", "e-01", "e--1", "e-1 ", " e-1", "e-1\n"),
        *("e-1-1", "e-1.5", "\u00e9-1", "e-\u0661", "e-" + "1" * 19, "e" * 65 + "-1"),
        pytest.param("x" * 100_000, id="long"),
    ],
)
async def test_what_is_no_position_is_refused_with_what_to_use(
    bus: InMemoryWatchBus, after: str
) -> None:
    with pytest.raises(InvalidPositionError, match="use a message's id or a watch's pos") as raised:
        bus.watch("k", after=after)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("after", [1, b"e-1", ("e", 1), Position("e", 1)])
async def test_a_position_of_another_type_is_refused(bus: InMemoryWatchBus, after: Wrong) -> None:
    with pytest.raises(TypeError, match="a position is a str"):
        bus.watch("k", after=after)


async def test_a_position_that_cannot_be_resumed_from_is_refused_with_the_reason() -> None:
    bus = InMemoryWatchBus(retention=Retention(messages=1))
    first = bus.publish_nowait("k", b"")
    epoch = first.partition("-")[0]
    bus.publish_many_nowait([("k", b"")] * 2)
    for after, reason, explanation in (
        (first, "trimmed", "no longer held"),
        (f"{epoch}-4", "future", "has not reached"),
        ("other-2", "epoch", "another epoch"),
    ):
        with pytest.raises(HistoryLostError, match=explanation) as raised:
            async with bus.watch("k", after=after):
                pass
        assert (raised.value.reason, raised.value.position) == (reason, f"{epoch}-2")
        assert raised.value.position in str(raised.value)


@pytest.mark.parametrize(
    ("how", "error", "complaint"),
    [
        ({"buffer_size": 0}, ValueError, "buffer_size must be at least 1, not 0"),
        ({"buffer_size": -1}, ValueError, "buffer_size must be at least 1"),
        ({"buffer_size": "1"}, TypeError, "buffer_size must be an int, not str"),
        ({"buffer_size": True}, TypeError, "buffer_size must be an int, not bool"),
        ({"buffer_size": None}, TypeError, "buffer_size must be an int"),
        ({"history": -1}, ValueError, "history must be at least 0, not -1"),
        ({"history": 1.5}, TypeError, "history must be an int, not float"),
        ({"overflow": "x"}, ValueError, "one of replay, latest, drop_oldest, drop_newest, not 'x'"),
        ({"overflow": None}, ValueError, "overflow must be one of"),
        ({"after": "e-1", "history": 1}, ValueError, "give after or history, not both"),
        ({"unknown": 1}, TypeError, "unknown"),
    ],
)
async def test_an_option_out_of_range_is_refused_with_the_range(
    bus: InMemoryWatchBus, how: Wrong, error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        bus.watch("k", **how)


async def test_an_option_that_no_watch_has_is_refused_with_those_that_there_are(
    bus: InMemoryWatchBus,
) -> None:
    wrong: Wrong = {"bufsize": 1}
    for opening, what in ((bus.watch, "a"), (bus.subscribe_prefix, "a"), (bus.watch_any, ["a"])):
        watching: Wrong = opening
        with pytest.raises(TypeError, match=r"watch\(\) takes no option 'bufsize'.*buffer_size"):
            watching(what, **wrong)


async def test_a_watch_on_nothing_is_refused(bus: InMemoryWatchBus) -> None:
    with pytest.raises(ValueError, match="at least one key or prefix"):
        bus.watch_any()
    with pytest.raises(ValueError, match="at least one key or prefix"):
        bus.watch_any([], [])


@pytest.mark.parametrize("text", ["orders", b"orders"], ids=["str", "bytes"])
async def test_one_text_where_several_are_wanted_is_refused(
    bus: InMemoryWatchBus, text: Wrong
) -> None:
    """Else each of its letters would be a key."""
    with pytest.raises(TypeError, match="keys must be an iterable of str; put the one into a list"):
        bus.watch_any(text)
    with pytest.raises(TypeError, match="prefixes must be an iterable of str"):
        bus.watch_any((), text)


async def test_a_watch_that_was_left_is_closed(bus: InMemoryWatchBus) -> None:
    async with bus.watch("k") as watch:
        pass
    with pytest.raises(trio.ClosedResourceError, match="this watch is closed"):
        await watch.receive()


async def test_two_receivers_are_one_too_many(bus: InMemoryWatchBus) -> None:
    async with bus.watch("k") as watch, trio.open_nursery() as nursery:
        nursery.start_soon(watch.receive)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError, match="another task"):
            await watch.receive()
        nursery.cancel_scope.cancel()


async def test_a_watch_that_was_not_entered_says_so(bus: InMemoryWatchBus) -> None:
    """Whatever is tried with it, and registers nothing."""
    opening: Any = bus.watch("k")
    how = re.escape("enter it first, as in: async with bus.watch(...) as watch")
    with pytest.raises(TypeError, match=how):
        async for _ in opening:
            pass
    with pytest.raises(TypeError, match=how):
        await opening
    with pytest.raises(AttributeError, match=f"'receive': {how}"):
        await opening.receive()
    assert bus.statistics().watches == 0


UNDER_ASYNCIO = """
import asyncio
from trio_watchbus import InMemoryWatchBus, open_watchbus

async def main():
    async with {}:
        pass

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "opening",
    [
        "InMemoryWatchBus()",
        "InMemoryWatchBus().watch('k')",
        "open_watchbus('redis://127.0.0.1:1')",
        "open_watchbus('http://127.0.0.1:1')",
    ],
)
def test_a_program_that_does_not_run_under_trio_is_told_so(opening: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNDER_ASYNCIO.format(opening)],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "RuntimeError: a watch bus is used under Trio: start the program with trio.run(main)"
    )


async def test_a_watch_is_entered_once(bus: InMemoryWatchBus) -> None:
    opening = bus.watch("k")
    async with opening:
        with pytest.raises(RuntimeError, match=r"call watch\(\) again"):
            async with opening:
                pass
    with pytest.raises(RuntimeError, match="entered already"):
        async with opening:
            pass


async def test_a_closed_bus_says_so() -> None:
    bus = InMemoryWatchBus()
    bus.close()
    with pytest.raises(trio.ClosedResourceError, match="this bus is closed"):
        await bus.publish("k", b"")
    with pytest.raises(trio.ClosedResourceError, match="this bus is closed"):
        async with bus.watch("k"):
            pass


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ({"messages": 0}, ValueError),
        ({"bytes": 0}, ValueError),
        ({"per_key": -1}, ValueError),
        ({"keys": -1}, ValueError),
        ({"seconds": 0}, ValueError),
        ({"seconds": -1}, ValueError),
        ({"seconds": float("nan")}, ValueError),
        ({"messages": 1.5}, TypeError),
        ({"bytes": "1"}, TypeError),
        ({"per_key": True}, TypeError),
    ],
)
def test_a_retention_out_of_range_is_refused_by_name(how: Wrong, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"Retention.{next(iter(how))} must be"):
        Retention(**how)


def test_what_is_no_retention_is_refused() -> None:
    with pytest.raises(TypeError, match="retention must be a Retention, not dict"):
        InMemoryWatchBus(retention={"messages": 5})  # type: ignore[arg-type]


def test_a_bus_whose_messages_may_have_no_size_is_refused() -> None:
    with pytest.raises(ValueError, match="max_message_size must be at least 1, not 0"):
        InMemoryWatchBus(max_message_size=0)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        (b"memory://", TypeError),
        (None, TypeError),
        ("", ValueError),
        ("memory", ValueError),
        ("ftp://host", ValueError),
        ("memory://host", ValueError),
        ("memory://?keys=1", ValueError),
    ],
)
def test_a_url_that_names_no_bus_is_refused(url: Wrong, error: type[Exception]) -> None:
    with pytest.raises(error):
        open_watchbus(url)


def test_an_option_that_no_bus_has_is_refused() -> None:
    with pytest.raises(TypeError, match="keep"):
        open_watchbus("memory://", keep=1)


def test_every_error_of_its_own_has_one_base_and_is_caught_as_what_it_is() -> None:
    for error in (InvalidKeyError, InvalidPositionError, MessageTooLargeError):
        assert issubclass(error, WatchBusError)
        assert issubclass(error, ValueError)
    assert issubclass(HistoryLostError, WatchBusError)
    assert not issubclass(HistoryLostError, ValueError)


# Whatever is passed: it is accepted as it is, or refused


@given(st.text(max_size=600))
def test_any_text_is_a_key_or_refused(text: str) -> None:
    good = (
        0 < len(text.encode(errors="surrogatepass")) <= 512
        and not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in text)
        and not any(0xD800 <= ord(c) < 0xE000 for c in text)
    )
    if good:
        assert check_key(text) == check_prefix(text) == text
    else:
        with pytest.raises(InvalidKeyError):
            check_key(text)
        if text:
            with pytest.raises(InvalidKeyError):
                check_prefix(text)


@given(st.sampled_from([chr(c) for c in range(0x100)]))
def test_of_the_first_256_characters_the_controls_are_refused(character: str) -> None:
    if character.isprintable() or character in "\u00a0\u00ad":
        assert check_key(character) == character
    else:
        with pytest.raises(InvalidKeyError, match=f"{ord(character):04X}"):
            check_key(character)


@given(st.text() | st.from_regex(r"\A[0-9a-f]{1,12}-[0-9]{1,19}\Z"))
def test_any_text_is_a_position_that_is_written_so_or_refused(text: str) -> None:
    try:
        position = Position.parse(text)
    except InvalidPositionError:
        return
    assert str(position) == text


@given(
    st.from_regex(r"[0-9A-Za-z]{1,64}", fullmatch=True),
    st.integers(0, 10**18 - 1),
    st.from_regex(r"[0-9A-Za-z]{0,32}", fullmatch=True),
)
def test_every_position_is_read_as_it_was_written(epoch: str, sequence: int, branch: str) -> None:
    position = Position(epoch, sequence, branch)
    assert Position.parse(str(position)) == position


@given(st.binary(max_size=20), st.integers(1, 20))
def test_data_is_its_bytes_or_refused(data: bytes, most: int) -> None:
    for given_as in (data, bytearray(data), memoryview(data)):
        if len(data) > most:
            with pytest.raises(MessageTooLargeError):
                check_data(given_as, most)
        else:
            kept = check_data(given_as, most)
            assert type(kept) is bytes
            assert kept == data
