"""Shows what an extra brings, in an environment with the wheel, this one extra, and no more.

`run.py EXTRA` is for such an environment; `none` is the wheel without an extra. What the extra
brings has to work, and what another brings has to say which. `run.py --served-by COMMAND...` tries
a command that stands for `watchbus`, whatever is installed.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sysconfig
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import trio

import trio_watchbus.abc
import trio_watchbus.testing

NOBODY = "127.0.0.1:1"
"""An address at which nothing listens."""

WATCHBUS = str(Path(sysconfig.get_path("scripts"), "watchbus"))


def use_the_core() -> None:
    """Import all that needs no extra, and pass a message on."""

    async def pass_on() -> None:
        async with trio_watchbus.open_watchbus("memory://") as bus, bus.watch("key") as watch:
            await bus.publish("key", b"data")
            assert (await watch.receive()).data == b"data"

    for module in (trio_watchbus, trio_watchbus.abc, trio_watchbus.testing):
        for name in module.__all__:
            getattr(module, name)
    trio.run(pass_on)


def import_the_web() -> None:
    """Import what serves a bus."""
    importlib.import_module("trio_watchbus.web")


def open_bus(url: str) -> None:
    """Look for a bus where there is none."""

    async def enter() -> None:
        async with trio_watchbus.open_watchbus(url, timeout=0.5):
            raise AssertionError(f"there is a bus at {url}")

    with suppress(trio_watchbus.BusUnavailableError):
        trio.run(enter)


def open_redis() -> None:
    open_bus(f"redis://{NOBODY}")


def open_remote() -> None:
    open_bus(f"http://{NOBODY}")


USES: dict[str, Callable[[], None]] = {
    "server": import_the_web,
    "redis": open_redis,
    "client": open_remote,
}
"""What takes each extra."""

REFUSED = {
    "none": {"watch key": "client"},
    "redis": {"serve": "server"},
    "client": {"serve": "server", f"publish key data --bus redis://{NOBODY}": "redis"},
    "server": {"watch key": "client", f"serve --bus redis://{NOBODY}": "redis"},
}
"""Commands that do not run with an extra alone, and an extra that they name then."""


def assert_names_an_extra(use: Callable[[], None], extra: str) -> None:
    """Assert that `use` fails, and says that `extra` is missing."""
    said = "nothing"
    try:
        use()
    except ImportError as error:
        said = str(error)
    assert f"pip install 'trio-watchbus[{extra}]'" in said, f"without {extra!r} it says: {said}"


def run_watchbus(arguments: str) -> tuple[int, str]:
    """Run ``watchbus``; return its status, and what it says on standard error."""
    done = subprocess.run(
        [WATCHBUS, *arguments.split()], stderr=subprocess.PIPE, text=True, check=False
    )
    return done.returncode, done.stderr


def assert_command_names_an_extra(arguments: str, extra: str) -> None:
    """Assert that ``watchbus`` does not run so, and says in one line that `extra` is missing."""
    status, said = run_watchbus(arguments)
    assert (status, said.count("\n")) == (2, 1), said
    assert f"'trio-watchbus[{extra}]'" in said, said


def assert_publishes() -> None:
    """Assert that ``watchbus publish`` gets as far as to say that there is no server."""
    status, said = run_watchbus(f"publish key data --bus http://{NOBODY}")
    assert status == 1, said
    assert "--bus" in said, said


def assert_serves(command: list[str]) -> None:
    """Assert that `command`, which stands for ``watchbus``, serves, and ends when it is told to."""
    with subprocess.Popen(
        [*command, "serve", "--bind", "127.0.0.1:0"], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            said = ""
            while " served at " not in said:
                said = process.stderr.readline()
                assert said, f"it ended with {process.wait()}"
            with urllib.request.urlopen(f"{said.split()[-1]}/healthz", timeout=30) as answer:
                assert answer.status == 200
        finally:
            process.terminate()
            rest = process.stderr.read()
    assert process.returncode == 0, rest


def try_extra(extra: str) -> None:
    """Assert that here is what `extra` brings, and nothing of the others."""
    use_the_core()
    for name, use in USES.items():
        if name == extra:
            use()
        else:
            assert_names_an_extra(use, name)
    for arguments, missing in REFUSED[extra].items():
        assert_command_names_an_extra(arguments, missing)
    if extra == "server":
        assert_serves([WATCHBUS])
    if extra == "client":
        assert_publishes()


def main() -> None:
    """Try what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("extra", nargs="?", choices=REFUSED)
    chosen.add_argument("--served-by", nargs=argparse.REMAINDER, metavar="COMMAND")
    options = parser.parse_args()
    if options.extra:
        try_extra(options.extra)
    else:
        assert_serves(options.served_by)


if __name__ == "__main__":
    main()
