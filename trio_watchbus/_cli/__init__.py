"""The command line: ``watchbus``."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run ``watchbus`` with the arguments of this process, and exit."""
    # Before anything else, as imports take long enough to be interrupted. `StopRequests` hears
    # what came meanwhile.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    from ._stop import StopRequests, next_signal  # noqa: PLC0415
    from ._streams import install_streams  # noqa: PLC0415

    stop = StopRequests(next_signal, install_streams())
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
