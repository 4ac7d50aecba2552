"""A batch of messages as NDJSON: a JSON object on each line, decoded strictly."""

from __future__ import annotations

from .._keys import check_key, check_prefix
from .._message import check_data
from .._protocol import MalformedFrameError, RequestError, parse_publication
from ..abc import Publication
from ._refusal import Refusal

MEDIA_TYPE = "application/x-ndjson"


def parse_batch(body: bytes, max_messages: int, max_message_size: int) -> list[Publication]:
    """Return the messages that the lines of `body` say; empty lines say none.

    Args:
        body: the lines.
        max_messages: messages that are allowed.
        max_message_size: bytes of data that each may have.

    Raises:
        Refusal: a line is no message, and which; or there are too many.
    """
    messages: list[Publication] = []
    for number, line in enumerate(body.split(b"\n"), 1):
        if line and not line.isspace():
            if len(messages) == max_messages:
                raise Refusal(
                    413, "batch_too_large", f"a batch may have at most {max_messages} messages"
                )
            try:
                messages.append(_message(line, max_message_size))
            except RequestError as error:
                raise Refusal(400, "invalid_line", f"line {number}: {error.detail}") from None
            # Every error of keys, data and UTF-8 is a ValueError.
            except (MalformedFrameError, ValueError) as error:
                raise Refusal(400, "invalid_line", f"line {number}: {error}") from None
    return messages


def _message(line: bytes, max_message_size: int) -> Publication:
    name, data, is_prefix = parse_publication(line.decode()).item()
    (check_prefix if is_prefix else check_key)(name)
    return name, check_data(data, max_message_size), is_prefix
