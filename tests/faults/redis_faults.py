"""Faults of the bus over Redis: of its script, its reader, its publisher and its index."""

from __future__ import annotations

from faults.fault import Fault, LuaFault, drop, replace, swap

JOINING = ("tests/redis_bus/test_joining.py",)
READING = (*JOINING, "tests/redis_bus/test_reading.py")
RESTING = ("tests/redis_bus/test_resting.py",)
PUBLISHING = ("tests/redis_bus/test_publishing.py", "tests/redis_bus/test_refusals.py")
INDEX = ("tests/redis_bus/test_index.py", "tests/redis_bus/test_conformance.py::test_fake")
LEAVING = ("tests/redis_bus/test_leaving.py",)
RESTART = ("tests/redis_bus/test_faults_restart.py",)
FAILOVER = ("tests/redis_bus/test_faults_failover.py",)
CANCELLING = ("tests/test_cancel.py::test_a_bus_over_a_fake_redis",)

FAULTS: list[Fault | LuaFault] = [
    # Reading
    Fault(
        "what is published between opening and the first read is lost",
        "_redis._reader.Reader.start",
        replace("b'%d-0' % facts.start", "b'$'"),
        READING,
    ),
    Fault(
        "a hole in the log goes unnoticed",
        "_redis._reader.Reader._hand_on",
        replace("first > expected", "False"),
        READING,
    ),
    Fault(
        "whoever needs the log waits until an idle reader's rest is over",
        "_redis._reader.Reader.awake",
        drop("self._wake.set()"),
        RESTING,
    ),
    Fault(
        "the position of the bus goes back when an idle reader starts again",
        "_redis._reader.Reader.newest",
        replace("position._replace(...)", "position"),
        RESTING,
    ),
    Fault(
        "a failover that undid what the reader had only heard of goes unnoticed",
        "_redis._reader.Reader._what_is_so",
        replace(
            "dict.fromkeys((self._handed_on, self._heard_of))", "dict.fromkeys((self._handed_on,))"
        ),
        FAILOVER,
    ),
    LuaFault(
        "a log that lost its newest entry is taken for the same history",
        "check_receipt",
        "same = found or not newest",
        "same = found or not newest or newest[1] ~= number .. '-0'",
        READING,
    ),
    LuaFault(
        "a process that knows nothing of the log vouches for it after a restart",
        "state",
        "local vouched = false",
        "local vouched = true",
        RESTART,
    ),
    LuaFault(
        "a new epoch begins below the numbers that are kept of keys",
        "begin",
        "last = math.max(last, tonumber(newest[2]))",
        "",
        (*PUBLISHING, *READING),
    ),
    # Joining
    Fault(
        "a watch gets what was accepted before it was opened",
        "RedisWatchBus._register",
        replace("not await self._reader.reach(facts)", "False"),
        JOINING,
    ),
    Fault(
        "what comes while history is read overtakes it",
        "RedisWatchBus._register_with_history",
        drop("watch.fall_behind(mirror.journal.last)"),
        JOINING,
    ),
    Fault(
        "a watch whose history cannot be read stays registered",
        "RedisWatchBus._register_with_history",
        replace("mirror.withdraw(watch)\nraise", "raise"),
        JOINING,
    ),
    # Publishing
    LuaFault(
        "a call that is sent twice is done twice",
        "publish",
        "if done == number then return reply end",
        "",
        PUBLISHING,
    ),
    LuaFault(
        "a call that was given up is done after another published the same again",
        "published_before",
        "call('SET', given_up(publisher, name), '', 'PX', remember)",
        "",
        PUBLISHING,
    ),
    LuaFault(
        "the log is trimmed below what is to be kept",
        "trim",
        "(newer < bounds.messages or (newer < bounds.messages * BURST and old < GRACE))",
        "newer < bounds.messages / 2",
        (*PUBLISHING, *READING),
    ),
    Fault(
        "what became of a call of unknown fate is forgotten with the next call",
        "Publisher.unanswered",
        drop("self._told = True"),
        PUBLISHING,
    ),
    Fault(
        "a caller who was cancelled is answered",
        "Line._wait_for.abort",
        drop("job.task = None"),
        PUBLISHING,
    ),
    Fault(
        "a publish that is refused for good counts as sent, and so as of unknown fate",
        "Line._retry",
        swap("self.sent = sent_before", "if isinstance(trouble, HopelessError):\n    ..."),
        PUBLISHING,
    ),
    # The index
    Fault(
        "a key leaves the index while another watch of the process is on it",
        "_redis._index.Index.leave",
        replace("self._watches[key] > 1", "False"),
        INDEX,
    ),
    LuaFault(
        "a key leaves the index while another process watches it",
        "unwatch",
        "if not watched_elsewhere(key, process) then",
        "if true then",
        INDEX,
    ),
    LuaFault(
        "the keys of a process that is gone stay in the index",
        "sweep",
        "forget(process)",
        "",
        INDEX,
    ),
    Fault(
        "a watch that is refused leaves its keys in the index",
        "RedisWatchBus.open_watch",
        replace("self._index.leave(request.keys)\nraise", "raise"),
        (*JOINING, *INDEX, *LEAVING),
    ),
    # Leaving
    Fault(
        "a cancel cuts the farewell short",
        "RedisWatchBus._leave",
        replace(
            "trio.move_on_after(_FAREWELL_SECONDS, shield=True)",
            "trio.move_on_after(_FAREWELL_SECONDS)",
        ),
        CANCELLING,
    ),
    Fault(
        "a bus that is left keeps its connections",
        "_redis._open._opened",
        drop("for link in bus._links:\n    ..."),
        LEAVING,
    ),
]
