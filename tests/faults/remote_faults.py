"""Faults of ``watchbus.v1``: of the session that serves it and of the bus that speaks it."""

from __future__ import annotations

from faults.fault import Fault, drop, replace

SESSION = ("tests/remote/test_session.py",)
FEED = ("tests/remote/test_feed.py",)
RECONNECTING = (*FEED, "tests/remote/test_reconnecting.py")
CALLS = ("tests/remote/test_calls.py", "tests/remote/test_reconnecting.py")
LINES = ("tests/test_protocol.py",)

FAULTS = [
    # What is written
    Fault(
        "a field that comes twice is not seen on a line of a batch",
        "parse_publication",
        replace("text.count('\"') == _QUOTES_OF_TWO", "True"),
        LINES,
    ),
    # The session
    Fault(
        "a watch whose window was shut sleeps on when its client asks for more",
        "_ServedWatch.grant",
        drop("self.more.set()"),
        SESSION,
    ),
    Fault(
        "a watch whose window is shut cannot be closed",
        "_ServedWatch.close",
        drop("self.more.set()"),
        SESSION,
    ),
    Fault(
        "messages that came with a loss are lost with it",
        "_take_waiting",
        replace("return messages, loss", "return messages[:1], loss"),
        SESSION,
    ),
    Fault(
        "messages before a loss are sent with the position after it",
        "_Session._pass_on",
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
        "a request that was sent over a broken connection is not sent again",
        "Calls.connect",
        drop("for call in self._calls.values():\n    ..."),
        CALLS,
    ),
    Fault(
        "a publish that broke off counts as one that reached nobody",
        "_Call.leave",
        drop("self.reached = True"),
        CALLS,
    ),
    Fault(
        "a publish that is sent again is another one",
        "_name_of_publish",
        replace("token_hex(16)", "None"),
        CALLS,
    ),
    Fault(
        "a server that no longer answers is waited for",
        "Link._watch_over",
        replace("patience.cancelled_caught", "False"),
        CALLS,
    ),
]
