"""A watch's history, looked up in steps."""

from __future__ import annotations

from heapq import merge
from itertools import islice

from trio.lowlevel import checkpoint

from .._errors import BusUnavailableError
from .._message import Message
from ._buffers import size_of
from ._dispatcher import Dispatcher
from ._values import Values, number_of
from ._watch import BufferedWatch

_PAGE = 1000
"""Keys whose history is looked up before other tasks run: about a millisecond."""


async def load_history(dispatcher: Dispatcher, values: Values, watch: BufferedWatch) -> None:
    """Put the history into `watch`, before what it gets from now on.

    More than some keys are looked up in steps. What comes meanwhile follows from the journal, or
    is told to be lost.

    Raises:
        BusUnavailableError: the buffers of all watches have no room for it.
    """
    newest = dispatcher.journal.last
    pages = values.pages(watch.request, _PAGE)
    found = [next(pages, [])]
    for page in pages:
        if len(found) == 1:
            watch.fall_behind(newest)
        found.append(page)
        await checkpoint()
    if len(found) == 1:
        _load(dispatcher, watch, found[0])
        return
    # A later page may have what came after the first.
    ordered = (message for message in merge(*found, key=number_of) if number_of(message) <= newest)
    while page := list(islice(ordered, _PAGE)):
        _load(dispatcher, watch, page)
        await checkpoint()
    if not watch.unread:
        watch.catch_up()


def _load(dispatcher: Dispatcher, watch: BufferedWatch, page: list[Message]) -> None:
    size = sum(map(size_of, page))
    if not dispatcher.budget.admits(size):
        raise BusUnavailableError(
            f"the buffers of all watches have no room for {size} bytes of history: consumers are"
            " slow, or buffers_bytes is too low"
        )
    if not watch.buffered and page:
        watch.load_history(page, dispatcher.before(page[0]))
    else:
        watch.load(page)
