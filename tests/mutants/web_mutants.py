"""Faults of what is served."""

from __future__ import annotations

from mutants.mutant import Mutant

STREAMS = (
    "tests/web/test_sse_text.py",
    "tests/test_fuzz.py",
    "tests/e2e/test_sse.py",
    "tests/e2e/test_reference.py",
    "tests/e2e/test_bad_input_http.py",
)
SOCKETS = (
    "tests/web",
    "tests/e2e/test_websocket.py",
    "tests/e2e/test_reference.py",
    "tests/e2e/test_bad_input_websocket.py",
)
REQUESTS = (
    "tests/web",
    "tests/test_fuzz.py",
    "tests/e2e/test_publish.py",
    "tests/e2e/test_bad_input_http.py",
)
PROTOCOL = (
    "tests/test_protocol.py",
    "tests/remote/test_session.py",
    "tests/remote/test_feed.py",
    "tests/remote/test_conformance.py::test_two_clients",
)
SSE = "web/_sse.py"
STREAM = "web/_stream.py"
QUERY = "web/_query.py"
BATCH = "web/_batch.py"
ACCESS = "web/_access.py"
RAW = "web/_raw.py"
CONNECTION = "web/_connection.py"
REQUEST = "_protocol/_requests.py"

MUTANTS = [
    # Streams of events
    Mutant(
        "a newline in the data begins another field",
        SSE,
        '    if b"\\n" in data or b"\\r" in data:\n',
        "    if False:\n",
        STREAMS,
    ),
    Mutant(
        "a carriage return in the data begins another field",
        SSE,
        r'rb"\r\n|\n|\r"',
        r'rb"\r\n|\n"',
        STREAMS,
    ),
    Mutant(
        "data that is not UTF-8 goes as it is",
        SSE,
        "    if as_text(data) is None:\n",
        "    if False:\n",
        STREAMS,
    ),
    Mutant(
        "a client that comes back before any message does not know from where",
        STREAM,
        "        self._opening = opening(self._position(), _retry()) + gap\n",
        '        self._opening = b"retry: 1000\\n\\n" + gap\n',
        STREAMS,
    ),
    Mutant(
        "a client that comes back too late is told nothing",
        STREAM,
        "                gap = gap_event(lost.reason, None, self._position())\n",
        "",
        STREAMS,
    ),
    Mutant(
        "a loss ends a stream without a word",
        STREAM,
        "            return gap_event(lagged.reason, lagged.missed, lagged.position)\n",
        "            raise StopAsyncIteration from None\n",
        STREAMS,
    ),
    Mutant(
        "a watch is not freed after its client left",
        STREAM,
        "        if self._opened is not None:\n            await self._opened.__aexit__",
        "        if False:\n            await self._opened.__aexit__",
        STREAMS,
    ),
    Mutant(
        "a bookmark of an idle stream says where the last message was",
        STREAM,
        "            return bookmark(self._watch.position)\n        except",
        '            return b": idle\\n\\n"\n        except',
        STREAMS,
    ),
    Mutant(
        "a client that is cut amid the history resumes from a message of it",
        STREAM,
        "                event = at_position(event, self._position())\n",
        "",
        STREAMS,
    ),
    Mutant(
        "a drain leaves the streams alone",
        STREAM,
        "            if self._drain.begun.is_set():\n",
        "            if False:\n",
        (*STREAMS, "tests/e2e/test_drain.py"),
    ),
    # Requests
    Mutant(
        "the header Last-Event-ID does not win over the URL",
        QUERY,
        "    if last_event_id:\n",
        "    if last_event_id and after is None:\n",
        (*STREAMS, *REQUESTS),
    ),
    Mutant(
        "a percent sign without digits is let in",
        QUERY,
        "    if _BARE_PERCENT.search(quoted):\n",
        "    if False:\n",
        REQUESTS,
    ),
    Mutant(
        "what is not UTF-8 becomes another key",
        QUERY,
        '.replace(b"+", b" ")).decode()',
        '.replace(b"+", b" ")).decode(errors="replace")',
        REQUESTS,
    ),
    Mutant(
        "a batch with a bad line is published in part",
        BATCH,
        '                raise Refusal(400, "invalid_line", f"line {number}: {error}") from None\n',
        "                continue\n",
        REQUESTS,
    ),
    Mutant(
        "duplicate fields are taken",
        REQUEST,
        "    if len(found) != len(pairs):\n",
        "    if False:\n",
        (*REQUESTS, *PROTOCOL),
    ),
    Mutant(
        "the foreign page of another host is served",
        ACCESS,
        "        if name not in self._hosts and (server is None or name != server[0]):\n",
        "        if False:\n",
        (*REQUESTS, *SOCKETS),
    ),
    Mutant(
        "a page of another origin is served",
        ACCESS,
        "        if origin is not None and not self._is_same(origin, host):\n",
        "        if False:\n",
        (*REQUESTS, *SOCKETS),
    ),
    # WebSockets
    Mutant(
        "a client that leaves a plain WebSocket goes unnoticed",
        RAW,
        "        nursery.start_soon(_discard_inbound, connection)\n",
        "",
        SOCKETS,
    ),
    Mutant(
        "an empty binary frame ends the connection",
        CONNECTION,
        '        if message is None:\n            return b""\n',
        "        assert message is not None\n",
        (*SOCKETS, *PROTOCOL),
    ),
    Mutant(
        "a message that is too long is taken",
        CONNECTION,
        "        if len(message) > self._max_size:\n",
        "        if False:\n",
        (*SOCKETS, *PROTOCOL),
    ),
    Mutant(
        "sending never yields",
        CONNECTION,
        "        # Without a client, or with one that takes it all, sending is over at once.\n"
        "        await trio.lowlevel.checkpoint()\n",
        "",
        SOCKETS,
    ),
]
