"""Which of many strings start a given one, and which start with it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from itertools import chain, islice
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class _Node(Generic[T]):
    """The string that ends here is the labels from the root down, this one's last."""

    __slots__ = ("children", "items", "label")

    def __init__(self, label: str) -> None:
        self.label = label
        self.children: dict[str, _Node[T]] | None = None
        # Most strings have one item, and a tuple of one is a fifth of a dict and next to its node
        # in memory. A dict for its order: whoever was added first is reached first.
        self.items: tuple[T] | dict[T, None] | None = None


class PrefixTrie(Generic[T]):
    """Items, each filed under strings; found by a string's beginnings or by a common beginning.

    Strings are compared code point by code point. A radix tree (Morrison's PATRICIA, on
    characters): an edge holds as many characters as no other string parts, so that a string costs
    about two nodes however long it is, and a look-up as many steps as there are partings on its
    way. A node that nothing needs any more is removed at once.
    """

    def __init__(self) -> None:
        self._root: _Node[T] = _Node("")
        self._strings = 0
        self._nodes = 0

    def __len__(self) -> int:
        """Return the number of different strings that something is filed under."""
        return self._strings

    @property
    def nodes(self) -> int:
        """The number of nodes, the root not counted unless it holds something; 0 when empty."""
        return self._nodes

    def add(self, string: str, item: T) -> None:
        """File `item` under `string`; filing it there again does nothing."""
        node = self._root
        at = 0
        while at < len(string):
            if node.children is None:
                node.children = {}
            child = node.children.get(string[at])
            if child is None:
                child = _Node(string[at:])
                node.children[string[at]] = child
                self._nodes += 1
            elif not string.startswith(child.label, at):
                child = self._split(node, child, _shared(child.label, string, at))
            at += len(child.label)
            node = child
        if node.items is None:
            node.items = (item,)
            self._strings += 1
            self._nodes += node is self._root
        elif isinstance(node.items, tuple):
            node.items = dict.fromkeys((*node.items, item))
        else:
            node.items[item] = None

    def remove(self, string: str, item: T) -> bool:
        """Take `item` away from `string`; return whether it was filed there."""
        path = [self._root]
        at = 0
        while at < len(string):
            child = (path[-1].children or {}).get(string[at])
            if child is None or not string.startswith(child.label, at):
                return False
            at += len(child.label)
            path.append(child)
        node = path[-1]
        if node.items is None or item not in node.items:
            return False
        if isinstance(node.items, dict) and len(node.items) > 1:
            del node.items[item]
        else:
            node.items = None
            self._strings -= 1
            self._nodes -= node is self._root
            self._prune(path)
        return True

    def covering(self, string: str) -> Iterator[T]:
        """Yield what is filed under the beginnings of `string`, the empty and the whole included.

        The trie may not be changed meanwhile.
        """
        return chain.from_iterable(self._items_above(string))

    def _items_above(self, string: str) -> Iterator[tuple[T] | dict[T, None]]:
        node = self._root
        at = 0
        while True:
            if node.items is not None:
                yield node.items
            if at == len(string) or node.children is None:
                return
            child = node.children.get(string[at])
            if child is None or not string.startswith(child.label, at):
                return
            at += len(child.label)
            node = child

    def at(self, string: str) -> Iterator[T]:
        """Yield what is filed under `string` itself. The trie may not be changed meanwhile."""
        top = self._descend(string)
        if top is not None and top[1] == string and top[0].items is not None:
            yield from top[0].items

    def filed(self, string: str) -> int:
        """Return how often something is filed under `string` or one of its beginnings."""
        return sum(len(items) for items in self._items_above(string))

    def under(self, prefix: str) -> list[T]:
        """Return what is filed under the strings that start with `prefix`.

        An item filed under several is there for each.
        """
        nodes = self._top(prefix)
        return _filed_at(nodes, nodes)

    def under_in_parts(self, prefix: str, nodes_a_part: int) -> Iterator[list[T]]:
        """Yield what `under` returns, in parts.

        The trie may be changed between two parts. What was filed before the first and still is, is
        in one of them; of what was filed or removed since, some may be.
        """
        # A node may be taken out of the trie while it waits in the list. What is filed at it or
        # beneath it stays within its reach: nothing is filed there any more, and a node that has
        # something filed is not moved.
        nodes = self._top(prefix)
        each = iter(nodes)
        looked_at = 0
        while looked_at < len(nodes):
            yield _filed_at(nodes, islice(each, nodes_a_part))
            looked_at += nodes_a_part

    def strings(self, prefix: str = "") -> Iterator[str]:
        """Yield the strings that start with `prefix` and have something filed under them.

        The trie may not be changed meanwhile.
        """
        top = self._descend(prefix)
        if top is None:
            return
        waiting = [top]
        while waiting:
            node, string = waiting.pop()
            if node.items is not None:
                yield string
            if node.children is not None:
                waiting.extend((child, string + child.label) for child in node.children.values())

    def _top(self, prefix: str) -> list[_Node[T]]:
        """Return the node above all strings that start with `prefix`, if there is one."""
        top = self._descend(prefix)
        return [] if top is None else [top[0]]

    def _descend(self, prefix: str) -> tuple[_Node[T], str] | None:
        """Return the node at or next below `prefix`, and its string; None if there is none."""
        node = self._root
        at = 0
        while at < len(prefix):
            child = (node.children or {}).get(prefix[at])
            if child is None:
                return None
            if not prefix.startswith(child.label, at):
                if not child.label.startswith(prefix[at:]):
                    return None
                return child, prefix[:at] + child.label
            at += len(child.label)
            node = child
        return node, prefix

    def _split(self, parent: _Node[T], child: _Node[T], length: int) -> _Node[T]:
        """Put a node between `parent` and `child`, `length` characters down; return it."""
        middle: _Node[T] = _Node(child.label[:length])
        child.label = child.label[length:]
        middle.children = {child.label[0]: child}
        assert parent.children is not None
        parent.children[middle.label[0]] = middle
        self._nodes += 1
        return middle

    def _prune(self, path: list[_Node[T]]) -> None:
        """Remove the last node of `path` if nothing needs it, and its parent if that follows."""
        while len(path) > 1:
            node = path.pop()
            if node.items is not None:
                return
            if node.children is None:
                siblings = path[-1].children
                assert siblings is not None
                del siblings[node.label[0]]
                if not siblings:
                    path[-1].children = None
            elif len(node.children) == 1:
                (child,) = node.children.values()
                child.label = node.label + child.label
                siblings = path[-1].children
                assert siblings is not None
                siblings[child.label[0]] = child
            else:
                return
            self._nodes -= 1


def _filed_at(nodes: list[_Node[T]], some: Iterable[_Node[T]]) -> list[T]:
    """Return what is filed at `some` of `nodes`, and add the nodes beneath them to `nodes`."""
    found: list[T] = []
    # They may be the list itself, which grows while it is gone through: half the time that a stack
    # and a generator take.
    for node in some:
        if node.items is not None:
            found += node.items
        if node.children is not None:
            nodes += node.children.values()
    return found


def _shared(label: str, string: str, at: int) -> int:
    """Return how many characters of `label` stand in `string` at `at`."""
    length = 0
    for ours, theirs in zip(label, string[at : at + len(label)], strict=False):
        if ours != theirs:
            break
        length += 1
    return length
