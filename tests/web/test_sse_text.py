"""The text of a stream of events, read back by parsers that are not ours."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable

import httpx
import httpx_sse
from hypothesis import given
from hypothesis import strategies as st

from trio_watchbus import Message
from trio_watchbus.web._sse import (
    bookmark,
    end_event,
    gap_event,
    json_event,
    opening,
    raw_event,
)

DATA = st.binary() | st.text(alphabet=st.characters(codec="utf-8")).map(str.encode)
LINES = st.lists(st.sampled_from([b"a", b" b", b":", b"data: c", b"\n", b"\r", b"\r\n"]))
KEYS = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1)
MESSAGES = st.builds(
    Message,
    KEYS,
    DATA | LINES.map(b"".join),
    st.integers(min_value=1).map("epoch-{}".format),
    st.floats(min_value=0, max_value=4e9),
    st.booleans(),
)

Read = list[tuple[str, str, str]]
"""Events as a client gets them: id, type and data."""


def read_with_httpx(text: bytes) -> Read:
    response = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=text)
    return [
        (event.id, event.event, event.data) for event in httpx_sse.EventSource(response).iter_sse()
    ]


def read_by_the_standard(text: bytes) -> Read:
    """Read as the HTML standard says, to the letter."""
    events: Read = []
    last_id = event_type = ""
    data: list[str] = []
    for line in re.split("\r\n|\n|\r", text.decode())[:-1]:
        if not line:
            if data:
                events.append((last_id, event_type or "message", "\n".join(data)))
            event_type, data = "", []
        elif not line.startswith(":"):
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "data":
                data.append(value)
            elif field == "event":
                event_type = value
            elif field == "id" and "\0" not in value:
                last_id = value
    return events


READERS: list[Callable[[bytes], Read]] = [read_with_httpx, read_by_the_standard]


@given(st.lists(MESSAGES))
def test_raw_events_carry_any_data(messages: list[Message]) -> None:
    """Text comes as it was but for its line ends, other data in base64; each with its id."""
    text = b"".join(map(raw_event, messages))
    expected = []
    for message in messages:
        try:
            data = re.sub("\r\n|\r", "\n", message.data.decode())
            expected.append((message.id, "message", data))
        except UnicodeDecodeError:
            expected.append((message.id, "base64", base64.b64encode(message.data).decode()))
    assert read_by_the_standard(text) == expected
    assert [event for event in read_with_httpx(text) if event[2]] == [
        event for event in expected if event[2]
    ]


@given(st.lists(MESSAGES))
def test_json_events_carry_everything(messages: list[Message]) -> None:
    """Key, data to the byte, id, time, and whether it went to a prefix."""
    text = b"".join(map(json_event, messages))
    for read in READERS:
        events = read(text)
        assert [event[:2] for event in events] == [(m.id, "message") for m in messages]
        for (_, _, data), message in zip(events, messages, strict=True):
            fields = json.loads(data)
            if "data" in fields:
                content = fields.pop("data").encode()
            else:
                content = base64.b64decode(fields.pop("data_base64"), validate=True)
            assert content == message.data
            assert fields.pop("prefix", False) is message.is_prefix
            assert fields == {"key": message.key, "id": message.id, "time": message.time}


def test_what_is_no_message() -> None:
    """An opening and a bookmark are not seen, but resumed from; a gap and an end are events."""
    message = Message("a", b"1", "e-9", 0.0)
    text = (
        opening("e-1", 1000)
        + bookmark("e-2")
        + gap_event("trimmed", 3, "e-7")
        + bookmark("e-8")
        + raw_event(message)
        + end_event("shutdown", 2000)
    )
    for read in READERS:
        # httpx-sse shows bookmarks too, as events without data.
        assert [event for event in read(text) if event[2]] == [
            ("e-7", "gap", '{"reason":"trimmed","missed":3}'),
            ("e-9", "message", "1"),
            ("e-9", "end", '{"reason":"shutdown"}'),
        ]
    assert re.findall(rb"^retry: (\d+)$", text, re.MULTILINE) == [b"1000", b"2000"]
