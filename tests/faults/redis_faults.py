"""Faults of the bus over Redis: of its script, its reader, its publisher and its index."""

from __future__ import annotations

from faults.fault import Fault, LuaFault, drop, replace

JOINING = ("tests/redis_bus/test_joining.py",)
READING = (*JOINING, "tests/redis_bus/test_reading.py")
RESTING = ("tests/redis_bus/test_resting.py",)
PUBLISHING = ("tests/redis_bus/test_publishing.py", "tests/redis_bus/test_refusals.py")
INDEX = ("tests/redis_bus/test_index.py", "tests/redis_bus/test_conformance.py::test_fake")
LEAVING = ("tests/redis_bus/test_leaving.py",)
RESTART = ("tests/redis_bus/test_faults_restart.py",)
CANCELLING = ("tests/test_cancel.py::test_a_bus_over_a_fake_redis",)

FAULTS: list[Fault | LuaFault] = [
    # Reading
    Fault(
        "what is published between opening and the first read is lost",
        "_redis._reader.Reader.start",
        replace("b'%d-0' % start.sequence", "b'$'"),
        READING,
    ),
    Fault(
        "a hole in the log goes unnoticed",
        "_redis._reader.Reader._follows",
        replace("self._lose(run.before, missed)", "self._lose(run.before, 0)"),
        READING,
    ),
    Fault(
        "the position of the bus goes back when an idle reader starts again",
        "_redis._reader.Reader.newest",
        replace("heard is not None and heard.epoch == handed_on.epoch", "False"),
        RESTING,
    ),
    LuaFault(
        "a log that lost its newest entry is taken for the same history",
        "has_nonce",
        "'-', 'COUNT', 1)[1] then return false",
        "'-', 'COUNT', 1)[1] then return nil",
        READING,
    ),
    LuaFault(
        "a process that knows nothing of the log vouches for it after a restart",
        "operations.state",
        "local vouched = false",
        "local vouched = true",
        RESTART,
    ),
    LuaFault(
        "a new epoch begins below the numbers that are kept of keys",
        "last_number",
        "math.max(last, tonumber(newest[2] or 0))",
        "last",
        (*PUBLISHING, *READING),
    ),
    Fault(
        "a message is not compared with the one that it names as the one before",
        "_redis._reader.Reader._follows",
        replace("last == run.before", "last.sequence == run.before.sequence"),
        READING,
    ),
    Fault(
        "a watch resumes across another message than the one at its position",
        "Past.older",
        drop("if runs[0].before != last:\n    ..."),
        READING,
    ),
    Fault(
        "a process does not vouch with what it stored and has not read",
        "_redis._reader.Reader.state_command",
        replace("_texts(...)", "_texts(handed_on, self._heard_of)"),
        RESTART,
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
        "answered_before",
        "if done == request.number then return reply end",
        "",
        PUBLISHING,
    ),
    LuaFault(
        "a call that was given up is done after another published the same again",
        "published_before",
        "remember(tombstone(publisher, name), '', lasting, milliseconds())",
        "",
        PUBLISHING,
    ),
    Fault(
        "what became of a call of unknown fate is forgotten with the next call",
        "Publisher.unanswered",
        drop("self._told = True"),
        PUBLISHING,
    ),
    Fault(
        "a publish that Redis refused counts as one of unknown fate",
        "Pipeline._send",
        replace("self._move(BatchEvent.REFUSE)", "self._move(BatchEvent.LOSE)"),
        PUBLISHING,
    ),
    Fault(
        "a publish of a caller who left before it was sent is sent all the same",
        "Pipeline._send",
        drop("batch[:] = [each for each in batch if each.task is not None]"),
        PUBLISHING,
    ),
    Fault(
        "a new batch begins with the shortest pause while Redis is away",
        "Pipeline.run",
        replace("await self._carry(...)", "self._backoff.reset()\nawait self._carry(self._batch)"),
        ("tests/redis_bus/test_connections.py",),
    ),
    Fault(
        "a call that is sent again has the nonce that it had",
        "Publisher.compose",
        replace("token_hex(4)", "self._name[:8]"),
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
        "uncount",
        "call('HINCRBY', COUNTS, key, -1) <= 0",
        "call('HINCRBY', COUNTS, key, -1) <= 1",
        INDEX,
    ),
    LuaFault(
        "the keys of a process that is gone stay in the index",
        "sweep",
        "uncount(key)",
        "",
        INDEX,
    ),
    LuaFault(
        "the keys of a process that is gone are counted down in each run",
        "sweep",
        "call('SPOP', own, budget)",
        "call('SRANDMEMBER', own, budget)",
        INDEX,
    ),
    LuaFault(
        "a key is counted twice when a process tells it twice",
        "index_key",
        "call('SADD', own, key) == 1",
        "call('SADD', own, key)",
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
]
