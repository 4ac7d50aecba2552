"""The command line: ``watchbus``."""

from __future__ import annotations

import sys

from ._stop import StopRequests, block_signals, next_signal
from ._streams import install_streams


def main() -> None:
    """Run ``watchbus`` with the arguments of this process, and exit."""
    # Before anything else: imports take long enough to be interrupted.
    block_signals()
    errors = install_streams()
    stop = StopRequests(next_signal, errors)
    try:
        from ._main import run  # noqa: PLC0415, click is an extra's
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.stderr.write(
            "watchbus: the command line is not installed; pip install 'trio-watchbus[server]'"
            " to serve, or 'trio-watchbus[client]' to watch and publish\n"
        )
        sys.exit(2)
    sys.exit(run(sys.argv[1:], stop))
