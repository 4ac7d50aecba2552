"""The reference names all there is, and nothing else."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import Any, get_args

import click
import pytest
from page_session import ROOT
from redis_bus.servers import running

import trio_watchbus
import trio_watchbus.testing
import trio_watchbus.web
from trio_watchbus import _protocol
from trio_watchbus._cli._main import watchbus
from trio_watchbus._protocol._errors import Code
from trio_watchbus._retention import FilledRetention
from trio_watchbus.abc import WatchOptions, WatchRequest
from trio_watchbus.web import ServerOptions, WebOptions

REFERENCE = ROOT / "docs/reference"
PACKAGE = Path(trio_watchbus.__file__).parent


def page(name: str) -> str:
    return (REFERENCE / f"{name}.md").read_text()


def first_column(text: str) -> set[str]:
    """What stands in backticks in the first column of the tables in `text`."""
    rows = re.findall(r"^\| (.*?) \|", text, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def section(text: str, title: str) -> str:
    """What stands under the heading `title`, up to the next of its level."""
    return re.split(r"^## ", text.partition(f"\n## {title}\n")[2], flags=re.MULTILINE)[0]


@pytest.mark.parametrize(
    ("module", "pages"),
    [
        ("trio_watchbus", ["api", "errors"]),
        ("trio_watchbus.abc", ["api"]),
        ("trio_watchbus.testing", ["testing"]),
        ("trio_watchbus.web", ["web"]),
    ],
)
def test_every_public_name_is_documented(module: str, pages: list[str]) -> None:
    names = {f"{module}.{name}" for name in import_module(module).__all__}
    directive = r"^\.\. (?:auto\w+|py:data):: ([\w.]+)"
    documented = set(re.findall(directive, "".join(map(page, pages)), re.MULTILINE))
    assert {name for name in names if not inspect.ismodule(import_name(name))} <= documented


def import_name(name: str) -> object:
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def codes_of_refusals() -> set[str]:
    """The codes of all refusals in the text of the package, `invalid_history` aside."""
    found = set()
    for path in (PACKAGE / "web").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "Refusal"
                and isinstance(node.args[1], ast.Constant)
            ):
                found.add(str(node.args[1].value))
    return found


def test_every_code_of_an_http_error_is_documented() -> None:
    rows = re.findall(r"^\| \d{3} \| (.*?) \|", page("errors"), re.MULTILINE)
    documented = {code for row in rows for code in re.findall(r"`(\w+)`", row)}
    # Made of the name of the parameter; and the framework's.
    assert documented == codes_of_refusals() | {
        "invalid_history",
        "method_not_allowed",
        "not_found",
    }


@pytest.mark.parametrize(
    ("title", "frames"),
    [("What a client sends", _protocol.Request), ("What a server sends", _protocol.Answer)],
)
def test_every_frame_and_field_of_the_protocol_is_documented(title: str, frames: object) -> None:
    documented = section(page("protocol"), title)
    rows = {
        row[1]: set(re.findall(r"`(\w+)`", row[0]))
        for row in re.finditer(r"^\| `(\w+)` \| .*$", documented, re.MULTILINE)
    }
    kinds = {kind.__struct_config__.tag: kind for kind in get_args(frames)}
    assert set(rows) == set(kinds)
    for tag, kind in kinds.items():
        assert set(kind.__struct_fields__) <= rows[tag] | {tag}, tag


def test_every_code_of_a_protocol_error_is_documented() -> None:
    assert first_column(section(page("protocol"), "Error codes")) == set(get_args(Code))


def test_every_close_code_is_documented() -> None:
    rows = re.findall(r"^\| (\d{4}) \|", section(page("protocol"), "Close codes"), re.MULTILINE)
    assert set(map(int, rows)) == set(_protocol.CloseCode)


NO_DEFAULT = inspect.Parameter.empty
WORDS = {
    "none": (None, ()),
    "no": (False,),
    "the system's": (None,),
    "`time.monotonic`": (monotonic,),
}
"""What the page says for defaults that are no number or text."""
UNITS = {"": 1, "s": 1, "KiB": 1024, "MiB": 1024 * 1024}


def of_function(function: Callable[..., object]) -> dict[str, object]:
    """The defaults of a function's arguments, of those that have one."""
    parameters = inspect.signature(function).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not NO_DEFAULT}


def of_fields(options: Any, prefix: str = "") -> dict[str, object]:
    """The defaults of a dataclass's fields."""
    return {prefix + field.name: field.default for field in dataclasses.fields(options)}


def without(defaults: dict[str, object], others: Iterable[str]) -> dict[str, object]:
    return {name: default for name, default in defaults.items() if name not in others}


