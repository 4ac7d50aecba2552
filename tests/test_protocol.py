"""The grammar of watchbus.v1: what is sent is what is understood, and nothing else is."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_watchbus import (
    BusUnavailableError,
    HistoryLostError,
    InvalidKeyError,
    InvalidPositionError,
    Message,
    MessageTooLargeError,
    PublishUnknownError,
)
from trio_watchbus import _protocol as protocol

IDENTIFIERS = st.integers(0, 2**53 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
ANY_TEXTS = st.text(st.characters())
DATA = st.binary() | TEXTS.map(str.encode)

MESSAGES = st.builds(
    Message,
    key=TEXTS,
    data=DATA,
    id=TEXTS,
    time=st.floats(0, 2**40),
    is_prefix=st.booleans(),
)

PUBLICATIONS = st.builds(
    lambda *item: protocol.Publication(**protocol.publication_fields(*item)),
    TEXTS,
    DATA,
    st.booleans(),
)

REQUESTS: st.SearchStrategy[protocol.Request] = st.one_of(
    st.builds(
        protocol.Watch,
        id=IDENTIFIERS,
        key=st.none() | TEXTS,
        prefix=st.none() | TEXTS,
        keys=st.lists(TEXTS).map(tuple),
        prefixes=st.lists(TEXTS).map(tuple),
        after=st.none() | TEXTS,
        history=st.integers(0, protocol.MAX_HISTORY),
        overflow=st.sampled_from(["replay", "latest", "drop_oldest", "drop_newest"]),
        buffer_size=st.none() | IDENTIFIERS,
        window=st.none() | IDENTIFIERS,
    ),
    st.builds(protocol.More, IDENTIFIERS, IDENTIFIERS),
    st.builds(protocol.Unwatch, IDENTIFIERS),
    st.builds(
        lambda item, **fields: protocol.Publish(**protocol.publication_fields(*item), **fields),
        st.tuples(TEXTS, DATA, st.booleans()),
        id=IDENTIFIERS,
        idempotency_key=st.none() | TEXTS,
    ),
    st.builds(
        protocol.PublishMany, IDENTIFIERS, st.lists(PUBLICATIONS).map(tuple), st.none() | TEXTS
    ),
    st.builds(protocol.Latest, IDENTIFIERS, TEXTS),
    st.builds(protocol.WatchedKeys, IDENTIFIERS, TEXTS),
    st.just(protocol.Ping()),
)

WIRE_MESSAGES = MESSAGES.map(protocol.WireMessage.of)
REASONS = st.sampled_from(["trimmed", "epoch", "future"])

ANSWERS: st.SearchStrategy[protocol.Answer] = st.one_of(
    st.builds(protocol.Hello, TEXTS, *[IDENTIFIERS] * 3, st.integers(1, 2**53 - 1)),
    st.builds(protocol.Watching, IDENTIFIERS, TEXTS),
    st.builds(
        protocol.Messages, IDENTIFIERS, st.lists(WIRE_MESSAGES).map(tuple), TEXTS, IDENTIFIERS
    ),
    st.builds(protocol.Lagged, IDENTIFIERS, st.none() | IDENTIFIERS, TEXTS, REASONS),
    st.builds(protocol.Bookmark, id=st.none() | IDENTIFIERS, position=TEXTS),
    st.builds(protocol.Unwatched, IDENTIFIERS),
    st.builds(protocol.Published, IDENTIFIERS, TEXTS),
    st.builds(protocol.Published, IDENTIFIERS, st.none(), st.lists(TEXTS).map(tuple)),
    st.builds(protocol.LatestMessage, IDENTIFIERS, st.none() | WIRE_MESSAGES),
    st.builds(protocol.WatchedKeySet, IDENTIFIERS, st.lists(TEXTS).map(tuple)),
    st.just(protocol.Pong()),
    st.builds(
        protocol.Error,
        id=st.none() | IDENTIFIERS,
        code=TEXTS,
        detail=TEXTS,
        reason=st.none() | REASONS,
        position=st.none() | TEXTS,
    ),
    st.builds(protocol.End, TEXTS),
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXTS, inner),
    max_leaves=10,
)
OPS = ("watch", "more", "unwatch", "publish", "publish_many", "latest", "watched_keys", "ping")
FIELDS = [
    "id",
    "key",
    "prefix",
    "keys",
    "prefixes",
    "after",
    "history",
    "overflow",
    "buffer_size",
    "window",
    "count",
    "data",
    "data_base64",
    "idempotency_key",
    "messages",
]


@given(REQUESTS)
def test_a_request_is_understood_as_it_was_meant(request: protocol.Request) -> None:
    assert protocol.parse_request(protocol.encode(request)) == request


@given(ANSWERS)
def test_an_answer_is_understood_as_it_was_meant(answer: protocol.Answer) -> None:
    assert protocol.parse_answer(protocol.encode(answer)) == answer


@given(TEXTS, DATA, st.booleans())
def test_what_is_published_arrives_byte_for_byte(key: str, data: bytes, is_prefix: bool) -> None:
    fields = protocol.publication_fields(key, data, is_prefix)
    frame = protocol.encode(protocol.Publish(id=1, **fields))
    parsed = protocol.parse_request(frame)
    assert isinstance(parsed, protocol.Publish)
    assert parsed.item() == (key, data, is_prefix)


@given(IDENTIFIERS, st.lists(MESSAGES), TEXTS, IDENTIFIERS)
def test_messages_arrive_as_they_were(
    identifier: int, messages: list[Message], position: str, dropped: int
) -> None:
    encoded = list(map(protocol.encode_message, messages))
    frame = protocol.encode_messages(identifier, encoded, position, dropped)
    parsed = protocol.parse_answer(frame)
    assert isinstance(parsed, protocol.Messages)
    assert [message.message() for message in parsed.messages] == messages
    assert (parsed.id, parsed.position, parsed.dropped) == (identifier, position, dropped)


def test_data_that_is_not_utf8_goes_as_base64() -> None:
    message = Message("p", b"\xff", "epoch-1", 1.0, True)
    assert json.loads(protocol.encode_message(message)) == {
        "key": "p",
        "data_base64": "/w==",
        "id": "epoch-1",
        "time": 1.0,
        "prefix": True,
    }


@pytest.mark.parametrize("data", [b"\x00" * 1_000_000, b'"' * 1_000_000, b"\xff" * 1_000_000])
def test_a_publish_never_takes_twice_the_bytes_of_its_data(data: bytes) -> None:
    frame = protocol.Publish(id=1, **protocol.publication_fields("k", data, False))
    assert len(protocol.encode(frame)) < 1.5 * len(data)


@given(ANY_TEXTS)
def test_any_text_is_refused_in_one_of_two_ways(text: str) -> None:
    with pytest.raises((protocol.MalformedFrameError, protocol.RequestError)):
        protocol.parse_request(text)
    with pytest.raises((protocol.MalformedFrameError, protocol.RequestError)):
        protocol.parse_publication(text)
    with pytest.raises(protocol.MalformedFrameError):
        protocol.parse_answer(text)


@given(
    st.sampled_from(OPS) | ANY_TEXTS,
    st.dictionaries(st.sampled_from(FIELDS) | ANY_TEXTS.filter("op".__ne__), JSON | IDENTIFIERS),
)
def test_any_fields_make_a_request_or_an_error_that_can_be_told(
    op: str, fields: dict[str, Any]
) -> None:
    try:
        request = protocol.parse_request(json.dumps({"op": op, **fields}))
    except protocol.MalformedFrameError:
        return
    except protocol.RequestError as error:
        answer = protocol.error_answer(None, error)
        assert protocol.parse_answer(protocol.encode(answer)) == answer
        return
    assert request.__struct_config__.tag == op


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '"op"',
        "{}",
        '{"op":1}',
        '{"op":"ping"}x',
        '{"op":"ping","op":"ping"}',
        '{"op":"publish","id":1,"key":"a","key":"b","data":""}',
        '{"op":"publish_many","id":1,"messages":[{"key":"a","data":"","data":""}]}',
        '{"op":"more","id":1,"count":NaN}',
        '{"op":"more","id":1,"count":Infinity}',
        '{"op":"more","id":1,"count":' + "1" * 400 + "}",
        '{"op":"more","id":1,"count":' + "1" * 5000 + "}",
        '{"op":"watch","id":1,"keys":' + "[" * 100_000 + "]" * 100_000 + "}",
        "[" * 100_000,
    ],
)
def test_a_frame_that_means_nothing_certain_is_malformed(text: str) -> None:
    with pytest.raises(protocol.MalformedFrameError):
        protocol.parse_request(text)


@pytest.mark.parametrize(
    ("text", "identifier", "said"),
    [
        ('{"op":"fly","id":7}', 7, "'fly'"),
        ('{"op":"watch","key":"a"}', None, "`id`"),
        ('{"op":"watch","id":true,"key":"a"}', None, "bool"),
        ('{"op":"watch","id":-1,"key":"a"}', None, ">= 0"),
        ('{"op":"watch","id":9007199254740992,"key":"a"}', None, "9007199254740991"),
        ('{"op":"watch","id":1.0,"key":"a"}', None, "float"),
        ('{"op":"watch","id":"1","key":"a"}', None, "str"),
        ('{"op":"watch","id":7,"key":1}', 7, "key"),
        ('{"op":"watch","id":7,"keys":"ab"}', 7, "keys"),
        ('{"op":"watch","id":7,"key":"a","history":-1}', 7, "history"),
        ('{"op":"watch","id":7,"key":"a","history":1e400}', 7, "history"),
        ('{"op":"watch","id":7,"key":"a","history":1001}', 7, "history"),
        ('{"op":"watch","id":7,"key":"a","overflow":"x"}', 7, "overflow"),
        ('{"op":"surprise","id":7}', 7, "surprise"),
        ('{"op":"publish","id":7,"key":"a","data_base64":"?"}', 7, "base64"),
        ('{"op":"publish","id":7,"key":"a","data":[]}', 7, "data"),
        ('{"op":"publish_many","id":7,"messages":[{"key":[]}]}', 7, "messages[0]"),
        ('{"op":"\\ud800","id":7}', 7, "surrogate"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(
    text: str, identifier: int | None, said: str
) -> None:
    with pytest.raises(protocol.RequestError) as caught:
        protocol.parse_request(text)
    assert caught.value.identifier == identifier
    assert caught.value.code == "invalid_request"
    answer = json.loads(protocol.encode(protocol.error_answer(None, caught.value)))
    assert said in answer["detail"]


@pytest.mark.parametrize(
    "text",
    [
        '{"data":""}',
        '{"key":"a","prefix":"a","data":""}',
        '{"key":"a"}',
        '{"key":"a","data":"","data_base64":""}',
        '{"key":"a","data":"\\ud800"}',
    ],
)
def test_a_publication_has_one_address_and_one_kind_of_data(text: str) -> None:
    with pytest.raises(ValueError, match=r"either|surrogate"):
        protocol.parse_publication(text).item()


@pytest.mark.parametrize(
    "text",
    [
        '{"key":"a","key":"b","data":"c"}',
        '{"key":"a","data":"b","data":"c"}',
        # As many quotes as two fields have.
        '{"key":"a","key":"b"}',
        # An escape hides that a name comes twice.
        '{"key":"","k\\u0065y":""}',
    ],
)
def test_a_publication_with_a_field_twice_is_malformed(text: str) -> None:
    with pytest.raises(protocol.MalformedFrameError, match="twice"):
        protocol.parse_publication(text)


def test_a_watch_covers_what_any_of_its_fields_names() -> None:
    watch = protocol.parse_request(
        '{"op":"watch","id":1,"key":"a","keys":["b"],"prefix":"","prefixes":["c","d"]}'
    )
    assert isinstance(watch, protocol.Watch)
    assert watch.all_keys() == ["a", "b"]
    assert watch.all_prefixes() == ["", "c", "d"]


@pytest.mark.parametrize(
    "text",
    [
        '{"op":"watching","id":1}',
        '{"op":"position","position":1}',
        '{"op":"messages","id":1,"position":"e-1","messages":[{}]}',
        '{"op":"pong","x":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"op":"end","reason":"\\ud800"}',
        '{"op":1}',
        '{"op":"advice"',
        '{"op":"latest","id":1,"message":{"key":"","id":"","time":1,"data":"","data_base64":""}}',
        '{"op":"published","id":1}',
        '{"op":"published","id":1,"message_id":"e-1","message_ids":[]}',
        '{"op":"lagged","id":1,"missed":NaN,"position":"e-1","reason":"trimmed"}',
    ],
)
def test_what_is_no_answer_is_malformed(text: str) -> None:
    with pytest.raises(protocol.MalformedFrameError):
        protocol.parse_answer(text)


def test_a_frame_has_at_most_1024_messages() -> None:
    message = protocol.WireMessage("k", "e-1", 0.0, "")
    for count in (1024, 1025):
        text = protocol.encode(protocol.Messages(1, (message,) * count, "e-1"))
        with (
            nullcontext()
            if count == 1024
            else pytest.raises(protocol.MalformedFrameError, match="1024")
        ):
            protocol.parse_answer(text)


def test_an_op_of_a_later_server_is_passed_over() -> None:
    assert protocol.parse_answer('{"op":"advice","id":[]}') is None


def test_an_unknown_op_of_a_long_frame_has_to_be_its_first_field() -> None:
    """Such a frame is parsed once only."""
    filling = "x" * 65_536
    assert protocol.parse_answer(f'{{"op":"advice","text":"{filling}"}}') is None
    assert protocol.parse_answer('{"text":"","op":"advice"}') is None
    with pytest.raises(protocol.MalformedFrameError):
        protocol.parse_answer(f'{{"text":"{filling}","op":"advice"}}')


def test_a_field_of_a_later_client_is_passed_over_but_on_a_line_of_a_batch() -> None:
    """A line may be written by hand, where a mistyped field is worth an error."""
    text = '{"op":"watch","id":7,"key":"a","surprise":1}'
    assert protocol.parse_request(text) == protocol.Watch(7, key="a")
    request = protocol.parse_request(
        '{"op":"publish_many","id":7,"messages":[{"key":"a","data":"","later":1}]}'
    )
    assert request == protocol.PublishMany(7, (protocol.Publication("a", data=""),))
    with pytest.raises(protocol.RequestError, match="later"):
        protocol.parse_publication('{"key":"a","data":"","later":1}')


def test_a_loss_reason_of_a_later_server_is_a_loss_without_a_number() -> None:
    answer = protocol.parse_answer(
        '{"op":"lagged","id":1,"missed":3,"position":"e-1","reason":"eaten"}'
    )
    assert isinstance(answer, protocol.Lagged)
    loss = answer.loss()
    assert (loss.missed, loss.position, loss.reason) == (None, "e-1", "trimmed")
    refusal = protocol.Error(id=1, code="history_lost", detail="", reason="eaten", position="e-1")
    assert isinstance(protocol.error_of(refusal), HistoryLostError)


def test_an_error_code_of_a_later_server_is_an_error() -> None:
    error = protocol.error_of(protocol.Error(id=1, code="tired", detail="come back on Monday"))
    assert isinstance(error, BusUnavailableError)
    assert "come back on Monday" in str(error)


def test_an_encoding_of_a_later_server_is_no_message() -> None:
    answer = protocol.parse_answer(
        '{"op":"latest","id":1,"message":{"key":"a","id":"e-1","time":1,"data_zstd":"x"}}'
    )
    assert isinstance(answer, protocol.LatestMessage)
    assert answer.message is not None
    assert answer.message.message() is None


@pytest.mark.parametrize(
    ("start", "end", "identifier", "position"),
    [
        ('{"op":"messages","id":7,"messages":[', '"}],"position":"e-9"}', 7, "e-9"),
        ('{ "op": "messages", "id": 7, "m', '}], "position": "e_b-9", "dropped": 3 }', 7, "e_b-9"),
        ('{"op":"latest","id":7,"message":{', '"data":"x"}}', 7, None),
        # What a message carries is taken for neither.
        ('{"op":"messages","messages":[{"key":"id","id":7,', '"}],"id":7}', None, None),
        ('{"op":"messages","id":7,', r'\"}],\"position\":\"e-9\"}"}]}', 7, None),
    ],
)
def test_the_ends_of_a_frame_tell_what_it_was_for(
    start: str, end: str, identifier: int | None, position: str | None
) -> None:
    skipped = protocol.parse_skipped("too long", start, end)
    assert skipped == protocol.SkippedFrame("too long", identifier, position)


def test_a_field_of_a_later_server_is_passed_over() -> None:
    assert protocol.parse_answer('{"op":"pong","load":[1]}') == protocol.Pong()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidKeyError("no key"), "invalid_key"),
        (InvalidPositionError("no position"), "invalid_position"),
        (MessageTooLargeError("too large"), "message_too_large"),
        (HistoryLostError("trimmed", "e-7"), "history_lost"),
        (ValueError("out of range"), "invalid_request"),
        (protocol.RequestError(7, "limit", "too many"), "limit"),
    ],
)
def test_an_error_is_raised_at_the_other_side_as_it_was_at_this(
    error: Exception, code: str
) -> None:
    answer = protocol.error_answer(7, error)
    assert (answer.id, answer.code) == (7, code)
    parsed = protocol.parse_answer(protocol.encode(answer))
    assert isinstance(parsed, protocol.Error)
    raised = protocol.error_of(parsed)
    if isinstance(error, protocol.RequestError):
        assert type(raised) is ValueError
        assert str(raised) == error.detail
    else:
        assert type(raised) is type(error)
        assert str(raised) == str(error)


def test_a_publish_of_unknown_fate_says_the_key_to_try_it_again_with() -> None:
    error = PublishUnknownError("redis.internal went away", idempotency_key="mine")
    raised = protocol.error_of(protocol.error_answer(7, error), "mine")
    assert isinstance(raised, PublishUnknownError)
    assert raised.idempotency_key == "mine"


@pytest.mark.parametrize(
    "error",
    [
        BusUnavailableError("redis.internal:6379 refused user admin"),
        PublishUnknownError("redis.internal:6379 timed out", idempotency_key="k"),
        OSError("redis.internal:6379"),
    ],
)
def test_what_a_backend_said_is_not_told_to_clients(error: Exception) -> None:
    answer = protocol.error_answer(7, error)
    assert "redis" not in protocol.encode(answer)
    assert isinstance(protocol.error_of(answer), BusUnavailableError)
