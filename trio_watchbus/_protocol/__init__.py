"""The grammar of ``watchbus.v1``: frames of JSON text, parsed and built, without input or output.

A *request* goes from client to server, an *answer* from server to client; both are objects whose
``op`` names their kind. Text that is no frame raises `MalformedFrameError` and ends the
connection. A request that cannot be done is answered by `Error`, and the connection goes on.
"""

from __future__ import annotations

from ._answers import (
    Answer,
    Bookmark,
    End,
    Error,
    Hello,
    Lagged,
    LatestMessage,
    Messages,
    Pong,
    Published,
    SkippedFrame,
    Unwatched,
    WatchedKeySet,
    Watching,
    WireMessage,
    encode_message,
    encode_messages,
    parse_answer,
    parse_skipped,
)
from ._common import (
    MAX_HISTORY,
    REQUESTS_AT_ONCE,
    SUBPROTOCOL,
    CloseCode,
    MalformedFrameError,
    encode,
)
from ._errors import RequestError, error_answer, error_of
from ._requests import (
    Latest,
    More,
    Ping,
    Publication,
    Publish,
    PublishMany,
    Request,
    Unwatch,
    Watch,
    WatchedKeys,
    parse_publication,
    parse_request,
    publication_fields,
)

__all__ = [
    "Answer",
    "Bookmark",
    "CloseCode",
    "End",
    "Error",
    "Hello",
    "Lagged",
    "Latest",
    "LatestMessage",
    "MAX_HISTORY",
    "MalformedFrameError",
    "Messages",
    "More",
    "Ping",
    "Pong",
    "Publication",
    "Publish",
    "PublishMany",
    "Published",
    "REQUESTS_AT_ONCE",
    "Request",
    "RequestError",
    "SUBPROTOCOL",
    "SkippedFrame",
    "Unwatch",
    "Unwatched",
    "Watch",
    "WatchedKeySet",
    "WatchedKeys",
    "Watching",
    "WireMessage",
    "encode",
    "encode_message",
    "encode_messages",
    "error_answer",
    "error_of",
    "parse_answer",
    "parse_publication",
    "parse_request",
    "parse_skipped",
    "publication_fields",
]
