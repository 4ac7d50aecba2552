"""The command line where only some of the extras are installed."""

from __future__ import annotations

import sys

import pytest
from command import Ended, running

EXTRAS = {
    "server": {"quart", "quart_trio", "hypercorn", "h11", "werkzeug"},
    "redis": {"redis"},
    "client": {"trio_websocket"},
}
"""What each extra alone brings."""

WITHOUT = """
import sys
for name in sys.argv.pop(1).split():
    sys.modules[name] = None
from trio_watchbus._cli import main
main()
"""


async def with_only(extra: str, *arguments: str) -> Ended:
    """Run ``watchbus`` with what this extra brings, and nothing of the others."""
    missing = set().union(*EXTRAS.values()) - EXTRAS.get(extra, set())
    return await without(missing, *arguments)


async def without(modules: set[str], *arguments: str) -> Ended:
    """Run ``watchbus`` where these modules are not installed."""
    program = (sys.executable, "-c", WITHOUT, " ".join(modules))
    async with running(*arguments, program=program) as process:
        assert process.process.stdin is not None
        await process.process.stdin.aclose()
        return await process.end()


@pytest.mark.parametrize("extra", ["client", "server"])
async def test_all_commands_are_listed_with_one_extra(extra: str) -> None:
    ended = await with_only(extra, "--help")
    assert (ended.status, ended.err) == (0, "")
    listed = [
        line.split()[0] for line in ended.out.decode().partition("Commands:")[2].splitlines()[1:]
    ]
    assert listed == ["bench", "publish", "serve", "watch"]


@pytest.mark.parametrize(
    ("extra", "command", "needed"),
    [
        ("client", "serve", "server"),
        ("client", "serve --bind 127.0.0.1:0 --help", "server"),
        ("client", "bench sse --messages 1", "server"),
        ("client", "bench ws --messages 1", "server"),
        ("client", "bench publish --messages 1", "server"),
        ("client", "bench redis --bus redis://127.0.0.1:1", "redis"),
        ("client", "publish a b --bus redis://127.0.0.1:1", "redis"),
        ("server", "serve --bus redis://127.0.0.1:1", "redis"),
        ("server", "publish a b", "client"),
        ("server", "watch a", "client"),
    ],
)
async def test_what_is_not_installed_is_said_in_one_line_with_its_extra(
    extra: str, command: str, needed: str
) -> None:
    ended = await with_only(extra, *command.split())
    assert (ended.status, ended.out) == (2, b"")
    assert ended.err.startswith("watchbus: ")
    assert ended.err.endswith(f"pip install 'trio-watchbus[{needed}]'\n")
    assert ended.err.count("\n") == 1


async def test_without_any_extra_both_that_bring_the_command_line_are_said() -> None:
    ended = await without({"click"}, "--help")
    assert (ended.status, ended.out) == (2, b"")
    assert "trio-watchbus[server]" in ended.err
    assert "trio-watchbus[client]" in ended.err
    assert ended.err.count("\n") == 1
