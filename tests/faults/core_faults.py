"""Faults of the core: who gets a message, when, and what is left afterwards."""

from __future__ import annotations

from faults.fault import Change, Fault, body, drop, every, replace, swap, undecorated, wrap

TRIE = ("tests/core/test_trie.py",)
BOUNDS = "tests/core/test_bounds.py"
DISPATCHER = ("tests/core/test_dispatcher.py", "tests/core/test_watch.py")
WATCH = ("tests/core/test_watch.py",)
MEMORY = ("tests/test_memory.py", "tests/test_conformance.py::test_memory")


def dispatcher(sentence: str, function: str, change: Change) -> Fault:
    return Fault(sentence, f"Dispatcher.{function}", change, DISPATCHER)


def watch(sentence: str, function: str, change: Change) -> Fault:
    return Fault(sentence, function, change, WATCH)


FAULTS = [
    Fault(
        "a prefix that ends within an edge has nothing below it",
        "PrefixTrie._descend",
        replace("return child, ...", "return None"),
        TRIE,
    ),
    # Registering and resuming
    dispatcher(
        "a refused watch stays registered",
        "register",
        every(
            drop("if after is not None:\n    self.check(after)"),
            replace("watch.place = str(after)", "self.check(after)\nwatch.place = str(after)"),
        ),
    ),
    dispatcher(
        "a position is compared by its number alone",
        "check",
        drop("if str(after) != journal.position_at(after.sequence):\n    ..."),
    ),
    Fault(
        "a refill skips what it found beyond the buffer",
        "Reading.read",
        replace("self._next += fit", "self._next = len(self._found)"),
        (
            f"{BOUNDS}::test_nothing_is_looked_at_twice_by_a_watch_that_catches_up_one_by_one",
            *DISPATCHER,
        ),
    ),
    dispatcher(
        "before it is told of a rewrite, a watch is already in the new epoch",
        "position_of",
        drop("if self._is_overtaken(watch):\n    ..."),
    ),
    # Batches that are handed on in steps
    Fault(
        "a watch opened amid a batch gets what was accepted before it",
        "Dispatcher.register",
        drop("if self.delivery is not None:\n    self.delivery.newcomers.add(watch)"),
        DISPATCHER,
    ),
    Fault(
        "a message overtakes a batch that is being handed on",
        "InMemoryWatchBus._hand_on",
        drop("self._set_ready(ready=False)"),
        (
            f"{BOUNDS}::test_a_cancel_or_a_publish_that_does_not_wait_leaves_no_batch_half_handed_on",
        ),
    ),
    Fault(
        "a bus that closes amid a batch ends its watches before the rest of it",
        "Dispatcher.step",
        swap(
            "if self.delivery is not None:\n    ...",
            "for _ in range(min(puts, len(self._to_end))):\n    ...",
        ),
        (f"{BOUNDS}::test_a_bus_that_closes_amid_a_batch_ends_its_watches_after_it",),
    ),
    Fault(
        "amid a batch a watch is past what it is yet to be handed",
        "Dispatcher.position_of",
        replace("self.delivery is None", "True"),
        (
            f"{BOUNDS}::test_a_cancel_or_a_publish_that_does_not_wait_leaves_no_batch_half_handed_on",
        ),
    ),
    Fault(
        "a watch overtaken amid a batch is told of what was handed on by then alone",
        "Dispatcher.refill",
        drop("if self.delivery is not None:\n    ..."),
        (
            f"{BOUNDS}::test_a_watch_overtaken_amid_a_batch_is_told_how_much_it_missed_once_that_is_known",
        ),
    ),
    # Bytes
    Fault(
        "what waited in a closed watch stays counted in the bus's budget",
        "CountedBuffer.clear",
        drop("self._count(-self.bytes)"),
        (f"{BOUNDS}::test_what_waits_in_a_watch_that_closes_is_given_back",),
    ),
    Fault(
        "a message that replaces another of its key is counted beside it",
        "LatestBuffer.append",
        replace("size_of(message) - ...", "size_of(message)"),
        (f"{BOUNDS}::test_a_buffer_is_bounded_in_bytes",),
    ),
    # A watch and its consumer
    watch(
        "an interrupt may strike amid closing",
        "BufferedWatch.close",
        undecorated("enable_ki_protection"),
    ),
    watch(
        "an interrupt may strike between noting the task and parking",
        "_receiving.receive",
        undecorated("enable_ki_protection"),
    ),
    watch(
        "a closed watch is where it had received everything",
        "BufferedWatch.close",
        replace("self.place = self.position", "self._buffer.clear()\nself.place = self.position"),
    ),
    watch(
        "a consumer that never has to wait lets nobody else run",
        "_receiving.receive",
        drop("self._turn -= 1"),
    ),
    watch(
        "a consumer that never has to wait cannot be cancelled",
        "_receiving.receive",
        drop("await checkpoint_if_cancelled()"),
    ),
    watch(
        "a cancel that comes with the failure of the bus hides it",
        "_receiving.receive",
        drop("woken = True"),
    ),
    watch(
        "a consumer parks on a watch that is behind, and is never woken",
        "_receiving.receive",
        replace("self.state is _SYNCED", "self.state in (_SYNCED, _BEHIND)"),
    ),
    watch(
        "a cancel takes the first message of a batch with it",
        "BufferedWatch.receive_batch",
        swap(
            "if self._buffer:\n    await checkpoint()",
            "if self._buffer and self._task is None:\n    ...\nelse:\n    ...",
        ),
    ),
    Fault(
        "of a key's newest message the place is that of its oldest",
        "LatestBuffer.append",
        replace("self._newest.pop(...)", "self._newest.get(place)"),
        DISPATCHER,
    ),
    # The bus
    Fault(
        "a batch that is refused midway is published in part",
        "InMemoryWatchBus.publish_many_nowait",
        body(
            "return [\n"
            "    self._publish_now([check_publication(item, self.max_message_size)], None)[0]\n"
            "    for item in messages\n"
            "]"
        ),
        MEMORY,
    ),
    Fault(
        "a bus closed while a watch was being opened is watched all the same",
        "InMemoryWatchBus.open_watch",
        replace("await checkpoint()\nself._check_open()", "self._check_open()\nawait checkpoint()"),
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
