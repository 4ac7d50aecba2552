"""Faults of the core: who gets a message, when, and what is left afterwards."""

from __future__ import annotations

from faults.fault import Change, Fault, body, drop, replace, swap, undecorated, wrap

TRIE = ("tests/core/test_trie.py",)
JOURNAL = ("tests/core/test_journal.py",)
DISPATCHER = ("tests/core/test_dispatcher.py", "tests/core/test_watch.py")
WATCH = ("tests/core/test_watch.py",)
MEMORY = ("tests/test_memory.py", "tests/test_conformance.py::test_memory")


def trie(sentence: str, function: str, change: Change) -> Fault:
    return Fault(sentence, f"PrefixTrie.{function}", change, TRIE)


def dispatcher(sentence: str, function: str, change: Change) -> Fault:
    return Fault(sentence, f"Dispatcher.{function}", change, DISPATCHER)


def watch(sentence: str, function: str, change: Change) -> Fault:
    return Fault(sentence, f"BufferedWatch.{function}", change, WATCH)


FAULTS = [
    trie(
        "a prefix that ends within an edge has nothing below it",
        "_descend",
        replace("return child, ...", "return None"),
    ),
    trie("nodes outlive what needed them", "remove", drop("self._prune(path)")),
    Fault(
        "a key is evicted by its first publish, not by its last",
        "KeyHistory.append",
        drop("self._kept.move_to_end(...)"),
        JOURNAL,
    ),
    dispatcher(
        "a new watch gets nothing of keys whose routes are cached",
        "register",
        drop("self.routes.pop(...)"),
    ),
    dispatcher(
        "a watch that left is still fed from cached routes",
        "unregister",
        drop("self.routes.clear()"),
    ),
    dispatcher(
        "a refused watch stays registered",
        "register",
        swap("if after is not None:\n    self.check(after)", "self.watches.add(watch)"),
    ),
    dispatcher(
        "a resumed watch goes live after one buffer, with more to replay",
        "refill",
        replace("if not watch.unread:\n    watch.catch_up()", "watch.catch_up()"),
    ),
    dispatcher(
        "a resumed watch never goes live",
        "refill",
        drop("if not watch.unread:\n    watch.catch_up()"),
    ),
    dispatcher(
        "a refill skips what it read beyond the buffer",
        "refill",
        drop("cursor = Position.parse(taken[-1].id).sequence"),
    ),
    dispatcher(
        "a loss does not wake the consumer that waits",
        "lose",
        drop("watch.wake()"),
    ),
    dispatcher(
        "before it is told of a rewrite, a watch is already in the new epoch",
        "head",
        replace("Position(watch.epoch, watch.cursor)", "Position(self.epoch, watch.cursor)"),
    ),
    dispatcher(
        "a bus that closes leaves its consumers waiting",
        "close",
        drop("for watch in self.watches:\n    ..."),
    ),
    watch(
        "a message does not wake the consumer that waits for it",
        "put",
        drop("if self._task is not None:\n    self.wake()"),
    ),
    watch(
        "a second consumer takes the place of the first",
        "_wait",
        drop("if self._task is not None:\n    raise ..."),
    ),
    watch("a cancelled wait leaves the watch busy", "_abort", drop("self._task = None")),
    watch("closing does not wake the consumer", "close", drop("self.wake()")),
    watch("a closed watch stays registered", "close", drop("self._source.unregister(self)")),
    watch(
        "an interrupt may strike amid closing",
        "close",
        undecorated("enable_ki_protection"),
    ),
    watch(
        "a closed watch is where it had received everything",
        "close",
        swap("self._final_position = self.position", "self._buffer.clear()"),
    ),
    watch(
        "a watch is past a message that still waits in its buffer",
        "position",
        replace("oldest.sequence - 1", "oldest.sequence"),
    ),
    watch(
        "a consumer that never has to wait lets nobody else run",
        "receive",
        drop("self._turn -= 1"),
    ),
    watch(
        "a consumer that never has to wait cannot be cancelled",
        "__anext__",
        drop("await checkpoint_if_cancelled()"),
    ),
    watch(
        "a cancel that comes with the failure of the bus hides it",
        "receive",
        drop("woken = True"),
    ),
    watch(
        "a consumer parks on a watch that is behind, and is never woken",
        "__anext__",
        replace(
            "self.synced and self._final_position is None and not self._source.ended",
            "self._final_position is None and not self._source.ended",
        ),
    ),
    watch(
        "a cancel takes the first message of a batch with it",
        "receive_batch",
        swap(
            "if self._buffer:\n    await checkpoint()",
            "if self._buffer and self._task is None:\n    ...\nelse:\n    ...",
        ),
    ),
    Fault(
        "of a key's newest message the place is that of its oldest",
        "_LatestBuffer.append",
        drop("self._newest.move_to_end(...)"),
        DISPATCHER,
    ),
    Fault(
        "a batch that is refused midway is published in part",
        "InMemoryWatchBus.publish_many_nowait",
        body(
            "return [\n"
            "    self._publish_all([check_publication(item, self.max_message_size)], None)[0]\n"
            "    for item in messages\n"
            "]"
        ),
        MEMORY,
    ),
    Fault(
        "a publisher that never waits lets nobody else run",
        "InMemoryWatchBus._pass_turn",
        drop("self._turn -= 1"),
        MEMORY,
    ),
    Fault(
        "a bus closed while a watch was being opened is watched all the same",
        "InMemoryWatchBus.open_watch",
        swap("await checkpoint()", "self._check_open()"),
        MEMORY,
    ),
    Fault(
        "a watch that is left by an error stays open",
        "_Opening.__aexit__",
        wrap("if exc_type is None:\n    ..."),
        MEMORY,
    ),
    Fault(
        "an interrupt may strike between opening a watch and knowing it",
        "_Opening.__aenter__",
        undecorated("trio.lowlevel.enable_ki_protection"),
        WATCH,
    ),
]
