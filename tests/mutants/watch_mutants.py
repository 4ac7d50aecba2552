"""Faults of receiving, closing and ending."""

from __future__ import annotations

from mutants.mutant import Mutant

TESTS = (
    "tests/core/test_watch.py",
    "tests/core/test_dispatcher.py",
    "tests/test_bad_input_library.py",
    "tests/test_conformance.py::test_memory",
)

WATCH = "_core/_watch.py"

# What `receive` and `__anext__` have: a turn where something waits, parking where nothing does.
COUNT = "                    self._turn -= 1\n"
CHECK = "                    await checkpoint_if_cancelled()\n"
TURN = f"""                if self._turn:
{COUNT}{CHECK}                else:
                    self._turn = _MESSAGES_A_TURN - 1
                    await checkpoint()
"""
PARK = """\
            elif self.synced and self._final_position is None and not self._source.ended:
                self._task = current_task()
                self._turn = _MESSAGES_A_TURN - 1
                await wait_task_rescheduled(self._abort)
                woken = True
            if self._buffer and self._task is None:
                return self._buffer.popleft()
"""
DISPATCHER = "_core/_dispatcher.py"
ABC = "abc.py"


def mutant(fault: str, file: str, text: str, replacement: str) -> Mutant:
    return Mutant(fault, file, text, replacement, TESTS)


