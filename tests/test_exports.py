"""What users import is what is promised, under the name that they know it by."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from importlib.metadata import files, version
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

import trio_watchbus

FOLDER = Path(trio_watchbus.__file__).parent
PUBLIC_MODULES = [
    "trio_watchbus",
    *sorted(
        f"trio_watchbus.{path.stem}"
        for path in FOLDER.iterdir()
        if not path.name.startswith("_")
        and (path.suffix == ".py" or (path / "__init__.py").exists())
    ),
]
EXTRAS = ("click", "hiredis", "hypercorn", "quart", "quart_trio", "redis", "trio_websocket")

WITHOUT_EXTRAS = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {EXTRAS}:
            raise ModuleNotFoundError(f"{{name}} is not installed", name=name)

sys.meta_path.insert(0, Refuse())
import trio_watchbus
for name in trio_watchbus.__all__:
    getattr(trio_watchbus, name)
"""

# What needs an extra, and the name of that.
NEEDS_EXTRA = {
    "import trio_watchbus.web": "server",
    "trio_watchbus.open_watchbus('redis://127.0.0.1')": "redis",
    "trio_watchbus.open_watchbus('http://127.0.0.1')": "client",
}


def is_module(name: str) -> bool:
    """Whether the package's attribute of this name is a module."""
    return isinstance(getattr(trio_watchbus, name), ModuleType)


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_all_is_sorted_and_has_no_name_twice(name: str) -> None:
    exported = importlib.import_module(name).__all__
    assert list(exported) == sorted(set(exported))


def test_the_package_shows_its_public_names_and_nothing_else() -> None:
    exported = set(trio_watchbus.__all__)
    # Importing a submodule makes it an attribute, and so does `from __future__`.
    shown = {name for name in vars(trio_watchbus) if not name.startswith("_")} - {
        *("annotations", "TYPE_CHECKING")
    }
    assert {name for name in shown if not is_module(name)} == {
        name for name in exported if not is_module(name)
    }
    assert exported <= shown


def test_the_package_has_the_version_that_is_installed() -> None:
    assert trio_watchbus.__version__ == version("trio-watchbus")


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_a_public_name_says_the_public_module_that_it_is_in(name: str) -> None:
    module = importlib.import_module(name)
    for exported in module.__all__:
        value = getattr(module, exported)
        if isinstance(value, (type, FunctionType)):
            assert value.__module__ in PUBLIC_MODULES, exported
            assert getattr(sys.modules[value.__module__], exported) is value


def promises() -> Iterator[tuple[str, Callable[..., object], str]]:
    """All public classes and functions, with the names that users know and their docstrings."""
    for name in PUBLIC_MODULES:
        module = importlib.import_module(name)
        for exported in module.__all__:
            value = getattr(module, exported)
            if inspect.isroutine(value):
                yield f"{name}.{exported}", value, inspect.getdoc(value) or ""
            elif inspect.isclass(value):
                # A dataclass that says nothing shows its signature.
                said = (value.__doc__ or "").removeprefix(f"{exported}(")
                yield f"{name}.{exported}", value, said if said == value.__doc__ else ""
                for attribute, member in vars(value).items():
                    function = member.fget if isinstance(member, property) else member
                    if not attribute.startswith("_") and inspect.isroutine(function):
                        # One that overrides may leave it to what it overrides.
                        said = inspect.getdoc(getattr(value, attribute)) or ""
                        yield f"{name}.{exported}.{attribute}", function, said


def test_every_public_class_and_function_says_what_it_promises() -> None:
    """In a docstring that names each parameter, and what a cancel leaves, or refers to another."""
    found = list(promises())
    assert len(found) > 90
    silent = set()
    for name, value, said in found:
        parameters = () if inspect.isclass(value) else inspect.signature(value).parameters
        refers = re.search(r"^(Publish a|A)s (in )?`|\b[Aa]rguments\b", said)
        if not said:
            silent.add(name)
        if not refers:
            silent |= {
                f"{name}({parameter})"
                for parameter in parameters
                if parameter != "self" and not re.search(rf"\b{parameter}\b", said)
            }
            if inspect.iscoroutinefunction(value) and "cancel" not in said.lower():
                silent.add(f"{name}: a cancel")
    assert silent == set()


def test_names_that_are_not_there_are_attribute_errors() -> None:
    for name in ("nonsense", "_nonsense"):
        with pytest.raises(AttributeError, match=f"'trio_watchbus' has no attribute '{name}'"):
            getattr(trio_watchbus, name)
    assert set(trio_watchbus.__all__) <= set(dir(trio_watchbus))


def test_the_command_line_starts_without_trio() -> None:
    """So that it can take an interrupt while it imports that."""
    program = "import sys; import trio_watchbus._cli; sys.exit('trio' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_package_imports_without_any_extra() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS], check=True)


@pytest.mark.parametrize("statement", NEEDS_EXTRA)
def test_what_needs_an_extra_says_which(statement: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS + statement],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    *_, last = done.stderr.splitlines()
    assert last.startswith("ImportError: ")
    assert f"pip install 'trio-watchbus[{NEEDS_EXTRA[statement]}]'" in last


@pytest.mark.skipif(
    "TRIO_WATCHBUS_TEST_WHEEL" not in os.environ, reason="the checkout is tested, not the wheel"
)
def test_the_installed_wheel_is_what_is_tested() -> None:
    site_packages = Path(sysconfig.get_path("purelib"))
    assert site_packages / "trio_watchbus" == FOLDER
    held = {str(path) for path in files("trio-watchbus") or ()}
    assert {"trio_watchbus/py.typed", "trio_watchbus/_redis/lua/prelude.lua"} <= held
    assert {path for path in held if path.startswith(("tests", "docs"))} == set()
