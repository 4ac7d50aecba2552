"""Faults of the trie and the journal."""

from __future__ import annotations

from mutants.mutant import Mutant

TESTS = (
    "tests/core/test_trie.py",
    "tests/core/test_journal.py",
)

TRIE = "_core/_trie.py"
JOURNAL = "_core/_journal.py"


def mutant(fault: str, file: str, text: str, replacement: str) -> Mutant:
    return Mutant(fault, file, text, replacement, TESTS)


MUTANTS = [
    # The trie
    mutant(
        "the empty prefix is never matched",
        TRIE,
        """            if node.items is not None:
                yield from node.items
            if at == len(string)""",
        """            if node.items is not None and at:
                yield from node.items
            if at == len(string)""",
    ),
    mutant(
        "a key is forgotten while another still watches it",
        TRIE,
        "        del node.items[item]\n",
        "        node.items.clear()\n",
    ),
    mutant("nodes are not pruned", TRIE, "            self._prune(path)\n", "            pass\n"),
    mutant(
        "a node with one child is not joined with it",
        TRIE,
        "            elif len(node.children) == 1:\n",
        "            elif False:\n",
    ),
    mutant(
        "a joined edge loses its first part",
        TRIE,
        "                child.label = node.label + child.label\n",
        "                pass\n",
    ),
    mutant(
        "an edge is not split where a string ends within it",
        TRIE,
        "            elif not string.startswith(child.label, at):\n                child",
        "            elif not string[at:].startswith(child.label[:1]):\n                child",
    ),
    mutant(
        "what ends within an edge covers nothing below",
        TRIE,
        "                return child, prefix[:at] + child.label\n",
        "                return None\n",
    ),
    mutant(
        "an edge that does not match is followed",
        TRIE,
        """            if child is None or not string.startswith(child.label, at):
                return
""",
        """            if child is None:
                return
""",
    ),
    mutant(
        "what was removed from another string counts as removed",
        TRIE,
        """            if child is None or not string.startswith(child.label, at):
                return False
""",
        """            if child is None:
                return False
""",
    ),
    # The journal
    mutant(
        "the journal holds one message less than its bound",
        JOURNAL,
        "        if len(held) > self._messages_bound:\n",
        "        if len(held) >= self._messages_bound:\n",
    ),
    mutant(
        "the journal is not bounded in number",
        JOURNAL,
        "        if len(held) > self._messages_bound:\n",
        "        if False:\n",
    ),
    mutant(
        "the journal is not bounded in bytes",
        JOURNAL,
        "        if size > self._bytes_bound or self._seconds is not None:\n",
        "        if self._seconds is not None:\n",
    ),
    mutant(
        "what is dropped still counts in the journal's bytes",
        JOURNAL,
        "            size -= len(dropped.key) + len(dropped.data)\n",
        "            pass\n",
    ),
    mutant(
        "the journal holds one message less where bytes are short",
        JOURNAL,
        "while held and (self.bytes > self._bytes_bound or",
        "while held and (self.bytes >= self._bytes_bound or",
    ),
    mutant(
        "a message is too old at its bound of age, not beyond",
        JOURNAL,
        "held[0].time < oldest",
        "held[0].time <= oldest",
    ),
    mutant(
        "messages are not dropped for their age",
        JOURNAL,
        " or held[0].time < oldest)",
        ")",
    ),
    mutant(
        "the oldest held is taken to be one older",
        JOURNAL,
        "        return self.last - len(self._held) + 1\n",
        "        return self.last - len(self._held)\n",
    ),
    mutant(
        "the newer half of the journal is read backwards",
        JOURNAL,
        "        newest_first.reverse()\n",
        "",
    ),
    mutant(
        "reading from the newer end ignores the limit",
        JOURNAL,
        "islice(reversed(held), len(held) - stop, count)",
        "islice(reversed(held), 0, count)",
    ),
    mutant(
        "a restarted journal still holds what was before",
        JOURNAL,
        "        self._held.clear()\n",
        "",
    ),
    mutant(
        "a restarted journal counts the bytes of before",
        JOURNAL,
        "        self.last = last\n        self.bytes = 0\n",
        "        self.last = last\n        self.bytes = getattr(self, 'bytes', 0)\n",
    ),
    mutant(
        "one message more than asked for is kept of each key",
        JOURNAL,
        "            if len(kept) < self._per_key:\n",
        "            if len(kept) <= self._per_key:\n",
    ),
    mutant(
        "the one message kept of a key is its first",
        JOURNAL,
        "                kept[0] = message\n",
        "                pass\n",
    ),
    mutant(
        "all messages of a key are kept",
        JOURNAL,
        "                del kept[0]\n",
        "",
    ),
    mutant(
        "the keys of which messages are kept are not bounded",
        JOURNAL,
        "            if len(self._kept) > self._keys:\n",
        "            if False:\n",
    ),
    mutant(
        "a key is forgotten by when it was first published to",
        JOURNAL,
        "            self._kept.move_to_end(key)\n",
        "",
    ),
    mutant(
        "history gives the oldest of a key",
        JOURNAL,
        "[-request.history :]",
        "[: request.history]",
    ),
    mutant(
        "history is not in order",
        JOURNAL,
        "        return sorted(found, key=lambda message: Position.parse(message.id).sequence)\n",
        "        return found\n",
    ),
    mutant(
        "history is in the order of text, where 10 comes before 9",
        JOURNAL,
        "key=lambda message: Position.parse(message.id).sequence",
        "key=lambda message: message.id",
    ),
]
