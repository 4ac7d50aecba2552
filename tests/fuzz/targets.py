"""What is fuzzed: each target takes any bytes, and raises where a parser or encoder does wrong.

Doing wrong is to raise an error that is not its own, to take what is not valid, or to say something
else than it was given.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import parse_qsl

import trio

from trio_watchbus import InvalidKeyError, InvalidPositionError, Message
from trio_watchbus._core._trie import PrefixTrie
from trio_watchbus._keys import check_key, check_prefix
from trio_watchbus._message import MAX_MESSAGE_SIZE, Position
from trio_watchbus._protocol import (
    MalformedFrameError,
    RequestError,
    encode,
    parse_answer,
    parse_publication,
    parse_request,
)
from trio_watchbus._redis._layout import read_log, read_stream
from trio_watchbus.web._answer import Refusal
from trio_watchbus.web._publish import parse_batch
from trio_watchbus.web._query import parse_publish_query, parse_stream_query
from trio_watchbus.web._sse import json_event, raw_event

Target = Callable[[bytes], None]


class Event(NamedTuple):
    """An event as a browser hands it on."""

    last_id: str
    kind: str
    data: str


def parse_events(stream: str) -> Iterator[Event]:
    """Parse a stream of events, by the letter of the standard."""
    last_id, kind = "", ""
    lines: list[str] = []
    for line in stream.replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if lines:
                yield Event(last_id, kind or "message", "\n".join(lines))
            kind, lines = "", []
        elif field == "id":
            if "\0" not in value:
                last_id = value
        elif field == "event":
            kind = value
        elif field == "data":
            lines.append(value)


def sse(data: bytes) -> None:
    """A message is one event, whatever its data has in it, followed by whatever."""
    message = Message("key\u2028", data, "e-7", 1.5, len(data) % 2 == 1)
    following = Message("next", b"next", "e-8", 2.5)
    stream = (raw_event(message) + raw_event(following)).decode()
    (first, second) = parse_events(stream)
    assert (first.last_id, second) == ("e-7", Event("e-8", "message", "next"))
    if first.kind == "base64":
        assert b64decode(first.data, validate=True) == data
    else:
        assert first.kind == "message"
        assert first.data == data.decode().replace("\r\n", "\n").replace("\r", "\n")

    (event, second) = parse_events((json_event(message) + json_event(following)).decode())
    assert second.last_id == "e-8"
    fields = json.loads(event.data)
    told = fields["data"].encode() if "data" in fields else b64decode(fields["data_base64"])
    assert (told, fields["key"], fields["id"]) == (data, message.key, message.id)
    assert fields.get("prefix", False) == message.is_prefix


def request(data: bytes) -> None:
    """A client's frame is a request that is written so again, or refused."""
    with suppress(UnicodeDecodeError, MalformedFrameError, RequestError):
        parsed = parse_request(data.decode())
        try:
            again = encode(parsed)
        except UnicodeEncodeError:
            # A lone surrogate can be written in JSON only as an escape; the bus refuses it.
            assert re.search(rb"\\u[dD][89a-fA-F]", data)
            return
        assert parse_request(again) == parsed


def answer(data: bytes) -> None:
    """A server's frame is an answer that is written so again, or refused."""
    with suppress(UnicodeDecodeError, MalformedFrameError):
        parsed = parse_answer(data.decode())
        assert parsed is None or parse_answer(encode(parsed)) == parsed


def publication(data: bytes) -> None:
    """A line of a batch says what Python's own parser reads in it, or is refused."""
    try:
        text = data.decode()
        name, content, is_prefix = parse_publication(text).item()
    except (UnicodeDecodeError, MalformedFrameError, RequestError, ValueError):
        return
    fields = json.loads(text)
    assert name == fields["prefix" if is_prefix else "key"]
    if fields.get("data") is not None:
        assert content == fields["data"].encode()
    else:
        assert content == b64decode(fields["data_base64"])


def batch(data: bytes) -> None:
    """A batch is refused with the line named, or each of its messages can be published."""
    try:
        messages = trio.run(parse_batch, data, 10, MAX_MESSAGE_SIZE)
    except Refusal as refusal:
        if (refusal.status, "line" in refusal.detail) not in ((400, True), (413, False)):
            raise
        return
    for name, content, *prefix in messages:
        (check_prefix if any(prefix) else check_key)(name)
        assert isinstance(content, bytes)


def position(data: bytes) -> None:
    """A position is written back as it was, or refused."""
    text = data.decode(errors="surrogateescape")
    with suppress(InvalidPositionError):
        assert str(Position.parse(text)) == text


def key(data: bytes) -> None:
    """A key can be encoded, is of its length and has no control character, or is refused."""
    text = data.decode(errors="surrogateescape")
    with suppress(InvalidKeyError):
        assert 1 <= len(check_key(text).encode()) <= 512
        assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in text)


