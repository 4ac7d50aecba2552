"""Faults of who gets a message, and of what is replayed and told as lost."""

from __future__ import annotations

from mutants.mutant import Mutant

TESTS = (
    "tests/core/test_dispatcher.py",
    "tests/core/test_watch.py",
    "tests/test_state_machine.py::TestMemory",
    "tests/test_conformance.py::test_memory",
)

WATCH = "_core/_watch.py"
DISPATCHER = "_core/_dispatcher.py"
REQUEST = "_request.py"


def mutant(fault: str, file: str, text: str, replacement: str) -> Mutant:
    return Mutant(fault, file, text, replacement, TESTS)


MUTANTS = [
    # Who gets a message
    mutant(
        "whom a key's message reaches twice gets it twice",
        DISPATCHER,
        "dict.fromkeys(chain(self.keys.at(key)",
        "list(chain(self.keys.at(key)",
    ),
    mutant(
        "a watch on a prefix gets a prefix's message once for each way that leads to it",
        DISPATCHER,
        "        return dict.fromkeys(\n",
        "        return list(\n",
    ),
    mutant(
        "a prefix's message misses the watches on longer prefixes",
        DISPATCHER,
        "self.keys.under(prefix), self.prefixes.under(prefix), self.prefixes.covering(prefix)",
        "self.keys.under(prefix), self.prefixes.covering(prefix)",
    ),
    mutant(
        "a prefix's message misses the watches on shorter prefixes",
        DISPATCHER,
        "self.keys.under(prefix), self.prefixes.under(prefix), self.prefixes.covering(prefix)",
        "self.keys.under(prefix), self.prefixes.under(prefix)",
    ),
    mutant(
        "a prefix's message misses the watches on keys",
        DISPATCHER,
        "self.keys.under(prefix), self.prefixes.under(prefix), self.prefixes.covering(prefix)",
        "self.prefixes.under(prefix), self.prefixes.covering(prefix)",
    ),
    mutant(
        "a new watch on a key published to before gets nothing",
        DISPATCHER,
        "            self.keys.add(key, watch)\n            self.routes.pop(key, None)\n",
        "            self.keys.add(key, watch)\n",
    ),
    mutant(
        "a new watch on a prefix gets nothing of keys published to before",
        DISPATCHER,
        "            self.prefixes.add(prefix, watch)\n            self.routes.clear()\n",
        "            self.prefixes.add(prefix, watch)\n",
    ),
    mutant(
        "a watch on a key that was left is still fed",
        DISPATCHER,
        "            self.keys.remove(key, watch)\n            self.routes.pop(key, None)\n",
        "            self.keys.remove(key, watch)\n",
    ),
    mutant(
        "a watch on a prefix that was left is still fed",
        DISPATCHER,
        "            self.prefixes.remove(prefix, watch)\n            self.routes.clear()\n",
        "            self.prefixes.remove(prefix, watch)\n",
    ),
    mutant(
        "the routes kept are not bounded",
        DISPATCHER,
        "        if len(self.routes) >= _ROUTES_BOUND:\n",
        "        if False:\n",
    ),
    mutant(
        "a watch that was left is still counted",
        DISPATCHER,
        "        self.watches.discard(watch)\n",
        "",
    ),
    mutant(
        "replay takes keys for patterns",
        REQUEST,
        "            return key in self.keys or key.startswith(self.prefixes)\n        return (",
        """            from fnmatch import fnmatchcase

            return any(fnmatchcase(key, k) for k in self.keys) or key.startswith(self.prefixes)
        return (""",
    ),
    mutant(
        "replay misses a prefix's message to the watches on longer prefixes",
        REQUEST,
        "            or any(name.startswith(key) for name in self.prefixes)\n",
        "",
    ),
    mutant(
        "replay misses a prefix's message to the watches on shorter prefixes",
        REQUEST,
        "            key.startswith(self.prefixes)\n            or any(name",
        "            any(name",
    ),
    mutant(
        "replay gives a watch on one key no message to a prefix",
        REQUEST,
        "if message.key == key or (message.is_prefix and key.startswith(message.key))",
        "if message.key == key",
    ),
    mutant(
        "replay takes a key's message for one to a prefix",
        REQUEST,
        "if message.key == key or (message.is_prefix and key.startswith(message.key))",
        "if key.startswith(message.key)",
    ),
    mutant(
        "history of a prefix watch gives other keys too",
        REQUEST,
        "        return key in self.keys or key.startswith(self.prefixes)\n\n\ndef",
        "        return True\n\n\ndef",
    ),
    # Resuming, epochs, and the hand-over from replay to live
    mutant(
        "a position of another epoch is resumed from",
        DISPATCHER,
        "        if after.epoch != self.epoch:\n",
        "        if False:\n",
    ),
    mutant(
        "a position in the future is resumed from",
        DISPATCHER,
        "        if after.sequence > self.journal.last:\n",
        "        if False:\n",
    ),
    mutant(
        "the newest position counts as in the future",
        DISPATCHER,
        "        if after.sequence > self.journal.last:\n",
        "        if after.sequence >= self.journal.last:\n",
    ),
    mutant(
        "a trimmed position is resumed from",
        DISPATCHER,
        "        if after.sequence < self.oldest.sequence:\n            raise",
        "        if False:\n            raise",
    ),
    mutant(
        "a position just trimmed is resumed from",
        DISPATCHER,
        "        if after.sequence < self.oldest.sequence:\n            raise",
        "        if after.sequence < self.oldest.sequence - 1:\n            raise",
    ),
    mutant(
        "the oldest position held counts as trimmed",
        DISPATCHER,
        "        if after.sequence < self.oldest.sequence:\n            raise",
        "        if after.sequence <= self.oldest.sequence:\n            raise",
    ),
    mutant(
        "a refused watch stays registered",
        DISPATCHER,
        """        if after is not None:
            self.check(after)
        watch = BufferedWatch(self, request, self.epoch)
""",
        """        watch = BufferedWatch(self, request, self.epoch)
        self.watches.add(watch)
        if after is not None:
            self.check(after)
""",
    ),
    mutant(
        "what a watch finds to replay is miscounted, and it goes live too early",
        DISPATCHER,
        "            watch.unread = len(request.select(self.journal.since(after.sequence)))\n",
        "            watch.unread = min(\n"
        "                request.buffer_size,\n"
        "                len(request.select(self.journal.since(after.sequence))),\n"
        "            )\n",
    ),
    mutant(
        "a watch that replays forgets to go live",
        DISPATCHER,
        "        if not watch.unread:\n            watch.catch_up()\n",
        "",
    ),
    mutant(
        "a watch goes live with the first refill",
        DISPATCHER,
        "        if not watch.unread:\n            watch.catch_up()\n",
        "        watch.catch_up()\n",
    ),
    mutant(
        "what comes while a watch is behind is not counted",
        WATCH,
        "        if not self.synced:\n            self.unread += 1\n        elif",
        "        if not self.synced:\n            pass\n        elif",
    ),
    mutant(
        "what comes while a watch is behind jumps the queue",
        WATCH,
        "        if not self.synced:\n            self.unread += 1\n        elif",
        "        if not self.synced and len(self._buffer) >= self._room:\n"
        "            self.unread += 1\n        elif",
    ),
    mutant(
        "the message that overflows a buffer is lost",
        WATCH,
        "            self.fall_behind(Position.parse(message.id).sequence - 1)\n",
        "            self.fall_behind(Position.parse(message.id).sequence)\n",
    ),
    mutant(
        "a refill takes more than the buffer's size",
        DISPATCHER,
        "            wanted = min(wanted, request.buffer_size)\n",
        "            pass\n",
    ),
    mutant(
        "a refill skips what it found beyond the buffer's size",
        DISPATCHER,
        "            cursor = Position.parse(taken[-1].id).sequence\n",
        "            pass\n",
    ),
    mutant(
        "a refill reads a page of the journal twice",
        DISPATCHER,
        "            cursor += len(page)\n",
        "            cursor += max(1, len(page) - 1)\n",
    ),
    mutant(
        "a small buffer bounds what a watch that keeps the latest may skip",
        DISPATCHER,
        '        if request.overflow != "latest":\n',
        "        if True:\n",
    ),
    mutant(
        "a watch that has yet to be told of a rewrite says it is in the new epoch",
        DISPATCHER,
        "        return str(Position(watch.epoch, watch.cursor))\n",
        "        return str(Position(self.epoch, watch.cursor))\n",
    ),
    # Losses
    mutant(
        "a watch drops where its buffer is full",
        WATCH,
        "            self.fall_behind(Position.parse(message.id).sequence - 1)\n"
        "            self.unread = 1\n",
        "            self.dropped += 1\n",
    ),
    mutant(
        "a watch that lagged goes on and tells nobody",
        DISPATCHER,
        "        if missed and told:\n",
        "        if False:\n",
    ),
    mutant(
        "a watch that missed nothing is told of a loss",
        DISPATCHER,
        "        if missed and told:\n",
        "        if told:\n",
    ),
    mutant(
        "a loss is told as one more",
        DISPATCHER,
        "        missed = watch.unread - held\n",
        "        missed = watch.unread - held + bool(watch.unread - held)\n",
    ),
    mutant(
        "a loss is told again and again",
        DISPATCHER,
        "        watch.epoch, watch.cursor = self.oldest\n",
        "        watch.epoch = self.epoch\n",
    ),
    mutant(
        "a watch that asked to drop is told of the journal's losses",
        DISPATCHER,
        '        told = watch.gap or watch.request.overflow == "replay"\n',
        "        told = True\n",
    ),
    mutant(
        "a watch that asked to drop is not told what the log itself lost",
        DISPATCHER,
        '        told = watch.gap or watch.request.overflow == "replay"\n',
        '        told = watch.request.overflow == "replay"\n',
    ),
    mutant(
        "a gap is remembered for ever",
        DISPATCHER,
        "        watch.gap = False\n",
        "",
    ),
    mutant(
        "what the journal lost of a dropping watch is not counted as dropped",
        DISPATCHER,
        "        watch.dropped += missed\n",
        "",
    ),
    mutant(
        "a rewritten history goes unnoticed",
        DISPATCHER,
        "        if watch.epoch != self.epoch or watch.cursor < self.oldest.sequence:\n",
        "        if watch.cursor < self.oldest.sequence:\n",
    ),
    mutant(
        "a rewritten history is told as a number of messages",
        DISPATCHER,
        "        if rewritten:\n",
        "        if False:\n",
    ),
    mutant(
        "a watch in step is not told of a hole in the log",
        DISPATCHER,
        "            if watch.synced:\n                watch.fall_behind(before)\n",
        "",
    ),
    mutant(
        "a hole is told where it ends, after what follows",
        DISPATCHER,
        "                watch.fall_behind(before)\n",
        "                watch.fall_behind(last)\n",
    ),
    mutant(
        "a hole's size is not told",
        DISPATCHER,
        "            watch.unread += missed or 0\n",
        "            watch.unread += bool(missed)\n",
    ),
    mutant(
        "a waiting consumer is not woken for a loss",
        DISPATCHER,
        "            watch.gap = True\n            watch.wake()\n",
        "            watch.gap = True\n",
    ),
]
