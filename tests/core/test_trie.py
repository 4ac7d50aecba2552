"""The trie finds what a dict and `str.startswith` find, and keeps no node that nothing needs."""

from __future__ import annotations

from itertools import combinations
from os.path import commonprefix  # of strings, which is what is wanted

from hypothesis import given
from hypothesis import strategies as st
from naive import prefixes

from trio_watchbus._core._trie import PrefixTrie

strings = prefixes
items = st.integers(0, 3)
filings = st.dictionaries(strings, st.sets(items, min_size=1), max_size=12)
operations = st.lists(st.tuples(st.booleans(), strings, items), max_size=40)

Model = dict[str, set[int]]


def build(model: Model) -> PrefixTrie[int]:
    trie: PrefixTrie[int] = PrefixTrie()
    for string, filed in model.items():
        for item in filed:
            trie.add(string, item)
    return trie


def nodes_needed(held: Model) -> int:
    """A node for each string held and for each place where two of them part."""
    needed = set(held) | {commonprefix(pair) for pair in combinations(held, 2)}  # noqa: RUF071
    return len(needed - ({""} - set(held)))


@given(operations)
def test_after_any_adds_and_removes_it_holds_what_a_dict_holds(
    performed: list[tuple[bool, str, int]],
) -> None:
    trie: PrefixTrie[int] = PrefixTrie()
    model: Model = {}
    for adds, string, item in performed:
        if adds:
            trie.add(string, item)
            model.setdefault(string, set()).add(item)
        else:
            assert trie.remove(string, item) == (item in model.get(string, ()))
            model.get(string, set()).discard(item)
            if not model.get(string):
                model.pop(string, None)
        assert len(trie) == len(model)
        assert trie.nodes == nodes_needed(model)
        assert sorted(trie.strings()) == sorted(model)
    for string, filed in model.items():
        assert sorted(trie.at(string)) == sorted(filed)
        for item in filed:
            assert trie.remove(string, item)
    assert (len(trie), trie.nodes) == (0, 0)


@given(filings, strings)
def test_it_finds_what_a_dict_and_startswith_find(model: Model, string: str) -> None:
    trie = build(model)
    covering = [i for other, filed in model.items() if string.startswith(other) for i in filed]
    under = {other: filed for other, filed in model.items() if other.startswith(string)}
    assert sorted(trie.covering(string)) == sorted(covering)
    assert sorted(trie.at(string)) == sorted(model.get(string, ()))
    assert sorted(trie.under(string)) == sorted(i for filed in under.values() for i in filed)
    assert sorted(trie.strings(string)) == sorted(under)


def test_the_order_within_one_string_is_that_of_adding() -> None:
    trie: PrefixTrie[int] = PrefixTrie()
    for item in (3, 1, 2, 1):
        trie.add("a", item)
    assert list(trie.at("a")) == [3, 1, 2]


def test_the_composed_and_the_decomposed_form_of_a_letter_are_two_strings() -> None:
    trie: PrefixTrie[int] = PrefixTrie()
    trie.add("\u00e9", 1)
    trie.add("e\u0301", 2)
    assert list(trie.at("\u00e9")) == [1]
    assert list(trie.under("e")) == [2]


def test_strings_of_every_length_up_to_a_long_one_may_be_nested() -> None:
    depth = 2000
    # Letters that differ, so that one that is looked for in the wrong place is not found.
    text = "abc" * depth
    trie: PrefixTrie[int] = PrefixTrie()
    for length in range(depth):
        trie.add(text[:length], length)
    assert trie.nodes == depth
    assert list(trie.covering(text[:depth])) == list(range(depth))
    assert len(list(trie.under(""))) == depth
    for length in range(depth):
        assert trie.remove(text[:length], length)
    assert trie.nodes == 0
