"""Log lines on standard error."""

from __future__ import annotations

import logging

from ._printable import printable


def log_to_stderr(layout: str, level: int) -> None:
    """Print what is logged, from `level` on; what others wrote in it is made safe to show."""
    handler = logging.StreamHandler()
    handler.setFormatter(_PrintableFormatter(layout))
    logging.basicConfig(level=level, handlers=[handler])


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))
