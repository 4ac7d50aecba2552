"""The first loop of a connection: plain requests, without hypercorn.

Hypercorn takes most of the time of a request to publish, and of the memory of an idle stream. So a
connection begins here. A request that is whole and plain beyond doubt is served by the handlers of
the application; the first one that is anything else hands the connection, with the bytes read so
far, to hypercorn for good. Plain is a subset of HTTP that every parser reads alike: one regular
expression, and none of the headers that change how a message is framed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import closing
from email.utils import formatdate
from http import HTTPStatus
from typing import final

import trio

from ._answer import Answer, Refusal
from ._app import App, Streaming
from ._budget import Hold
from ._client import ClientStream
from ._ends import Ends
from ._request import Request

_MAX_HEAD = 16 * 1024
"""Bytes of a head: beyond, hypercorn decides."""

_HEAD = re.compile(
    rb"(?:(POST) (/publish)|(GET) (/sse|/healthz|/readyz))(?:\?([!-~]*+))?+ HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]++: ?+[ -~]*+\r\n)++)\r\n"
)
_HEADER = re.compile(rb"([^:]++): ?+([^\r]*+)\r\n")

_LENGTH = re.compile(r"0|[1-9][0-9]{0,7}")

_NOT_PLAIN = frozenset(
    {"expect", "http2-settings", "keep-alive", "proxy-connection", "te", "trailer"}
    | {"transfer-encoding", "upgrade"}
)
"""Headers that change how a message is framed, or what follows it."""

_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode())
    for status in HTTPStatus
}

Log = Callable[[str, str, str, int, float], None]
"""Logs a request: the client's address, method, path, status, seconds."""


@final
class PlainBody:
    """A body that has arrived whole."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def read(self, limit: int, hold: Hold) -> bytes:
        """As `Request.read_body`; not a checkpoint."""
        if len(self.data) > limit:
            raise Refusal(413, "body_too_large", f"the body may have at most {limit} bytes")
        hold.add(len(self.data))
        return self.data


def parse_plain(data: bytes, client: ClientStream) -> tuple[Request, bytes] | None:
    """Return the request that `data` begins with and what follows it; None if it is not plain."""
    found = _HEAD.match(data, 0, _MAX_HEAD)
    if found is None:
        return None
    post, post_path, get, get_path, query, lines = found.groups()
    pairs = _HEADER.findall(lines)
    headers = {name.decode().lower(): value.strip(b" ").decode() for name, value in pairs}
    # Repeated headers are ambiguous.
    if len(headers) < len(pairs) or not _NOT_PLAIN.isdisjoint(headers) or "host" not in headers:
        return None
    # What HTTP/1.1 does anyway, and most clients say.
    if headers.get("connection", "keep-alive").lower() != "keep-alive":
        return None
    end = found.end()
    length = headers.get("content-length")
    if length is None:
        # A POST without a length has no body, but not every parser thinks so.
        if post is not None:
            return None
    else:
        if post is None or _LENGTH.fullmatch(length) is None or len(data) - end < int(length):
            return None
        end += int(length)
    body = PlainBody(data[found.end() : end])
    request = Request(
        (post or get).decode(),
        (post_path or get_path).decode(),
        query or b"",
        headers,
        client.server,
        "1.1",
        body.read,
    )
    return request, data[end:]


async def serve_plain(
    client: ClientStream, app: App, ends: Ends, keep_alive: float, log: Log | None
) -> bytes | None:
    """Serve plain requests; return the bytes of the first that is not, or None at the end.

    Args:
        client: the connection.
        app: the application.
        ends: notices when the client of a stream leaves.
        keep_alive: seconds that the connection may idle between requests.
        log: logs each request, if given.

    Raises:
        trio.BrokenResourceError: the client is gone.
    """
    while True:
        data = b""
        with app.drain.interrupting(keep_alive):
            data = await client.receive_first()
        if not data:
            return None
        while data:
            plain = parse_plain(data, client)
            if plain is None:
                return data
            request, data = plain
            started = trio.current_time()
            # A stream keeps what is local here for as long as it is open.
            del plain
            result = await app.answer(request)
            status = 200 if isinstance(result, Streaming) else result.status
            last = app.drain.begun.is_set()
            try:
                if isinstance(result, Streaming):
                    await _send_stream(client, ends, result)
                    return None
                await client.send(_response(result, last=last))
            finally:
                if log is not None:
                    seconds = trio.current_time() - started
                    log(client.address, request.method, request.path, status, seconds)
            if last:
                return None
            if data:
                await trio.lowlevel.checkpoint()


async def _send_stream(client: ClientStream, ends: Ends, streaming: Streaming) -> None:
    headers, stream = streaming
    with closing(stream), ends.watching(client, stream.ask_client):
        first = await anext(stream)
        head = _head(200, headers) + b"transfer-encoding: chunked\r\n\r\n"
        await client.send(b"%b%x\r\n%b\r\n" % (head, len(first), first))
        del first, head, headers, streaming
        await stream.send_all(client.send_chunk)
        await client.send(b"0\r\n\r\n")


def _response(answer: Answer, *, last: bool) -> bytes:
    body = answer.body or b""
    end = b"connection: close\r\n" if last else b""
    head = _head(answer.status, answer.headers)
    return b"%bcontent-length: %d\r\n%b\r\n%b" % (head, len(body), end, body)


def _head(status: int, headers: dict[str, str]) -> bytes:
    """Return the status line and headers as hypercorn sends them, without the last empty line."""
    lines = "".join([f"{name.lower()}: {value}\r\n" for name, value in headers.items()])
    return b"%b%bdate: %b\r\n" % (_STATUS_LINES[status], lines.encode("latin-1"), _date())


_last_date: tuple[int, bytes] = (0, b"")


def _date() -> bytes:
    """Return the header ``Date`` of now."""
    global _last_date  # noqa: PLW0603, it changes once a second
    now = int(time.time())
    if _last_date[0] != now:
        _last_date = now, formatdate(now, usegmt=True).encode()
    return _last_date[1]
