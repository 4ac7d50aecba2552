"""``python -m trio_watchbus``: the command ``watchbus``."""

from __future__ import annotations

from ._cli import main

if __name__ == "__main__":
    main()
