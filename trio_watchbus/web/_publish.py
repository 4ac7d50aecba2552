"""``POST /publish``: one message, or a batch as NDJSON."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import final

import trio

from .._errors import WatchBusError
from .._keys import check_key, check_prefix
from .._message import check_data
from .._protocol import MalformedFrameError, RequestError, parse_publication
from ..abc import Publication, WatchBus
from ._answer import Answer, Refusal, json_answer
from ._budget import Budget
from ._options import WebOptions
from ._query import check_no_query, parse_publish_query
from ._request import Request

NDJSON = "application/x-ndjson"

_LINE_OVERHEAD = 64 * 1024
"""Bytes of a line, beside twice those of its data: for the key, the names of the fields, and the
quotes and newlines of data that is text."""

_STEP_SIZE = 64 * 1024
_STEP_LINES = 256
"""What is parsed before other tasks run: a millisecond or two."""

_BLANKS = re.compile(rb"\s*")


@final
class Publishing:
    """What ``POST /publish`` does.

    Args:
        bus: the bus that is published to.
        options: what is allowed.
        budget: counts the bytes of bodies.
    """

    def __init__(self, bus: WatchBus, options: WebOptions, budget: Budget) -> None:
        self._bus = bus
        self._options = options
        self._budget = budget

    async def publish(self, request: Request) -> Answer:
        """Publish what `request` asks for.

        Raises:
            Exception: one that `error_answer` answers.
        """
        bus = self._bus
        idempotency_key = request.headers.get("idempotency-key")
        # Headers are read as Latin-1: other bytes would be another text than the client meant.
        if idempotency_key is not None and not idempotency_key.isascii():
            raise Refusal(400, "invalid_key", "the header Idempotency-Key must be ASCII")
        if request.media_type == NDJSON:
            return await self._publish_batch(request, idempotency_key)
        name, is_prefix = parse_publish_query(request.query)
        publish = bus.publish_prefix if is_prefix else bus.publish
        with self._budget.hold() as hold:
            body = await request.read_body(bus.max_message_size, hold)
            message_id = await publish(name, bytes(body), idempotency_key=idempotency_key)
        return json_answer({"id": message_id})

    async def _publish_batch(self, request: Request, idempotency_key: str | None) -> Answer:
        check_no_query(
            request.query,
            "each line of a batch names its own key or prefix: leave the query of the URL empty;"
            f" or, for one message, send it without the type {NDJSON}",
        )
        with self._budget.hold() as hold:
            body = await request.read_body(self._options.max_batch_size, hold)
            batch = await parse_batch(
                body, self._options.max_batch_messages, self._bus.max_message_size
            )
            try:
                ids = await self._bus.publish_many(batch, idempotency_key=idempotency_key)
            except ValueError as error:
                if isinstance(error, WatchBusError):
                    raise
                # The lines are valid: it is a limit of the bus, or of the server behind it.
                raise Refusal(413, "batch_too_large", str(error)) from error
        return json_answer({"count": len(ids), "last_id": ids[-1] if ids else None})


async def parse_batch(
    body: bytes | bytearray, max_messages: int, max_message_size: int
) -> list[Publication]:
    """Return the messages that the lines of `body` give; empty lines give none.

    Other tasks run every few dozen kilobytes.

    Args:
        body: the lines.
        max_messages: messages that are allowed.
        max_message_size: bytes of data that each may have. A line may have twice as many and
            64 KiB.

    Raises:
        Refusal: a line is no message, and which one; or there are too many.
    """
    messages: list[Publication] = []
    step_end, step_lines = _STEP_SIZE, _STEP_LINES
    for number, start, end in _lines(body):
        if start > step_end or step_lines == 0:
            await trio.lowlevel.checkpoint()
            step_end, step_lines = end + _STEP_SIZE, _STEP_LINES
        step_lines -= 1
        if start == end:
            continue
        if len(messages) == max_messages:
            raise Refusal(
                413, "batch_too_large", f"a batch may have at most {max_messages} messages"
            )
        if end - start > 2 * max_message_size + _LINE_OVERHEAD:
            raise Refusal(
                413,
                "line_too_long",
                f"line {number}: a line may have at most {2 * max_message_size + _LINE_OVERHEAD}"
                " bytes",
            )
        try:
            messages.append(_message(bytes(body[start:end]), max_message_size))
        except RequestError as error:
            raise Refusal(400, "invalid_line", f"line {number}: {error.detail}") from None
        # Every error of keys, data and UTF-8 is a ValueError.
        except (MalformedFrameError, ValueError) as error:
            raise Refusal(400, "invalid_line", f"line {number}: {error}") from None
    await trio.lowlevel.checkpoint()
    return messages


def _lines(body: bytes | bytearray) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of each line that is not blank.

    A long run of blanks comes in pieces, each as an empty line, so that the caller can let other
    tasks run.
    """
    number, at = 1, 0
    while at < len(body):
        blanks = _BLANKS.match(body, at, at + _STEP_SIZE)
        assert blanks is not None
        if blanks.end() > at:
            number += body.count(b"\n", at, blanks.end())
            at = blanks.end()
            yield number, at, at
            continue
        end = body.find(b"\n", at)
        end = len(body) if end < 0 else end
        yield number, at, end
        number, at = number + 1, end + 1


def _message(line: bytes, max_message_size: int) -> Publication:
    name, data, is_prefix = parse_publication(line.decode()).item()
    (check_prefix if is_prefix else check_key)(name)
    return name, check_data(data, max_message_size), is_prefix
