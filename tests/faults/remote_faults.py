"""Faults of ``watchbus.v1``: of the session that serves it and of the bus that speaks it."""

from __future__ import annotations

from faults.fault import Fault, drop, replace

SESSION = ("tests/remote/test_session.py",)
FEED = ("tests/remote/test_feed.py",)
RECONNECTING = (*FEED, "tests/remote/test_reconnecting.py")
CALLS = ("tests/remote/test_calls.py", "tests/remote/test_reconnecting.py")
OPENING = ("tests/remote/test_opening.py",)
PAUSES = ("tests/remote/test_hostile.py",)

FAULTS = [
    # The session
    Fault(
        "a watch whose window was shut sleeps on when its client asks for more",
        "ServedWatch.grant",
        drop("self._more.set()"),
        SESSION,
    ),
    Fault(
        "a watch whose window is shut cannot be closed",
        "ServedWatch.close",
        drop("self._more.set()"),
        SESSION,
    ),
    Fault(
        "messages that came with a loss are lost with it",
        "take_waiting",
        replace("return loss", "del messages[1:]\nreturn loss"),
        SESSION,
    ),
    Fault(
        "messages before a loss are sent with the position after it",
        "ServedWatch._pass_on",
        replace("messages[-1].id if loss is not None else watch.position", "watch.position"),
        SESSION,
    ),
    # The bus
    Fault(
        "a watch resumes from what its consumer received, and what waited comes twice",
        "Feed.opening",
        replace(
            "request.after if self.resume is None else self.resume",
            "request.after if self.resume is None else self.watch.position",
        ),
        RECONNECTING,
    ),
    Fault(
        "half a history from before a cut comes too",
        "Feed.opening",
        drop("self._history.clear()"),
        RECONNECTING,
    ),
    Fault(
        "a watch resumes from before a loss, and is told of it again",
        "Feed.lose",
        drop("self._advance(loss.position)"),
        RECONNECTING,
    ),
    Fault(
        "a bookmark that goes back is believed",
        "Feed.take_position",
        drop("_check_order(...)"),
        FEED,
    ),
    Fault(
        "a publish that broke off counts as one that reached nobody",
        "_Call.leave",
        drop("self.reached = True"),
        CALLS,
    ),
    Fault(
        "a publish that is sent again is another one",
        "_key_of_publish",
        replace("token_hex(16)", "None"),
        CALLS,
    ),
    Fault(
        "a server that no longer answers is waited for",
        "Link._monitor",
        replace("patience.cancelled_caught", "False"),
        CALLS,
    ),
    Fault(
        "a frame that is too long is a loss for every watch of the connection",
        "Feeds.skip",
        replace(
            "feed.skip_to(position)",
            "for each in self._feeds.values():\n"
            "    each.skip_to(position if each is feed else each.resume)",
        ),
        OPENING,
    ),
    Fault(
        "a server that fails right after each greeting is asked again without a pause",
        "RemoteWatchBus._connect",
        replace("self._progressed = False", "self._progressed = True"),
        PAUSES,
    ),
]
