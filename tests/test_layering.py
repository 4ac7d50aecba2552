"""Imports go down the layers, and each third-party package stays in its room."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import trio_watchbus

PACKAGE = "trio_watchbus"
FOLDER = Path(trio_watchbus.__file__).parent

BUSES = {"_memory", "_redis", "_remote"}
# From the lowest up: a room imports from the layers below, and those of one layer do not know of
# each other. The package's own `__init__` is a layer of its own, above the names that it shows.
LAYERS = [
    {"_backoff", "_errors", "_retention", "_statistics"},
    {"_keys"},
    {"_message"},
    {"_request"},
    {"_protocol"},
    {"abc"},
    {"_core"},
    BUSES,
    {"_open"},
    {"_public"},
    {PACKAGE},
    {"testing", "web"},
    {"_cli"},
    {"_bench"},
    {"__main__"},
]

# Who may import a package that is not the standard library's; None is everyone.
THIRD_PARTY: dict[str, set[str] | None] = {
    "trio": None,
    "msgspec": None,
    "sortedcontainers": {"_core"},
    "pytest": {"testing"},
    "redis": {"_redis"},
    "trio_websocket": {"_remote"},
    "wsproto": {"_remote", "web"},
    "werkzeug": {"web"},
    "quart": {"web"},
    "quart_trio": {"web"},
    "h11": {"web"},
    "hypercorn": {"web"},
    "click": {"_bench", "_cli"},
}

# What these do is a matter of their arguments alone.
PURE = {
    "_core._block",
    "_core._buffers",
    "_core._journal",
    "_core._state",
    "_core._trie",
    "_core._values",
    "web._hosts",
    "web._sse",
    "_redis._layout",
    "_remote._address",
} | {f"_protocol.{name}" for name in ("_answers", "_common", "_errors", "_requests")}
# Input, output, clocks, threads and chance, which the core leaves to the buses.
WORLDLY = {"asyncio", "io", "os", "random", "secrets", "select", "selectors", "socket", "ssl"} | {
    "datetime",
    "subprocess",
    "threading",
    "time",
}


def modules() -> dict[str, Path]:
    """Each module of the package, named from the package's folder, and its file."""
    found = {}
    for path in sorted(FOLDER.rglob("*.py")):
        parts = path.relative_to(FOLDER).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name or PACKAGE] = path
    return found


MODULES = modules()


def room(module: str) -> str:
    """The first part of a module's name: the room that it stands in, or the package it is of."""
    return module.partition(".")[0]


def imported(module: str) -> Iterator[str]:
    """Absolute names of the modules that this module's text imports, wherever in it."""
    path = MODULES[module]
    package = PACKAGE if module == PACKAGE else f"{PACKAGE}.{module}"
    if path.name != "__init__.py":
        package = package.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                # `from package import module` imports the module, not the package alone.
                name = f"{source}.{alias.name}"
                yield name if name.removeprefix(f"{PACKAGE}.") in MODULES else source


def own(module: str) -> set[str]:
    """Modules of this package that a module imports, named from the package's folder."""
    return {name.removeprefix(f"{PACKAGE}.") for name in imported(module) if room(name) == PACKAGE}


def foreign(module: str) -> set[str]:
    """Top-level packages, other than this one, that a module imports."""
    return {room(name) for name in imported(module)} - {PACKAGE}


def layer(module: str) -> int:
    """How high a module stands."""
    for height, rooms in enumerate(LAYERS):
        if room(module) in rooms:
            return height
    pytest.fail(f"{module} stands in no layer: name its room in LAYERS")


def test_the_walk_sees_relative_absolute_and_nested_imports() -> None:
    assert "_core" in {room(name) for name in own("_memory")}
    assert {room(name) for name in own(PACKAGE)} == {"_public"}
    assert {"abc", "_memory"} <= {room(name) for name in own("_public")}
    assert "trio" in foreign("abc")


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down_the_layers(module: str) -> None:
    others = {name for name in own(module) if room(name) != room(module)}
    assert {name for name in others if layer(name) >= layer(module)} == set()


@pytest.mark.parametrize("module", MODULES)
def test_a_third_party_package_is_imported_only_in_its_room(module: str) -> None:
    strangers = foreign(module) - sys.stdlib_module_names
    assert strangers <= set(THIRD_PARTY), "name the package's room in THIRD_PARTY"
    astray = set()
    for package in strangers:
        rooms = THIRD_PARTY[package]
        if rooms is not None and room(module) not in rooms:
            astray.add(package)
    assert astray == set()


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) == "_core"])
def test_the_core_does_no_input_or_output_and_has_no_clock(module: str) -> None:
    assert foreign(module) & WORLDLY == set()


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) == "web"])
def test_the_web_does_not_know_which_bus_it_serves(module: str) -> None:
    assert {name for name in own(module) if room(name) in BUSES | {"_core", "_open"}} == set()


@pytest.mark.parametrize("module", sorted(PURE & set(MODULES)))
def test_structures_without_trio_stay_so(module: str) -> None:
    assert foreign(module) & (WORLDLY | {"trio"}) == set()
