"""What feeds a remote watch: windows, losses, and what is dropped, without a network."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from trio_watchbus import Message, WatchLaggedError
from trio_watchbus import _protocol as protocol
from trio_watchbus._remote._feed import Feed
from trio_watchbus._request import WatchRequest


class Fed:
    """A feed whose server is the test."""

    def __init__(self, *, opened: bool = True, **how: Any) -> None:
        self.sent: list[protocol.Request] = []
        self.forgotten = 0
        self.feed = Feed(7, WatchRequest(["k"], [], **how), self.sent.append, self._forget)
        self.watch = self.feed.watch
        self.opening = self.feed.opening()
        if opened:
            self.feed.take_opening("e-0")

    def _forget(self, feed: Feed) -> None:
        assert feed is self.feed
        self.forgotten += 1

    def give(self, *numbers: int, position: int | None = None, dropped: int = 0) -> None:
        """Send messages of these numbers."""
        messages = [
            protocol.encode_message(Message("k", b"%d" % number, f"e-{number}", 0.0))
            for number in numbers
        ]
        answer = protocol.parse_answer(
            protocol.encode_messages(
                7, messages, f"e-{numbers[-1] if position is None else position}", dropped
            )
        )
        assert isinstance(answer, protocol.Messages)
        self.feed.take_messages(answer)

    def lose(self, missed: int | None, position: int) -> None:
        """Send that messages are lost."""
        self.feed.lose(WatchLaggedError(missed, f"e-{position}"))

    def take(self) -> list[int | str]:
        """Receive all there is: the number of each message, and what is said of each loss."""
        got: list[int | str] = []
        while True:
            try:
                got.append(int(self.watch.receive_nowait().data))
            except WatchLaggedError as loss:
                got.append(f"lost {loss.missed} up to {loss.position}")
            except trio.WouldBlock:
                return got

    def more(self) -> list[int]:
        """Return how many messages were asked for, each time."""
        return [request.count for request in self.sent if isinstance(request, protocol.More)]


def test_a_watch_is_opened_as_it_was_asked_for() -> None:
    feed = Fed(history=3, buffer_size=10).feed
    assert feed.decided.is_set()
    request = WatchRequest(["a", "b"], ["c"], after="e-5", buffer_size=10)
    opening = Feed(1, request, print, print).opening()
    assert (set(opening.keys), opening.prefixes, opening.after) == ({"a", "b"}, ("c",), "e-5")
    assert (opening.buffer_size, opening.window) == (10, 10)
    assert Fed(history=3).opening.history == 3


@pytest.mark.parametrize("overflow", ["latest", "drop_oldest", "drop_newest"])
def test_a_watch_that_drops_lets_everything_come(overflow: str) -> None:
    opening = Fed(overflow=overflow, buffer_size=10).opening
    assert (opening.overflow, opening.window) == (overflow, None)


def test_a_consumer_that_keeps_up_has_more_come_in_time() -> None:
    fed = Fed(buffer_size=4)
    for number in range(1, 9):
        fed.give(number)
        assert fed.take() == [number]
    # For every two that were taken; the eighth is asked for with the ninth.
    assert fed.more() == [2, 2, 2]
    assert fed.watch.statistics().state == "synced"


def test_a_consumer_that_does_not_is_behind_and_has_more_come_when_it_has_taken_all() -> None:
    fed = Fed(buffer_size=4)
    fed.give(1, 2, 3, 4)
    assert fed.watch.statistics().state == "behind"
    assert fed.more() == []
    assert fed.take() == [1, 2, 3, 4]
    assert fed.more() == [4]
    assert fed.watch.statistics().state == "synced"
    fed.give(5)
    assert fed.take() == [5]


def test_a_server_that_sends_more_than_was_asked_for_is_not_believed() -> None:
    fed = Fed(buffer_size=4)
    with pytest.raises(protocol.MalformedFrameError, match="more messages"):
        fed.give(1, 2, 3, 4, 5)


def test_the_position_is_that_of_the_last_message_or_else_where_the_server_is() -> None:
    fed = Fed()
    assert fed.watch.position == "e-0"
    fed.feed.take_position("e-3")
    assert fed.watch.position == "e-3"
    fed.give(5, 8, position=9)
    assert fed.watch.position == "e-3"
    fed.watch.receive_nowait()
    assert fed.watch.position == "e-5"
    fed.watch.receive_nowait()
    assert fed.watch.position == "e-9"


def test_a_loss_is_told_between_what_came_before_and_after() -> None:
    fed = Fed()
    fed.give(1, 2)
    fed.lose(5, 7)
    fed.give(8)
    fed.lose(1, 9)
    fed.give(10, position=12)
    assert fed.watch.statistics().state == "behind"
    assert fed.watch.statistics().unread == 2
    assert fed.take() == [1, 2, "lost 5 up to e-7", 8, "lost 1 up to e-9", 10]
    assert fed.watch.position == "e-12"
    assert fed.watch.statistics().state == "synced"


def test_the_position_passes_a_loss_when_that_is_told() -> None:
    fed = Fed()
    fed.give(1)
    fed.lose(5, 6)
    fed.give(9)
    assert int(fed.watch.receive_nowait().data) == 1
    assert fed.watch.position == "e-1"
    with pytest.raises(WatchLaggedError):
        fed.watch.receive_nowait()
    assert fed.watch.position == "e-6"


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (2, 3, "lost 5 up to e-9"),
        (None, 3, "lost None up to e-9"),
        (2, None, "lost None up to e-9"),
    ],
)
def test_losses_with_nothing_between_are_one(
    first: int | None, second: int | None, told: str
) -> None:
    fed = Fed()
    fed.lose(first, 4)
    fed.lose(second, 9)
    assert fed.take() == [told]


@pytest.mark.parametrize(
    ("overflow", "kept", "dropped"),
    [
        ("drop_newest", [2, 3], 3),
        ("drop_oldest", [5, 6], 3),
        ("latest", [6], 0),
    ],
)
def test_behind_a_loss_the_kinds_that_drop_keep_no_more_than_in_their_buffer(
    overflow: str, kept: list[int], dropped: int
) -> None:
    fed = Fed(overflow=overflow, buffer_size=2)
    fed.lose(1, 1)
    fed.give(2, 3, 4, 5, 6)
    assert fed.watch.statistics().dropped == dropped
    assert fed.take() == ["lost 1 up to e-1", *kept]


def test_what_the_server_dropped_counts_too_once() -> None:
    fed = Fed(overflow="drop_oldest", buffer_size=2)
    fed.give(3, 4, dropped=2)
    fed.give(5, dropped=2)
    assert fed.watch.statistics().dropped == 3
    # A new connection's watch counts from nothing.
    fed.feed.opening()
    fed.give(7, dropped=1)
    assert fed.watch.statistics().dropped == 5


def test_on_a_new_connection_it_goes_on_behind_what_came_with_the_room_that_is_left() -> None:
    fed = Fed(buffer_size=4, history=2)
    fed.give(1, 2, 3, position=5)
    opening = fed.feed.opening()
    assert (opening.after, opening.history, opening.window) == ("e-5", 0, 1)
    fed.give(6)
    assert fed.take() == [1, 2, 3, 6]


def test_a_watch_that_is_behind_takes_what_comes_on_a_new_connection() -> None:
    fed = Fed(buffer_size=4)
    fed.give(1, 2, 3, 4)
    assert [int(fed.watch.receive_nowait().data) for _ in range(2)] == [1, 2]
    assert fed.feed.opening().window == 2
    fed.feed.take_opening("e-4")
    fed.give(5)
    fed.give(6)
    assert fed.take() == [3, 4, 5, 6]


def test_with_more_history_than_room_it_asks_for_nothing_until_that_is_received() -> None:
    fed = Fed(opened=False, history=9, buffer_size=2)
    fed.give(1, 2)
    fed.give(5, 6)
    assert not fed.feed.decided.is_set()
    fed.feed.take_opening("e-7")
    assert fed.watch.position == "e-0"
    assert (fed.opening.window, fed.more()) == (0, [])
    # Nor on a new connection.
    opening = fed.feed.opening()
    assert (opening.after, opening.history, opening.window) == ("e-7", 0, 0)
    fed.feed.take_opening("e-7")
    assert fed.more() == []
    assert fed.take() == [1, 2, 5, 6]
    assert fed.watch.position == "e-7"
    assert fed.more() == [2]
    fed.give(8)
    assert fed.take() == [8]


def test_history_that_breaks_off_is_asked_for_anew_and_nothing_of_it_given() -> None:
    fed = Fed(opened=False, history=2, buffer_size=10)
    fed.give(1, 2)
    opening = fed.feed.opening()
    assert (opening.after, opening.history) == (None, 2)
    fed.give(2, 4)
    fed.feed.take_opening("e-5")
    assert fed.more() == [8]
    assert fed.take() == [2, 4]


@pytest.mark.parametrize(
    ("overflow", "kept"),
    [("drop_newest", [1, 2, 3]), ("drop_oldest", [1, 2, 3]), ("latest", [3])],
)
def test_history_is_kept_whatever_the_room(overflow: str, kept: list[int]) -> None:
    """As on the other buses; the newest of each key is one for the kind that keeps that."""
    fed = Fed(opened=False, history=3, buffer_size=1, overflow=overflow)
    fed.give(1, 2, 3)
    fed.feed.take_opening("e-3")
    assert fed.watch.statistics().dropped == 0
    assert fed.take() == kept


def test_messages_before_the_watch_is_open_are_not_believed_where_no_history_was_asked_for() -> (
    None
):
    fed = Fed(opened=False)
    with pytest.raises(protocol.MalformedFrameError, match="not open"):
        fed.give(1)


def test_a_watch_that_is_open_is_opened_again_even_if_something_is_lost() -> None:
    """The loss is told before, and it goes on behind that; one that is not yet open is refused."""
    fed = Fed(after="e-0", buffer_size=4)
    assert not fed.opening.lossy
    fed.give(1, position=2)
    opening = fed.feed.opening()
    assert (opening.after, opening.lossy, opening.window) == ("e-2", True, 3)
    fed.lose(8, 10)
    fed.feed.take_opening("e-10")
    fed.give(12)
    assert fed.take() == [1, "lost 8 up to e-10", 12]


def test_behind_a_loss_another_epoch_is_believed() -> None:
    fed = Fed()
    fed.feed.lose(WatchLaggedError(None, "new-3", "epoch"))
    fed.feed.take_opening("new-3")
    fed.feed.take_messages(messages_at("new-4"))
    with pytest.raises(WatchLaggedError):
        fed.watch.receive_nowait()
    assert fed.watch.receive_nowait().id == fed.watch.position == "new-4"


def messages_at(*ids: str, position: str | None = None) -> protocol.Messages:
    """Messages with these ids, and the position after them."""
    messages = [protocol.WireMessage("k", text, 0.0, "") for text in ids]
    return protocol.Messages(7, tuple(messages), ids[-1] if position is None else position)


@pytest.mark.parametrize(
    "frame",
    [
        messages_at("e-4"),
        messages_at("e-3"),
        messages_at("e-6", "e-5"),
        messages_at("e-5", "e-5"),
        messages_at("f-5"),
        messages_at("e-5", "f-6"),
        messages_at("5", position="e-9"),
        messages_at("e-05", position="e-9"),
        messages_at("e-\u0665", position="e-9"),
        messages_at("e--5", position="e-9"),
        messages_at("e-", position="e-9"),
        messages_at("e-5", position="e-4"),
        messages_at("e-5", position="f-5"),
        messages_at("e-5", position="e"),
        messages_at(f"e-{10**18}"),
        messages_at("e-5", "e-" + "9" * 5000, position="e-6"),
    ],
    ids=lambda frame: ascii([*(m.id[:20] for m in frame.messages), frame.position[:20]]),
)
def test_a_server_whose_messages_are_out_of_order_is_not_believed(frame: Any) -> None:
    fed = Fed()
    fed.give(3, position=4)
    with pytest.raises(protocol.MalformedFrameError):
        fed.feed.take_messages(frame)
    assert fed.take() == [3]
    fed.watch.close()
    assert fed.watch.position == "e-4"


@pytest.mark.parametrize("position", ["e-3", "f-5", "e"])
def test_a_bookmark_or_opening_that_goes_back_or_elsewhere_is_not_believed(position: str) -> None:
    fed = Fed()
    fed.give(3, position=4)
    for take in (fed.feed.take_position, fed.feed.take_opening):
        with pytest.raises(protocol.MalformedFrameError):
            take(position)
    assert fed.feed.resume == "e-4"
    fed.feed.take_position("e-4")
    fed.feed.take_position("e-5")
    assert fed.feed.resume == "e-5"


def test_history_whose_ids_are_no_positions_is_not_believed() -> None:
    fed = Fed(opened=False, history=1)
    with pytest.raises(protocol.MalformedFrameError, match="not a position"):
        fed.feed.take_messages(messages_at("e-1", "rubbish", position="e-2"))


def test_closing_discards_what_waits_and_keeps_the_position() -> None:
    fed = Fed()
    fed.give(1, 2)
    fed.watch.receive_nowait()
    fed.watch.close()
    fed.watch.close()
    assert fed.forgotten == 1
    assert fed.watch.position == "e-1"
    with pytest.raises(trio.ClosedResourceError):
        fed.watch.receive_nowait()


def test_when_it_ends_what_came_before_is_still_received() -> None:
    fed = Fed(buffer_size=2)
    fed.give(1, 2)
    fed.lose(1, 3)
    fed.feed.end()
    assert [fed.watch.receive_nowait().data for _ in range(2)] == [b"1", b"2"]
    with pytest.raises(WatchLaggedError):
        fed.watch.receive_nowait()
    with pytest.raises(trio.EndOfChannel):
        fed.watch.receive_nowait()


def test_when_it_fails_the_cause_is_told() -> None:
    fed = Fed()
    failure = OSError("gone")
    fed.feed.end(failure)
    fed.feed.end()
    with pytest.raises(trio.BrokenResourceError) as caught:
        fed.watch.receive_nowait()
    assert caught.value.__cause__ is failure


async def test_whoever_waits_is_woken_by_a_loss() -> None:
    fed = Fed()
    async with trio.open_nursery() as nursery:

        async def receive() -> None:
            with pytest.raises(WatchLaggedError):
                await fed.watch.receive()

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        fed.lose(1, 1)


def give_large(fed: Fed, *numbers: int) -> None:
    messages = [
        protocol.encode_message(Message("k", b"%d" % n + b" " * 1_000_000, f"e-{n}", 0.0))
        for n in numbers
    ]
    frame = protocol.encode_messages(7, messages, f"e-{numbers[-1]}", 0)
    answer = protocol.parse_answer(frame)
    assert isinstance(answer, protocol.Messages)
    fed.feed.take_messages(answer)


def test_messages_that_do_not_fit_by_their_bytes_wait_behind_the_buffer() -> None:
    """The server sends as many as it was asked for, however large, and none twice."""
    fed = Fed()
    for number in range(1, 41):
        give_large(fed, number)
    assert 1 < fed.watch.statistics().buffered < 20
    assert fed.watch.statistics().buffered + fed.watch.statistics().unread == 40
    assert fed.take() == list(range(1, 41))
    give_large(fed, 41)
    fed.give(42)
    assert fed.take() == [41, 42]
    assert fed.watch.position == "e-42"


def test_a_position_does_not_go_back_where_what_waits_begins_amid_a_frame() -> None:
    fed = Fed()
    give_large(fed, *range(1, 21))
    buffered = fed.watch.statistics().buffered
    assert 1 < buffered < 20
    for _ in range(buffered):
        fed.watch.receive_nowait()
    assert fed.watch.position == f"e-{buffered}"
