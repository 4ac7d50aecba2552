"""Faults of the bus over Redis."""

from __future__ import annotations

from mutants.mutant import Mutant

READING = (
    "tests/redis_bus/test_joining.py",
    "tests/redis_bus/test_reading.py",
    "tests/redis_bus/test_layout.py",
    "tests/redis_bus/test_conformance.py::test_fake",
    "tests/redis_bus/test_faults_data.py",
)
FAILOVER = ("tests/redis_bus/test_faults_failover.py",)
PUBLISHING = (
    "tests/redis_bus/test_joining.py",
    "tests/redis_bus/test_publishing.py",
    "tests/redis_bus/test_refusals.py",
    "tests/redis_bus/test_conformance.py::test_fake",
)
WATCHING = (
    "tests/redis_bus/test_joining.py",
    "tests/redis_bus/test_index.py",
    "tests/redis_bus/test_leaving.py",
    "tests/redis_bus/test_conformance.py::test_fake",
    "tests/test_state_machine.py::test_fake_redis",
    "tests/test_cancel.py",
)

READER = "_redis/_reader.py"
LAYOUT = "_redis/_layout.py"
PUBLISHER = "_redis/_publisher.py"
LINE = "_redis/_line.py"
INDEX = "_redis/_index.py"
MIRROR = "_redis/_mirror.py"
BUS = "_redis/_bus.py"
OPEN = "_redis/_open.py"
PAST = "_redis/_past.py"
CONNECTION = "_redis/_connection.py"
SCRIPT = "_redis/_script.lua"