MUTANTS = [
    # The watch
    mutant(
        "a waiting consumer is not woken by a message",
        WATCH,
        "            self._buffer.append(message)\n            if self._task is not None:\n"
        "                self.wake()\n",
        "            self._buffer.append(message)\n",
    ),
    mutant(
        "a second receiver takes the place of the first",
        WATCH,
        "        if self._task is not None:\n            raise trio.BusyResourceError(_BUSY)\n"
        "        self._task = current_task()\n",
        "        self._task = current_task()\n",
    ),
    mutant(
        "a second receiver takes a message from the first",
        WATCH,
        "        if self._task is not None:\n            raise trio.BusyResourceError(_BUSY)\n"
        "        if not self._buffer:\n",
        "        if not self._buffer:\n",
    ),
    mutant(
        "a cancelled wait leaves the watch busy",
        WATCH,
        "        self._task = None\n        return Abort.SUCCEEDED\n",
        "        return Abort.SUCCEEDED\n",
    ),
    mutant(
        "closing does not wake the consumer",
        WATCH,
        "            self._source.unregister(self)\n            self.wake()\n",
        "            self._source.unregister(self)\n",
    ),
    mutant(
        "a closed watch stays registered",
        WATCH,
        "            self._source.unregister(self)\n            self.wake()\n",
        "            self.wake()\n",
    ),
    mutant(
        "a closed watch still gives what waited",
        WATCH,
        "            self._buffer.clear()\n            self._source",
        "            self._source",
    ),
    mutant(
        "a closed watch waits for ever",
        WATCH,
        "        if self._final_position is not None:\n            raise trio.ClosedResource"
        'Error("this watch is closed")\n',
        "",
    ),
    mutant(
        "the position of a closed watch is lost",
        WATCH,
        "            self._final_position = self.position\n            self._buffer.clear()\n",
        "            self._buffer.clear()\n            self._final_position = self.position\n",
    ),
    mutant(
        "the position is past what waits",
        WATCH,
        "            return str(oldest._replace(sequence=oldest.sequence - 1))\n",
        "            return str(oldest)\n",
    ),
    mutant(
        "the position of a watch behind is the newest",
        DISPATCHER,
        "        if watch.synced:\n            return str(self.position)\n",
        "        if True:\n            return str(self.position)\n",
    ),
    mutant(
        "receiving yields to nobody",
        WATCH,
        f"{TURN}{PARK}        return await self._receive_slowly(woken)\n",
        f"{TURN.replace(COUNT, '')}{PARK}        return await self._receive_slowly(woken)\n",
    ),
    mutant(
        "iterating yields to nobody",
        WATCH,
        f"{TURN}{PARK}        try:\n",
        f"{TURN.replace(COUNT, '')}{PARK}        try:\n",
    ),
    mutant(
        "iterating is no cancellation point",
        WATCH,
        f"{TURN}{PARK}        try:\n",
        f"{TURN.replace(CHECK, '')}{PARK}        try:\n",
    ),
    Mutant(
        "a cancel hides why a bus failed",
        WATCH,
        "                woken = True\n            if self._buffer and self._task is None:\n"
        "                return self._buffer.popleft()\n        return",
        "            if self._buffer and self._task is None:\n"
        "                return self._buffer.popleft()\n        return",
        ("tests/core/test_watch.py",),
    ),
    mutant(
        "who waits for a bus that was closed waits for ever",
        WATCH,
        f"{PARK}        try:\n",
        f"{PARK.replace(' and not self._source.ended', '')}        try:\n",
    ),
    mutant(
        "who waits on a watch that was closed waits for ever",
        WATCH,
        f"{PARK}        return await self._receive_slowly(woken)\n",
        f"{PARK.replace(' and self._final_position is None', '')}"
        "        return await self._receive_slowly(woken)\n",
    ),
    mutant(
        "who iterates over a watch that is behind waits for ever",
        WATCH,
        f"{PARK}        try:\n",
        f"{PARK.replace('self.synced and ', '')}        try:\n",
    ),
    mutant(
        "a turn is of twice as many messages",
        WATCH,
        "_MESSAGES_A_TURN = 64\n",
        "_MESSAGES_A_TURN = 128\n",
    ),
    mutant(
        "a batch takes its first message before it can be cancelled",
        WATCH,
        """        if self._buffer:
            await checkpoint()
        if self._buffer and self._task is None:
            batch = [self._buffer.popleft()]
""",
        """        if self._buffer and self._task is None:
            batch = [self._buffer.popleft()]
            await checkpoint()
""",
    ),
    mutant(
        "a batch ignores how many were asked for",
        WATCH,
        "            count = min(count, max_messages - 1)\n",
        "            pass\n",
    ),
    mutant(
        "a batch has one message more than asked for",
        WATCH,
        "            count = min(count, max_messages - 1)\n",
        "            count = min(count, max_messages)\n",
    ),
    mutant(
        "drop_oldest drops what it does not count",
        WATCH,
        "                self._buffer.popleft()\n                self.dropped += 1\n",
        "                self._buffer.popleft()\n",
    ),
    mutant(
        "drop_newest drops what it does not count",
        WATCH,
        '        elif kind == "drop_newest":\n            self.dropped += 1\n',
        '        elif kind == "drop_newest":\n            pass\n',
    ),
    mutant(
        "latest keeps one of a key and a prefix of the same name",
        WATCH,
        "        place = (message.key, message.is_prefix)\n",
        "        place = (message.key, False)\n",
    ),
    mutant(
        "latest gives a key's newest message in the place of its oldest",
        WATCH,
        "        self._newest.move_to_end(place)\n",
        "",
    ),
    mutant(
        "latest holds the newest of any number of keys",
        WATCH,
        "            self._room = source.keys_bound\n",
        "            self._room = 10**9\n",
    ),
    # Ends
    mutant(
        "a bus that closes cuts off what was accepted",
        WATCH,
        "        if not self._buffer:\n            self._refill()\n",
        "        if self._source.ended:\n            raise self._source.ending()\n"
        "        if not self._buffer:\n            self._refill()\n",
    ),
    mutant(
        "a bus that closes cuts off what a watch behind has yet to read",
        WATCH,
        "        if not self.synced:\n            self._source.refill(self)\n",
        "        if not self.synced and not self._source.ended:\n"
        "            self._source.refill(self)\n        self.synced |= self._source.ended\n",
    ),
    mutant(
        "a bus that closes leaves its consumers waiting",
        DISPATCHER,
        "            self._failure = failure\n            for watch in self.watches:\n"
        "                watch.wake()\n",
        "            self._failure = failure\n",
    ),
    mutant(
        "a bus that failed looks closed",
        DISPATCHER,
        "        if self._failure is not None:\n",
        "        if False:\n",
    ),
    mutant(
        "a failure has no cause",
        "_errors.py",
        "    broken.__cause__ = failure\n",
        "",
    ),
    mutant(
        "leaving a watch does not close it",
        ABC,
        "        if self._watch is not None:\n            self._watch.close()\n",
        "        pass\n",
    ),
    mutant(
        "a watch that is left by an error stays",
        ABC,
        "        if self._watch is not None:\n            self._watch.close()\n",
        "        if self._watch is not None and exc_type is None:\n"
        "            self._watch.close()\n",
    ),
    mutant(
        "entering a watch twice opens two",
        ABC,
        "        if self._watch is not None:\n            raise RuntimeError",
        "        if False:\n            raise RuntimeError",
    ),
]
