"""The faults that `nox -s faults` puts in fit the package, and name tests that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from faults.all_faults import FAULTS
from faults.fault import (
    Change,
    Fault,
    LuaFault,
    StaleFaultError,
    body,
    drop,
    every,
    replace,
    swap,
    undecorated,
    wrap,
)

import trio_watchbus

ROOT = Path(__file__).parents[1]
PACKAGE = Path(trio_watchbus.__file__).parent

PYTHON = """\
class Door:
    @guarded
    def close(self, reason):
        # A comment.
        if self.open:
            self.lock(reason, twice=True)
            self.open = False
        return reason or "none"
"""

LUA = """\
local function close(door)
  if door.open then
    call('SET',   door)
  end
end

function operations.close()
  close(take())
end
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "house").mkdir()
    (tmp_path / "house" / "door.py").write_text(PYTHON)
    (tmp_path / "house" / "door.lua").write_text(LUA)
    return tmp_path / "house"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.sentence)
def test_every_fault_changes_the_package(fault: Fault | LuaFault) -> None:
    path, text = fault.apply(PACKAGE)
    original = path.read_text()
    if path.suffix == ".py":
        original = ast.unparse(ast.parse(original))
        compile(text, str(path), "exec")
    assert text != original


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.sentence)
def test_every_fault_names_tests_that_there_are(fault: Fault | LuaFault) -> None:
    assert fault.tests
    for name in fault.tests:
        file, _, test = name.partition("::")
        definition = rf"^(?:async )?def {test or 'test_[a-z0-9_]+'}\("
        assert re.search(definition, (ROOT / file).read_text(), re.MULTILINE), name


def test_sentences_are_different() -> None:
    assert len({fault.sentence for fault in FAULTS}) == len(FAULTS)


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        # What is assigned to is no expression.
        (replace("self.open", "True"), ["if True:", "self.open = False"]),
        (drop("self.lock(...)"), ["self.open = False"]),
        (drop("if self.open:\n    ..."), ["return reason or 'none'"]),
        (replace("reason or ...", "None"), ["return None"]),
        (swap("self.open = False", "self.lock(...)"), ["self.open = False\n            self.lock"]),
        (body("pass"), ["def close(self, reason):\n        pass"]),
        (wrap("if reason:\n    ..."), ["if reason:\n            if self.open:"]),
        (every(undecorated("guarded"), drop("self.lock(...)")), ["class Door:\n\n    def close"]),
    ],
)
def test_a_change_is_made_by_structure(package: Path, change: Change, lines: list[str]) -> None:
    path, text = Fault("", "Door.close", change, ()).apply(package)
    assert path == package / "door.py"
    for line in lines:
        assert line in text


@pytest.mark.parametrize(
    "fault",
    [
        Fault("", "Door.open", drop("pass"), ()),
        Fault("", "oor.close", drop("pass"), ()),
        Fault("", "close", drop("self.lock(reason)"), ()),
        Fault("", "close", undecorated("property"), ()),
        Fault("", "close", swap("self.open = False", "return ..."), ()),
        LuaFault("", "open", "call", "", ()),
        LuaFault("", "close", "call('GET')", "", ()),
        LuaFault("", "close", "door", "", ()),
    ],
)
def test_a_fault_that_does_not_fit_is_refused(package: Path, fault: Fault | LuaFault) -> None:
    with pytest.raises(StaleFaultError):
        fault.apply(package)


def test_a_function_that_is_there_twice_is_refused(package: Path) -> None:
    (package / "gate.py").write_text(PYTHON)
    fault = Fault("", "Door.close", body("pass"), ())
    with pytest.raises(StaleFaultError, match=r"house\.door\..*house\.gate\."):
        fault.apply(package)
    assert Fault("", "gate.Door.close", body("pass"), ()).apply(package)[0].name == "gate.py"


def test_lua_is_matched_whatever_its_white_space(package: Path) -> None:
    fault = LuaFault("", "close", "if door.open then call('SET', door) end", "leave()", ())
    changed = LUA.replace("  if door.open then\n    call('SET',   door)\n  end\n", "  leave()\n")
    assert fault.apply(package)[1] == changed


def test_a_lua_function_of_a_table_is_another_than_the_local_one(package: Path) -> None:
    fault = LuaFault("", "operations.close", "take()", "nil", ())
    assert fault.apply(package)[1] == LUA.replace("close(take())", "close(nil)")