IN_MEMORY = of_function(trio_watchbus.InMemoryWatchBus)
ON_REDIS = of_function(trio_watchbus.open_redis_watchbus)
ON_BOTH = {name: default for name, default in IN_MEMORY.items() if name in ON_REDIS}

SETTINGS = {
    "Bus settings": of_fields(FilledRetention, "retention.") | without(ON_BOTH, ["retention"]),
    "In memory also": without(IN_MEMORY, ON_REDIS),
    "On Redis also": without(ON_REDIS, IN_MEMORY),
    "Settings for a remote bus": of_function(trio_watchbus.open_remote_watchbus),
    "Watch settings": of_function(WatchRequest),
    "Route settings": of_fields(WebOptions),
    "Server settings": without(of_fields(ServerOptions), of_fields(WebOptions)),
}
"""How each part of the page begins that has a table, and what the code has there."""


def shown_defaults(part: str) -> dict[str, str]:
    """What the tables in a part of the page say: each setting with its default."""
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", part, re.MULTILINE)
    return {name: shown for cell, shown in rows for name in re.findall(r"`([^`]+)`", cell)}


def is_default(shown: str, default: object) -> bool:
    """Whether what the page shows is what the code has."""
    if shown in WORDS:
        return default in WORDS[shown]
    if isinstance(default, str):
        return shown.strip('`"') == default
    number, _, unit = shown.partition(" ")
    return float(number.replace(",", "")) * UNITS[unit] == default


@pytest.mark.parametrize("title", SETTINGS)
def test_every_setting_is_documented_with_its_default(title: str) -> None:
    begin = "|".join(SETTINGS)
    parts = re.split(rf"^(?:## )?({begin})\b", page("settings"), flags=re.MULTILINE)
    assert parts[1::2] == list(SETTINGS)
    shown = shown_defaults(dict(zip(parts[1::2], parts[2::2], strict=True))[title])
    assert set(shown) == set(SETTINGS[title])
    differing = {
        name: (said, SETTINGS[title][name])
        for name, said in shown.items()
        if not is_default(said, SETTINGS[title][name])
    }
    assert differing == {}


def test_what_all_have_is_the_same_wherever_it_is_set() -> None:
    """So that the page says it once: of the two buses, and of a watch however it is asked for."""
    assert ON_BOTH.keys() >= {"retention", "max_message_size"}
    for name, default in ON_BOTH.items():
        # None on Redis: what is stored with the log, or else this default.
        assert ON_REDIS[name] in (default, None), name
    assert set(of_function(WatchRequest)) == set(WatchOptions.__annotations__)


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """All commands below `command`, and their names."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    context = click.Context(command)
    for inner_name in command.list_commands(context):
        inner = command.get_command(context, inner_name)
        assert inner is not None
        yield from commands(inner, f"{name} {inner_name}")


def test_each_option_is_an_environment_variable_named_as_the_page_says() -> None:
    options = [
        (name, option)
        for name, command in commands(watchbus, "watchbus")
        for option in command.params
        if isinstance(option, click.Option)
    ]
    assert len(options) > 40
    for name, option in options:
        flag = option.opts[0].removeprefix("--")
        named = re.sub(r"[ -]", "_", f"{name} {flag}").upper()
        shared = f"WATCHBUS_{flag}".upper()
        shares = name in ("watchbus watch", "watchbus publish") and flag in ("bus", "token")
        assert option.envvar == (shared if shares else named)


async def test_every_name_in_redis_is_documented_with_its_type() -> None:
    documented = dict(
        re.findall(r"^\| `watchbus(:[\w:.]+)` \| ([\w ]+) \|", page("redis-keys"), re.MULTILINE)
    )
    # Only a publish without an answer leaves one.
    assert documented.pop(":publisher:ID.CALL") == "string"
    with running("valkey") as server:
        async with trio_watchbus.open_redis_watchbus(server.url) as bus, bus.watch("watched"):
            await bus.publish("published", b"", idempotency_key="once")
            types = {
                name.decode(): server.call("TYPE", name).decode()
                for name in server.call("KEYS", "*")
            }
    # What stands for any key or identifier, as it is here.
    patterns = {
        re.compile("watchbus" + re.sub("[A-Z]+", r"\\w+", re.escape(name))): kind.replace(
            "sorted set", "zset"
        )
        for name, kind in documented.items()
    }
    for pattern, kind in patterns.items():
        assert {types[name] for name in types if pattern.fullmatch(name)} == {kind}, pattern
    assert all(any(pattern.fullmatch(name) for pattern in patterns) for name in types)
