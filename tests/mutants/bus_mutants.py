"""Faults of the embedded bus, and of what it refuses."""

from __future__ import annotations

from mutants.mutant import Mutant

TESTS = (
    "tests/test_memory.py",
    "tests/test_bad_input_library.py",
    "tests/core/test_watch.py",
    "tests/test_conformance.py::test_memory",
)

MEMORY = "_memory.py"
REQUEST = "_request.py"
MESSAGE = "_message.py"
KEYS = "_keys.py"


def mutant(fault: str, file: str, text: str, replacement: str) -> Mutant:
    return Mutant(fault, file, text, replacement, TESTS)


MUTANTS = [
    # The embedded bus
    mutant(
        "a batch is published half",
        MEMORY,
        "            [check_publication(item, self.max_message_size) for item in messages],"
        " idempotency_key\n        )\n",
        "            [], None\n        ) + [\n"
        "            identifier\n"
        "            for item in messages\n"
        "            for identifier in self._publish_all(\n"
        "                [check_publication(item, self.max_message_size)], None\n"
        "            )\n"
        "        ]\n",
    ),
    mutant(
        "a retry is published again",
        MEMORY,
        "            if idempotency_key in self._published:\n",
        "            if False:\n",
    ),
    mutant(
        "idempotency keys are remembered for ever",
        MEMORY,
        "                if len(self._published) > _IDEMPOTENCY_KEYS:\n",
        "                if False:\n",
    ),
    mutant(
        "the newest idempotency key is forgotten first",
        MEMORY,
        "                    self._published.popitem(last=False)\n",
        "                    self._published.popitem()\n",
    ),
    mutant(
        "a message to a prefix counts as its key's latest",
        MEMORY,
        "            if not is_prefix:\n                self._keep(message)\n",
        "            self._keep(message)\n",
    ),
    mutant(
        "a single message is not kept for its key",
        MEMORY,
        "        message = Message(key, data, identifier, now())\n        self._keep(message)\n",
        "        message = Message(key, data, identifier, now())\n",
    ),
    mutant(
        "the bound on size is forgotten for keys published to before",
        MEMORY,
        "        if type(data) is not bytes or len(data) > self.max_message_size:\n",
        "        if type(data) is not bytes:\n",
    ),
    mutant(
        "data of keys published to before is not copied",
        MEMORY,
        "        if type(data) is not bytes or len(data) > self.max_message_size:\n",
        "        if len(data) > self.max_message_size:\n",
    ),
    mutant(
        "a closed bus publishes to keys published to before",
        MEMORY,
        "        if key not in self._routes or self._closed or idempotency_key is not None:\n",
        "        if key not in self._routes or idempotency_key is not None:\n",
    ),
    mutant(
        "a closed bus can be watched",
        MEMORY,
        "        await checkpoint()\n        self._check_open()\n        return self._register(",
        "        await checkpoint()\n        return self._register(",
    ),
    mutant(
        "publishing yields to nobody",
        MEMORY,
        "        if self._turn:\n            self._turn -= 1\n",
        "        if self._turn:\n",
    ),
    mutant(
        "publishing is no cancellation point",
        MEMORY,
        "            await checkpoint_if_cancelled()\n",
        "            pass\n",
    ),
    mutant(
        "two buses have one epoch",
        MEMORY,
        "Dispatcher(token_hex(6), retention)",
        'Dispatcher("0" * 12, retention)',
    ),
    mutant(
        "history is not asked for",
        MEMORY,
        "        if request.history:\n",
        "        if False:\n",
    ),
    # What is refused
    mutant("a control character of C1 is let in", KEYS, r"\x7f-\x9f", r"\x7f"),
    mutant("DEL is let in", KEYS, r"\x7f-\x9f", r"\x80-\x9f"),
    mutant(
        "a key is measured in characters",
        KEYS,
        "        length = len(prefix.encode())\n",
        "        length = len(prefix) + 0 * len(prefix.encode())\n",
    ),
    mutant("a key of 513 bytes is let in", KEYS, "MAX_KEY_BYTES = 512", "MAX_KEY_BYTES = 513"),
    mutant("a key of 512 bytes is refused", KEYS, "MAX_KEY_BYTES = 512", "MAX_KEY_BYTES = 511"),
    mutant("the empty key is let in", KEYS, "    if not checked:\n", "    if False:\n"),
    mutant(
        "a position may have something after it",
        MESSAGE,
        "        match = _POSITION.fullmatch(text)\n",
        "        match = _POSITION.match(text)\n",
    ),
    mutant(
        "a position may be written in several ways",
        MESSAGE,
        "(0|[1-9][0-9]{0,17})",
        "([0-9]{1,18})",
    ),
    mutant(
        "a bytearray is kept as it is",
        MESSAGE,
        "    if isinstance(data, (bytearray, memoryview)):\n        data = bytes(data)\n",
        "    if isinstance(data, (bytearray, memoryview)):\n        return data\n",
    ),
    mutant(
        "a message of the largest size is refused",
        MESSAGE,
        "    if len(data) > max_message_size:\n",
        "    if len(data) >= max_message_size:\n",
    ),
    mutant(
        "after and history are taken together",
        REQUEST,
        "        if after is not None and history:\n",
        "        if False:\n",
    ),
    mutant(
        "a buffer may have no room",
        REQUEST,
        'self.buffer_size: int = check_count("buffer_size", buffer_size, least=1)',
        'self.buffer_size: int = check_count("buffer_size", buffer_size, least=0)',
    ),
    mutant(
        "an unknown overflow kind is taken",
        REQUEST,
        "        if overflow not in get_args(Overflow):\n",
        "        if False:\n",
    ),
    mutant(
        "one text is taken for many keys",
        REQUEST,
        "            if isinstance(given, (str, bytes)):\n",
        "            if False:\n",
    ),
]
