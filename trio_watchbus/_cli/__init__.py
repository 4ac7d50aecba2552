"""The command line: ``watchbus``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run ``watchbus`` with the arguments of this process, and exit."""
    try:
        from ._main import run  # noqa: PLC0415, without click there is none
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.stderr.write(
            "watchbus: the command line is not installed; pip install 'trio-watchbus[server]'"
            " to serve, or 'trio-watchbus[client]' to watch and publish\n"
        )
        sys.exit(2)
    sys.exit(run(sys.argv[1:]))
