"""Prints the table of comparisons."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path

from .contest import Result, as_markdown, hold
from .plots import draw
from .rows import all_rows


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="times each side runs (3)")
    parser.add_argument("--only", default="", help="rows whose text contains this")
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the work, to try it")
    parser.add_argument("--json", action="store_true", help="print JSON: every run's figure")
    parser.add_argument("--save", type=Path, help="write the table to this file too")
    parser.add_argument("--plots", type=Path, help="instead, draw how cost grows into this folder")
    arguments = parser.parse_args()

    def tell(what: str) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{what}")

    if arguments.plots is not None:
        draw(arguments.plots, arguments.runs, quick=arguments.quick, tell=tell)
        tell("")
        return
    wanted = arguments.only.lower()
    rows = [row for row in all_rows() if wanted in f"{row.title} {row.peer}".lower()]
    if not rows:
        parser.error(f"no row contains {arguments.only!r}")

    before = _pace()
    results = [hold(row, arguments.runs, quick=arguments.quick, tell=tell) for row in rows]
    tell("")
    table = f"{as_markdown(results)}\n\n{_machine()}\n\nBefore: {before}; after: {_pace()}.\n"
    sys.stdout.write(f"{_as_json(results)}\n" if arguments.json else table)
    if arguments.save is not None:
        arguments.save.write_text(table)


def _as_json(results: list[Result]) -> str:
    return json.dumps(
        [{**asdict(result), "ratio": result.ratio, "met": result.met} for result in results],
        indent=2,
    )


def _machine() -> str:
    """Say where and when it was measured."""
    processor = Path("/proc/cpuinfo").read_text().partition("model name")[2]
    model = processor.partition(":")[2].partition("\n")[0].strip() or platform.machine()
    return (
        f"Measured on {time.strftime('%Y-%m-%d', time.gmtime())}: {model}, {os.cpu_count()} cores, "
        f"Linux {platform.release().partition('-')[0]}, Python {platform.python_version()}."
    )


def _pace() -> str:
    """Say how fast the machine is now, and what else it does."""
    load = Path("/proc/loadavg").read_text().split()[0]
    start = time.process_time()
    total = 0
    for number in range(1_000_000):
        total += number
    took = (time.process_time() - start) * 1000
    return f"load average {load}, and a loop of a million additions took {took:.0f} ms"


if __name__ == "__main__":
    main()