def query(data: bytes) -> None:
    """A query is refused, or says what another parser reads in it, but for what that makes up."""
    with suppress(Refusal, InvalidKeyError, InvalidPositionError):
        parsed = parse_stream_query(data, None, 5)
        # Byte by byte, as bytes that are not escaped are taken too.
        pairs = parse_qsl(data.decode("latin1"), keep_blank_values=True, encoding="latin1")
        for found, wanted in ((parsed.keys, "key"), (parsed.prefixes, "prefix")):
            assert found == [v.encode("latin1").decode() for name, v in pairs if name == wanted]
        assert 1 <= len(parsed.keys) + len(parsed.prefixes) <= 5
        assert parsed.after is None or not parsed.history
        for name in parsed.keys:
            check_key(name)
    with suppress(Refusal, InvalidKeyError):
        name, is_prefix = parse_publish_query(data)
        (check_prefix if is_prefix else check_key)(name)


def entries(data: bytes) -> None:
    """Entries of a log are handed on as messages or passed over, whatever they hold."""
    fields = data.split(b",")
    log = [(b"%d-0" % number, fields[number % 7 :]) for number in range(1, 5)]
    known = [b"k", b"key", b"d", data, b"t", b"1", b"n", fields[0], b"a", fields[-1]]
    log += [(b"%d-%d" % (len(data), len(fields)), known)]
    page = read_log(log, "e")
    messages = [message for run in page.runs for message in run.messages]
    assert len(messages) + page.skipped == len(log)
    for before, run in page.runs:
        for number, message in enumerate(run, before.sequence + 1):
            position = Position.parse(message.id)
            assert (position.epoch, position.sequence) == ("e", number)
    for message in read_stream("key", log):
        Position.parse(message.id)


def trie(data: bytes) -> None:
    """A trie holds what a dict holds, and nothing at the end."""
    held: PrefixTrie[int] = PrefixTrie()
    model: dict[str, int] = {}
    for part in data.decode(errors="replace").split("\n"):
        adds, string = part[:1] != "-", part[1:]
        if adds:
            held.add(string, 1)
            model[string] = 1
        else:
            assert held.remove(string, 1) == (model.pop(string, None) is not None)
        assert sorted(held.strings(string[:2])) == sorted(
            other for other in model if other.startswith(string[:2])
        )
    for string in model:
        assert held.remove(string, 1)
    assert held.nodes == 0


TARGETS: dict[str, Target] = {
    "sse": sse,
    "request": request,
    "answer": answer,
    "publication": publication,
    "batch": batch,
    "position": position,
    "key": key,
    "query": query,
    "entries": entries,
    "trie": trie,
}

SEEDS: dict[str, list[bytes]] = {
    "sse": [b"a\r\nb\rc\n\nid: x\ndata: y", b"\xff\xfe", b"", b"\0", "\ufeff\u2028".encode()],
    "request": [
        b'{"op":"watch","id":1,"key":"a","after":"e-1","overflow":"latest"}',
        b'{"op":"watch","id":1,"keys":["a"],"prefixes":[""],"history":2}',
        b'{"op":"publish","id":2,"prefix":"a","data_base64":"AA=="}',
        b'{"op":"publish_many","id":3,"messages":[{"key":"a","data":"b"}]}',
        b'{"op":"watched_keys","id":5,"prefix":"a"}',
        b'{"op":"ping"}',
    ],
    "answer": [
        b'{"op":"watching","id":1,"position":"e-1"}',
        b'{"op":"messages","id":1,"messages":[{"key":"a","id":"e-1","time":1,"data":""}],"position":"e"}',
        b'{"op":"lagged","id":1,"missed":null,"position":"e-1","reason":"epoch"}',
        b'{"op":"error","id":1,"code":"c","detail":"d"}',
        b'{"op":"published","id":2,"message_ids":["e-1"]}',
    ],
    "publication": [b'{"key":"a","data":"b"}', b'{"prefix":"","data_base64":"AA=="}'],
    "batch": [b'{"key":"a","data":"b"}\n\n{"prefix":"","data_base64":"AA=="}\r\n', b'{"key":1}'],
    "position": [b"e-1", b"0123456789ab-18446744073709551615", b"e-0", b"e-01"],
    "key": [b"orders/42", b"\xc3\xa9", b"\xed\xa0\x80", b"\x7f", b"a" * 513],
    "query": [b"key=a&prefix=b&history=1&format=json", b"key=%C3%A9+b&after=e-1", b"key=%", b"x"],
    "entries": [b"k,key,d,data,t,1500", b"p,,d,,t,0", b"e,e,data,x,t,1", b"1-0"],
    "trie": [b"+abc\n+abd\n+ab\n-abc\n+", b"+a\n-b\n-a"],
}
"""Examples of each target's input, which a fuzzer starts from."""
