"""What a request to publish does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import final

from ..abc import WatchBus
from ._answer import Answer, json_answer
from ._batch import MEDIA_TYPE, parse_batch
from ._options import WebOptions
from ._query import check_no_query, parse_publish_query
from ._refusal import Refusal


@final
class Publishing:
    """What ``POST /publish`` does.

    Args:
        bus: the bus that is published to.
        options: what is allowed.
    """

    def __init__(self, bus: WatchBus, options: WebOptions) -> None:
        self._bus = bus
        self._options = options

    def max_size(self, media_type: str) -> int:
        """Return the bytes that a body of this type may have."""
        if media_type == MEDIA_TYPE:
            return self._options.max_batch_size
        return self._bus.max_message_size

    async def publish(
        self,
        media_type: str,
        query: bytes,
        idempotency_key: str | None,
        read_body: Callable[[], Awaitable[bytes]],
    ) -> Answer:
        """Publish what a request asks for.

        Args:
            media_type: of the body, in lower case and without parameters.
            query: as it stands in the URL.
            idempotency_key: the header of that name, if any.
            read_body: reads the body.

        Raises:
            Exception: one that `error_answer` answers.
        """
        bus = self._bus
        # What reads headers takes other bytes for another text than the client meant.
        if idempotency_key is not None and not idempotency_key.isascii():
            raise Refusal(400, "invalid_key", "the header Idempotency-Key must be ASCII")
        if media_type == MEDIA_TYPE:
            check_no_query(
                query,
                "each line of a batch names its own key or prefix: leave the query of the URL"
                f" empty; or, for one message, send it without the type {MEDIA_TYPE}",
            )
            body = await read_body()
            batch = parse_batch(body, self._options.max_batch_messages, bus.max_message_size)
            ids = await bus.publish_many(batch, idempotency_key=idempotency_key)
            return json_answer({"count": len(ids), "last_id": ids[-1] if ids else None})
        name, is_prefix = parse_publish_query(query)
        body = await read_body()
        publish = bus.publish_prefix if is_prefix else bus.publish
        return json_answer({"id": await publish(name, body, idempotency_key=idempotency_key)})
