"""The trie finds what a dict and `str.startswith` find, and keeps no node that nothing needs."""

from __future__ import annotations

from itertools import combinations
from os.path import commonprefix  # of strings, which is what is wanted

from hypothesis import given
from hypothesis import strategies as st
from naive import LETTERS, prefixes

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
def test_covering_finds_what_is_filed_under_the_beginnings(model: Model, string: str) -> None:
    expected = [i for other, filed in model.items() if string.startswith(other) for i in filed]
    assert sorted(build(model).covering(string)) == sorted(expected)


@given(filings, strings)
def test_at_finds_what_is_filed_under_the_string_itself(model: Model, string: str) -> None:
    assert sorted(build(model).at(string)) == sorted(model.get(string, ()))


@given(filings, strings)
def test_under_and_strings_find_what_starts_so(model: Model, prefix: str) -> None:
    trie = build(model)
    expected = {other: filed for other, filed in model.items() if other.startswith(prefix)}
    assert sorted(trie.under(prefix)) == sorted(i for filed in expected.values() for i in filed)
    assert sorted(trie.strings(prefix)) == sorted(expected)


@given(filings, strings, items)
def test_removing_what_is_not_there_changes_nothing(model: Model, string: str, item: int) -> None:
    trie = build(model)
    nodes = trie.nodes
    trie.add(string, 9)
    assert not trie.remove(string + "b", 9)
    assert not trie.remove(string, 8)
    assert trie.remove(string, 9)
    assert not trie.remove(string, 9)
    assert trie.nodes == nodes
    assert sorted(trie.strings()) == sorted(model)


def test_the_order_within_one_string_is_that_of_adding() -> None:
    trie: PrefixTrie[int] = PrefixTrie()
    for item in (3, 1, 2, 1):
        trie.add("a", item)
    assert list(trie.at("a")) == [3, 1, 2]


def test_an_empty_trie_finds_nothing() -> None:
    trie: PrefixTrie[int] = PrefixTrie()
    for found in (trie.covering("a"), trie.at(""), trie.under(""), trie.strings("")):
        assert list(found) == []


def test_an_edge_is_split_where_strings_part_and_joined_again() -> None:
    trie: PrefixTrie[int] = PrefixTrie()
    trie.add("orders/42", 1)
    assert trie.nodes == 1
    trie.add("orders/57", 2)
    assert trie.nodes == 3
    trie.add("orders/", 3)
    assert trie.nodes == 3
    trie.remove("orders/", 3)
    assert trie.nodes == 3
    trie.remove("orders/42", 1)
    assert trie.nodes == 1
    assert list(trie.strings()) == ["orders/57"]


def test_the_root_counts_as_a_node_while_it_holds_something() -> None:
    trie: PrefixTrie[int] = PrefixTrie()
    trie.add("", 1)
    assert (len(trie), trie.nodes) == (1, 1)
    assert list(trie.covering("anything")) == [1]
    assert trie.remove("", 1)
    assert (len(trie), trie.nodes) == (0, 0)


def test_the_composed_and_the_decomposed_form_of_a_letter_are_two_strings() -> None:
    trie: PrefixTrie[int] = PrefixTrie()
    trie.add("\u00e9", 1)
    trie.add("e\u0301", 2)
    assert list(trie.at("\u00e9")) == [1]
    assert list(trie.under("e")) == [2]


def test_strings_of_every_length_up_to_a_long_one_may_be_nested() -> None:
    depth = 2000
    trie: PrefixTrie[int] = PrefixTrie()
    for length in range(depth):
        trie.add("x" * length, length)
    assert trie.nodes == depth
    assert list(trie.covering("x" * depth)) == list(range(depth))
    assert len(list(trie.under(""))) == depth
    for length in range(depth):
        assert trie.remove("x" * length, length)
    assert trie.nodes == 0


@given(st.permutations(LETTERS))
def test_the_order_of_removing_does_not_matter(letters: list[str]) -> None:
    model = {a + b: {1} for a in LETTERS for b in LETTERS}
    trie = build(model)
    for first in letters:
        for second in LETTERS:
            assert trie.remove(first + second, 1)
    assert trie.nodes == 0
