"""Faults: deliberate changes to one function of the package, which some test has to notice.

A fault names its function by the end of its dotted path, and says what to change by structure: the
code that it looks for is compared as a syntax tree, so layout, comments and moved lines do not
matter. In that code `...` stands for any expression, any arguments of a call, or any whole block.

What a fault looks for must be there exactly once, else applying it raises `StaleFaultError`: a
fault that changed nothing would look like one that the tests miss.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

Function = ast.FunctionDef | ast.AsyncFunctionDef
Change = Callable[[Function], None]


class StaleFaultError(Exception):
    """A fault does not fit the package any more."""


@dataclass(frozen=True)
class Fault:
    """A fault of a Python function.

    Attributes:
        sentence: what the program then does wrong.
        function: the end of the function's dotted path, long enough to be the only one.
        change: what puts the fault in.
        tests: the tests of which one has to fail, as arguments of pytest.
    """

    sentence: str
    function: str
    change: Change
    tests: tuple[str, ...]

    def apply(self, package: Path) -> tuple[Path, str]:
        """Return the file to change, and its text with the fault.

        Raises:
            StaleFaultError: the function or the code to change is not there exactly once.
        """
        found = [
            (path, name)
            for path in sorted(package.rglob("*.py"))
            for name in _functions(path, package)
            if f".{name}".endswith(f".{self.function}")
        ]
        if len(found) != 1:
            names = ", ".join(name for _, name in found) or "none"
            raise StaleFaultError(f"functions {self.function}: {names}")
        path, name = found[0]
        tree = deepcopy(_parse(path))
        self.change(dict(_walk(tree, _module(path, package)))[name])
        return path, ast.unparse(ast.fix_missing_locations(tree))


@dataclass(frozen=True)
class LuaFault:
    """A fault of a Lua function, made by replacing text; runs of white space are equal.

    Attributes:
        sentence: what the program then does wrong.
        function: the function's name as its definition has it, such as ``operations.close``.
        old: the text to replace.
        new: what replaces it.
        tests: the tests of which one has to fail, as arguments of pytest.
    """

    sentence: str
    function: str
    old: str
    new: str
    tests: tuple[str, ...]

    def apply(self, package: Path) -> tuple[Path, str]:
        """Return the file to change, and its text with the fault.

        Raises:
            StaleFaultError: the function or the text is not there exactly once.
        """
        # From its first line to the `end` below that line's first character.
        definition = re.compile(
            rf"^([ ]*)(?:local )?function {re.escape(self.function)}\(.*?^\1end$",
            re.MULTILINE | re.DOTALL,
        )
        found = [
            (path, match)
            for path in sorted(package.rglob("*.lua"))
            for match in definition.finditer(path.read_text())
        ]
        if len(found) != 1:
            raise StaleFaultError(f"{len(found)} Lua functions {self.function}")
        path, match = found[0]
        wanted = r"\s+".join(re.escape(word) for word in self.old.split())
        body, count = re.subn(wanted, lambda _: self.new, match[0])
        if count != 1:
            raise StaleFaultError(f"{count} times in {self.function}: {self.old}")
        return path, match.string[: match.start()] + body + match.string[match.end() :]


def replace(old: str, new: str) -> Change:
    """Put `new` in the place of `old`: an expression, or one or more statements."""
    wanted, given = ast.parse(old).body, ast.parse(new).body
    if _is_expression(wanted) and _is_expression(given):
        return lambda function: _replace_expression(function, _value(wanted), _value(given), old)
    return lambda function: _replace_statements(function, wanted, given, old)


def drop(old: str) -> Change:
    """Leave out `old`: one or more statements."""
    return lambda function: _replace_statements(function, ast.parse(old).body, [], old)


def swap(first: str, second: str) -> Change:
    """Do two statements of one block in the other order."""

    def change(function: Function) -> None:
        (one, i), (other, j) = (
            _only(_blocks_with(function, ast.parse(code).body), code) for code in (first, second)
        )
        if one is not other:
            raise StaleFaultError(f"not in one block: {first} and {second}")
        one[i], one[j] = one[j], one[i]

    return change


def body(code: str) -> Change:
    """Put `code` in the place of the function's body; its arguments stay."""

    def change(function: Function) -> None:
        function.body = ast.parse(code).body

    return change


def wrap(code: str) -> Change:
    """Put the function's body in the place of the one statement `...` within `code`."""

    def change(function: Function) -> None:
        inner, function.body = function.body, ast.parse(code).body
        block, i = _only(
            (
                (block, i)
                for block in _blocks(function)
                for i, statement in enumerate(block)
                if _is_anything(statement)
            ),
            code,
        )
        block[i : i + 1] = inner

    return change


