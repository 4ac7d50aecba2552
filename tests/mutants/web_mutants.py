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
LOSS = "web/_watches.py"
QUERY = "web/_query.py"
BATCH = "web/_publish.py"
ACCESS = "web/_access.py"
OPTIONS = "web/_options.py"
RAW = "web/_raw.py"
PLAIN = "web/_connection.py"
ROUTES = "web/_app.py"
ANSWER = "web/_answer.py"
HYPERCORN = "web/_hypercorn.py"
SERVER = "web/_server.py"
SERVE = "_cli/_serve.py"
CONNECTION = "web/_websocket.py"
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
        "        begin = opening(position, _retry()) + gap\n",
        '        begin = b"retry: 1000\\n\\n" + gap\n',
        STREAMS,
    ),
    Mutant(
        "a client that comes back too late is told nothing",
        STREAM,
        'b"" if lost is None else gap_event(',
        'b"" if True else gap_event(',
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
        "        self._watch.close()\n",
        "        pass\n",
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
        "at_position(event, None if history else self._watch.position)",
        "event",
        STREAMS,
    ),
    Mutant(
        "a drain leaves the streams alone",
        STREAM,
        "            if self._drain.begun.is_set():\n",
        "            if False:\n",
        (*STREAMS, "tests/e2e/test_drain.py"),
    ),
    Mutant(
        "a stream says at first that it is where the bus is, with messages yet to come",
        STREAM,
        "        begin = opening(position, _retry()) + gap\n",
        "        begin = opening(bus.position, _retry()) + gap\n",
        ("tests/test_cancel.py::test_a_served_request",),
    ),
    Mutant(
        "a gap amid a stream says not where it goes on",
        STREAM,
        "gap_event(lagged.reason, lagged.missed, lagged.position)",
        "gap_event(lagged.reason, lagged.missed, None)",
        ("tests/web/test_stream.py",),
    ),
    Mutant(
        "a client from a numbering yet to come gets what it knows",
        LOSS,
        '        if lost.reason != "future":\n',
        "        if True:\n",
        ("tests/web/test_stream.py",),
    ),
    Mutant(
        "who resumes from a position that is lost again meanwhile is refused",
        LOSS,
        "            with suppress(HistoryLostError):\n",
        "            with suppress(KeyError):\n",
        ("tests/web/test_stream.py",),
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
        '            raise Refusal(400, "invalid_line", f"line {number}: {error}") from None\n',
        "            continue\n",
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
        "        if host is None or not (\n",
        "        assert host is not None\n        if False and not (\n",
        (*REQUESTS, *SOCKETS),
    ),
    Mutant(
        "a host that no request can name is taken",
        OPTIONS,
        "            if not _is_host(host):\n",
        "            if False:\n",
        ("tests/web/test_options.py",),
    ),
    Mutant(
        "an address in brackets is allowed and never recognised",
        ACCESS,
        'plain_host(host.strip("[]"))',
        "host.lower()",
        ("tests/e2e/test_access.py",),
    ),
    Mutant(
        "each of two workers has a bus in memory, if its scheme is in capitals",
        SERVE,
        'bus_url.lower().startswith("memory:")',
        'bus_url.startswith("memory:")',
        ("tests/cli/test_serve.py::test_bad_options",),
    ),
    Mutant(
        "a page of another origin is served",
        ACCESS,
        "        if origin is None or not (origin.is_of(host) or origin in self._origins):\n",
        "        if False:\n",
        (*REQUESTS, *SOCKETS),
    ),
    Mutant(
        "a header that comes twice is read another way than by the framework",
        PLAIN,
        "len(headers) < len(pairs) or ",
        "",
        ("tests/e2e/test_shorter_ways.py",),
    ),
    Mutant(
        "a body that does not come is waited for",
        "web/_asgi.py",
        "        with trio.move_on_after(BODY_SECONDS):\n",
        "        with trio.move_on_after(1e9):\n",
        ("tests/e2e/test_publish.py",),
    ),
    Mutant(
        "what follows an ambiguous body is served",
        ROUTES,
        '            {"Connection": "close"},\n',
        "",
        ("tests/e2e/test_bad_input_http.py",),
    ),
    Mutant(
        "an answer of 503 says not when to try again",
        ANSWER,
        "    if refusal.status in (429, 503):\n",
        "    if False:\n",
        ("tests/e2e/test_redis_down.py",),
    ),
    Mutant(
        "a connection too many is answered without a word of JSON",
        ANSWER,
        '    return "\\r\\n".join([*lines, "", ""]).encode() + body\n',
        '    return "\\r\\n".join([*lines, "", ""]).encode()\n',
        ("tests/e2e/test_limits.py",),
    ),
    Mutant(
        "each answer says what serves it",
        HYPERCORN,
        "    config.include_server_header = False\n",
        "    config.include_server_header = True\n",
        ("tests/e2e/test_bad_input_http.py",),
    ),
    Mutant(
        "a connection that published a thousand times is closed",
        HYPERCORN,
        "    config.keep_alive_max_requests = sys.maxsize\n",
        "",
        ("tests/e2e/test_publish.py",),
    ),
    Mutant(
        "a client that does not read keeps the server from ending after its grace",
        SERVER,
        "                    with trio.move_on_after(options.grace):\n",
        "                    with trio.move_on_after(options.grace + 60):\n",
        ("tests/e2e/test_drain.py",),
    ),
    Mutant(
        "addresses that are gone are remembered",
        SERVER,
        "                del self._admitted[address]\n",
        "                pass\n",
        ("tests/e2e/test_limits.py",),
    ),
    Mutant(
        "a TLS handshake may take a quarter of an hour",
        HYPERCORN,
        "_HANDSHAKE_SECONDS = 10.0\n",
        "_HANDSHAKE_SECONDS = 1000.0\n",
        ("tests/web/test_hypercorn.py",),
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
        "frames before the answer to their handshake are answered, and then the handshake is too",
        HYPERCORN,
        "        if not self._stream.handshake.accepted:\n",
        "        if False:\n",
        ("tests/e2e/test_bad_input_websocket.py",),
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
    Mutant(
        "a bus that failed closes as if it was closed",
        RAW,
        'CloseCode.FAULT, "the bus failed"',
        'CloseCode.DRAIN, "the bus failed"',
        ("tests/e2e/test_websocket.py",),
    ),
    Mutant(
        "a client that answers no ping is kept for minutes",
        HYPERCORN,
        "_PONG_SECONDS = 5.0\n",
        "_PONG_SECONDS = 500.0\n",
        ("tests/web/test_hypercorn.py",),
    ),
]