MUTANTS = [
    # Reading
    Mutant(
        "the log is read from its end as the server sees it when asked",
        READER,
        '"STREAMS", self._names.log, self._cursor)',
        '"STREAMS", self._names.log, "$" if block else self._cursor)',
        READING,
    ),
    Mutant(
        "the log is read from where its end is once the reader gets to it",
        READER,
        '        self._cursor = b"%d-0" % first\n',
        '        self._cursor = b"$"\n',
        READING,
    ),
    Mutant(
        "a message is handed on again where it was read last",
        READER,
        "        self._cursor = cursor\n        self._last",
        "        self._last",
        READING,
    ),
    Mutant(
        "a hole in the log goes unnoticed",
        READER,
        "            if first > expected:\n",
        "            if False:\n",
        READING,
    ),
    Mutant(
        "messages that are gone before they are read go unnoticed",
        READER,
        "        elif newest_before > dispatcher.journal.last:\n",
        "        elif False:\n",
        READING,
    ),
    Mutant(
        "a log that is behind what was read goes unnoticed",
        READER,
        "        if state.facts.newest < max(last, self._newest):\n",
        "        if False:\n",
        READING,
    ),
    Mutant(
        "a log that is behind what was to be read goes unnoticed by the reader",
        READER,
        "        if state.facts.newest < max(last, self._newest):\n",
        "        if state.facts.newest < last:\n",
        FAILOVER,
    ),
    Mutant(
        "what was acknowledged and is undone goes unnoticed by the publisher",
        SCRIPT,
        "  if 0 < done and done < answered and held.epoch == when then\n",
        "  if false then\n",
        FAILOVER,
    ),
    Mutant(
        "a log with another entry in the place of the last goes unnoticed",
        READER,
        "            return state.entry != self._last\n",
        "            return False\n",
        READING,
    ),
    Mutant(
        "a log that lost its last entry goes unnoticed",
        READER,
        "        return state.oldest is not None and state.oldest <= last\n",
        "        return False\n",
        READING,
    ),
    Mutant(
        "another epoch goes unnoticed when the reader looks",
        READER,
        "        if epoch != self.dispatcher.epoch:\n            self._lose(epoch, start, None)\n",
        "",
        READING,
    ),
    Mutant(
        "another epoch goes unnoticed while the reader reads",
        READER,
        "        if facts is None or facts.epoch != dispatcher.epoch:\n",
        "        if facts is None:\n",
        READING,
    ),
    Mutant(
        "the reader ends with its connection",
        READER,
        "                self.connected_since = None\n                self._link.disconnect()\n",
        "                return\n",
        READING,
    ),
    Mutant(
        "foreign entries are not counted",
        READER,
        "        self.skipped += page.skipped\n",
        "",
        READING,
    ),
    Mutant(
        "a foreign entry fails the reader",
        LAYOUT,
        "        except (ValueError, KeyError):\n            # Other",
        "        except KeyError:\n            # Other",
        READING,
    ),
    Mutant(
        "a message to a prefix comes back as one to a key",
        LAYOUT,
        '_IS_PREFIX = {b"k": False, b"p": True}',
        '_IS_PREFIX = {b"k": False, b"p": False}',
        READING,
    ),
    # Publishing
    Mutant(
        "what was not answered is stored again",
        PUBLISHER,
        "        if not again:\n            command: list",
        "        self._call += again\n        if True:\n            command: list",
        PUBLISHING,
    ),
    Mutant(
        "a publish of unknown fate looks as if it was not stored",
        PUBLISHER,
        "        if not self.sent or job not in self._group:\n",
        "        if True:\n",
        PUBLISHING,
    ),
    Mutant(
        "what became of a call that was given up is forgotten",
        PUBLISHER,
        "        self._unsettled = self._unsettled or self.sent\n",
        "        pass\n",
        PUBLISHING,
    ),
    Mutant(
        "all messages of a batch get the first one's id",
        PUBLISHER,
        "{int(number) + i}",
        "{int(number)}",
        PUBLISHING,
    ),
    Mutant(
        "a caller who left is answered",
        LINE,
        "            job.task = None\n            return Abort.SUCCEEDED\n",
        "            return Abort.SUCCEEDED\n",
        PUBLISHING,
    ),
    Mutant(
        "callers wait for ever",
        LINE,
        '                self._fail(job, BusUnavailableError(f"Redis gave no answer in'
        ' {self._timeout:g} s"))\n',
        "",
        PUBLISHING,
    ),
    Mutant(
        "what callers were told to be refused is sent later",
        LINE,
        "                group[:] = [job for job in group if job.task is not None]\n",
        "",
        PUBLISHING,
    ),
    Mutant(
        "callers whom Redis refused wait until they are late",
        LINE,
        "                        self._fail(job, refused(trouble))\n",
        "                        pass\n",
        PUBLISHING,
    ),
    Mutant(
        "a retry is stored again under one idempotency key",
        SCRIPT,
        "  local got = pcall('GET', IDEMPOTENCY .. idempotency_key)\n",
        "  local got = nil\n",
        PUBLISHING,
    ),
    Mutant(
        "what somebody else wrote under the name of an idempotency key is taken for an id",
        SCRIPT,
        "    return '!WRONGTYPE'\n  end\n  if got then\n",
        "  end\n  if got then\n",
        PUBLISHING,
    ),
    Mutant(
        "a call sent twice is done twice",
        SCRIPT,
        "  if done == number then\n    return reply\n  end\n",
        "",
        PUBLISHING,
    ),
    Mutant(
        "a call that was given up is done late",
        SCRIPT,
        "  if done > number then\n",
        "  if false then\n",
        PUBLISHING,
    ),
    Mutant(
        "what a call that was given up has done is forgotten with the next call",
        SCRIPT,
        "  if unsettled == '1' then\n",
        "  if false then\n",
        PUBLISHING,
    ),
    Mutant(
        "a call that was given up is done although another published the same again",
        SCRIPT,
        "    call('SET', PUBLISHER .. publisher, whole(number) .. ' ', 'PX', remember)\n",
        "",
        PUBLISHING,
    ),
    Mutant(
        "idempotency keys are remembered for ever",
        SCRIPT,
        "IDEMPOTENCY .. idempotency_key, result, 'PX', remember)",
        "IDEMPOTENCY .. idempotency_key, result)",
        PUBLISHING,
    ),
    Mutant(
        "numbering starts below what is left of the log",
        SCRIPT,
        "        last = tonumber(string.match(info[i + 1], '^%d+'))\n",
        "        last = 0\n",
        (*PUBLISHING, *READING),
    ),
    Mutant(
        "the log is never trimmed",
        SCRIPT,
        "  if trimmed then\n",
        "  if false then\n",
        (*PUBLISHING, *READING),
    ),
    Mutant(
        "the log is trimmed below what is to be kept",
        SCRIPT,
        "      (newer < bounds.messages or (newer < bounds.messages * BURST and old < GRACE))\n",
        "      newer < bounds.messages / 2\n",
        (*PUBLISHING, *READING),
    ),
    Mutant(
        "the keys of which messages are kept are not bounded",
        SCRIPT,
        "  if kept > keys_bound then\n",
        "  if false then\n",
        PUBLISHING,
    ),
    Mutant(
        "numbering starts below what is kept of a key",
        SCRIPT,
        "    last = math.max(last, tonumber(newest[2]))\n",
        "",
        (*PUBLISHING, *READING),
    ),
    Mutant(
        "the stream of a key grows where one message is to be kept",
        SCRIPT,
        "      call('DEL', unpack(streams))\n",
        "",
        PUBLISHING,
    ),
    Mutant(
        "the one message kept of a key is the first of a batch",
        SCRIPT,
        "      datas[key] = data\n",
        "      datas[key] = datas[key] or data\n",
        PUBLISHING,
    ),
    Mutant(
        "of a large batch some keys are not kept",
        SCRIPT,
        "  for first = 1, #keys, 500 do\n",
        "  for first = 1, math.min(#keys, 500), 500 do\n",
        PUBLISHING,
    ),
    Mutant(
        "a key of which nothing is kept any more keeps its name",
        SCRIPT,
        "    call('ZREM', NAMES, evicted[i])\n",
        "",
        PUBLISHING,
    ),
    Mutant(
        "of a key nothing is kept after its newest message has another numbering",
        SCRIPT,
        "        if added.err then\n",
        "        if false then\n",
        (*PUBLISHING, *READING),
    ),
    Mutant(
        "a publish is half done where one key's stream is no stream",
        SCRIPT,
        "          if kind ~= 'none' and kind ~= 'stream' then\n",
        "          if false then\n",
        PUBLISHING,
    ),
    # Watching
    Mutant(
        "a key leaves the index while another process watches it",
        SCRIPT,
        "  if not watched_elsewhere(key, process) then\n",
        "  if true then\n",
        WATCHING,
    ),
    Mutant(
        "a key leaves the index while another watch of the process is on it",
        INDEX,
        "            if not self._watches[key]:\n",
        "            if True:\n",
        WATCHING,
    ),
    Mutant(
        "a key that is left stays in the index",
        INDEX,
        "            self._changed.add(key)\n        self._stir.set()\n",
        "        self._stir.set()\n",
        WATCHING,
    ),
    Mutant(
        "the keys of a process that is gone stay in the index",
        SCRIPT,
        "call('ZRANGEBYSCORE', PROCESSES, '-inf', whole(now))) do\n    forget(process)\n",
        "call('ZRANGEBYSCORE', PROCESSES, '-inf', whole(now))) do\n",
        WATCHING,
    ),
    Mutant(
        "a process does not say that it leaves",
        BUS,
        "                await self._index.say_farewell()\n",
        "                pass\n",
        WATCHING,
    ),
    Mutant(
        "watched keys take the prefix for a pattern",
        BUS,
        "for member in members if member.startswith(start))",
        "for member in members if __import__('fnmatch').fnmatch(member, start + b'*'))",
        WATCHING,
    ),
    Mutant(
        "a watch gets what was accepted before it",
        BUS,
        "            while not await self._reader.reach(facts):\n",
        "            while False:\n",
        WATCHING,
    ),
    Mutant(
        "what came while older messages were read is lost",
        MIRROR,
        "        if unread:\n",
        "        if False:\n",
        WATCHING,
    ),
    Mutant(
        "what came while history was read jumps the queue",
        BUS,
        "        watch.fall_behind(mirror.journal.last)\n        try:\n",
        "        try:\n",
        WATCHING,
    ),
    Mutant(
        "a watch whose history cannot be read stays registered",
        BUS,
        "            mirror.withdraw(watch)\n            raise\n",
        "            raise\n",
        WATCHING,
    ),
    Mutant(
        "of more keys under a prefix than are asked for at once some have no history",
        PAST,
        "            if len(page) < _PAGE:\n",
        "            if True:\n",
        WATCHING,
    ),
    Mutant(
        "history of another epoch is given",
        BUS,
        "        if watch.epoch != mirror.epoch:\n",
        "        if False:\n",
        WATCHING,
    ),
    Mutant(
        "a log with a hole is resumed from",
        PAST,
        "            if not runs or runs[0][0] != number + 1:\n",
        "            if not runs:\n",
        (*WATCHING, *READING),
    ),
    Mutant(
        "a refused watch stays in the index",
        BUS,
        "            self._index.leave(request.keys)\n            raise\n",
        "            raise\n",
        WATCHING,
    ),
    # Leaving
    Mutant(
        "a bus that is left keeps its connections",
        OPEN,
        "        for link in bus._links:\n            link.disconnect()\n",
        "        pass\n",
        WATCHING,
    ),
    Mutant(
        "a bus that is closed goes on working",
        OPEN,
        "            bus._stop()\n            nursery.cancel_scope.cancel()\n",
        "            nursery.cancel_scope.cancel()\n",
        WATCHING,
    ),
]