def undecorated(decorator: str) -> Change:
    """Leave out a decorator."""

    def change(function: Function) -> None:
        found = _only(
            (d for d in function.decorator_list if ast.unparse(d) == decorator), f"@{decorator}"
        )
        function.decorator_list.remove(found)

    return change


def every(*changes: Change) -> Change:
    """Make more than one change."""

    def change(function: Function) -> None:
        for one in changes:
            one(function)

    return change


@cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def _functions(path: Path, package: Path) -> list[str]:
    return [name for name, _ in _walk(_parse(path), _module(path, package))]


def _module(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _walk(tree: ast.AST, within: str) -> Iterator[tuple[str, Function]]:
    """Yield the functions of `tree`, those within others and in classes too, by dotted path."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{within}.{node.name}", node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _walk(node, f"{within}.{node.name}")
        else:
            yield from _walk(node, within)


def _is_expression(statements: list[ast.stmt]) -> bool:
    return len(statements) == 1 and isinstance(statements[0], ast.Expr)


def _value(statements: list[ast.stmt]) -> ast.expr:
    (statement,) = statements
    assert isinstance(statement, ast.Expr)
    return statement.value


def _is_anything(node: object) -> bool:
    if isinstance(node, ast.Expr):
        node = node.value
    return isinstance(node, ast.Constant) and node.value is ...


def _equal(wanted: object, found: object) -> bool:
    """Whether code is what is looked for."""
    if _is_anything(wanted):
        return True
    if isinstance(wanted, list):
        if len(wanted) == 1 and _is_anything(wanted[0]):
            return True
        return (
            isinstance(found, list)
            and len(wanted) == len(found)
            and all(map(_equal, wanted, found))
        )
    if not isinstance(wanted, ast.AST):
        return type(wanted) is type(found) and wanted == found
    if type(wanted) is not type(found):
        return False
    if isinstance(wanted, ast.expr_context):
        return True
    skipped = {"ctx", "type_comment", "kind"}
    if isinstance(wanted, ast.Call) and len(wanted.args) == 1 and _is_anything(wanted.args[0]):
        skipped |= {"args", "keywords"}
    return all(
        _equal(getattr(wanted, name, None), getattr(found, name, None))
        for name in wanted._fields
        if name not in skipped
    )


def _only(found: Iterator[T], code: str) -> T:
    """Return the one thing found."""
    places = list(found)
    if len(places) != 1:
        raise StaleFaultError(f"{len(places)} times: {code}")
    return places[0]


def _blocks(function: Function) -> Iterator[list[ast.stmt]]:
    """Yield every list of statements in a function."""
    waiting: list[ast.AST] = [function]
    while waiting:
        node = waiting.pop()
        for value in (getattr(node, name) for name in node._fields):
            if isinstance(value, list):
                if value and isinstance(value[0], ast.stmt):
                    yield value
                waiting += [item for item in value if isinstance(item, ast.AST)]


def _blocks_with(
    function: Function, wanted: list[ast.stmt]
) -> Iterator[tuple[list[ast.stmt], int]]:
    """Yield each block that has these statements in a row, and where."""
    for block in _blocks(function):
        for i in range(len(block) - len(wanted) + 1):
            if all(map(_equal, wanted, block[i:])):
                yield block, i


def _replace_statements(
    function: Function, wanted: list[ast.stmt], given: list[ast.stmt], code: str
) -> None:
    block, i = _only(_blocks_with(function, wanted), code)
    block[i : i + len(wanted)] = deepcopy(given)
    if not block:
        block.append(ast.Pass())


def _replace_expression(function: Function, wanted: ast.expr, given: ast.expr, code: str) -> None:
    def is_wanted(value: object) -> bool:
        # What is assigned to or deleted is not evaluated.
        is_read = isinstance(getattr(value, "ctx", ast.Load()), ast.Load)
        return isinstance(value, ast.expr) and is_read and _equal(wanted, value)

    def places() -> Iterator[tuple[ast.AST, str, int | None]]:
        for node in ast.walk(function):
            for name, value in ast.iter_fields(node):
                if isinstance(value, list):
                    yield from ((node, name, i) for i, v in enumerate(value) if is_wanted(v))
                elif is_wanted(value):
                    yield node, name, None

    node, name, i = _only(places(), code)
    if i is None:
        setattr(node, name, deepcopy(given))
    else:
        getattr(node, name)[i] = deepcopy(given)
