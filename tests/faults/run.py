"""Puts faults into copies of the package, one at a time, and shows that the tests fail for each.

A fault that survives is a missing test. `--only PATTERN` runs those whose sentence or function the
regular expression finds.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.all_faults import FAULTS
from faults.fault import Fault, LuaFault, StaleFaultError

import trio_watchbus

PACKAGE = Path(trio_watchbus.__file__).parent
ROOT = Path(__file__).parents[2]

SECONDS = 300
"""How long the tests of one fault may run; a hang is a failure that was noticed."""

PYTEST = [
    *(sys.executable, "-m", "pytest", "--exitfirst", "--quiet", "-p", "no:cacheprovider"),
    # Finding a failure is enough; it is not shrunk.
    *("--hypothesis-profile=mutants", "--timeout=20"),
]
FAILED = 1
"""The exit status of pytest when tests ran and one failed."""

TIMED_OUT = ("from pytest-timeout", "TooSlowError")
"""What pytest prints when a test failed for lack of time."""


class Result(NamedTuple):
    """What became of a fault, and which test failed."""

    fault: Fault | LuaFault
    verdict: str
    seconds: float
    output: str
    failed: str = ""

    @property
    def killed(self) -> bool:
        return self.verdict == "killed"


def main() -> int:
    """Try the faults, print a line for each, and return 0 if all were noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a regular expression")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    options = parser.parse_args()
    chosen = [f for f in FAULTS if re.search(options.only, f"{f.function}: {f.sentence}")]

    tests = tuple(dict.fromkeys(test for fault in chosen for test in fault.tests))
    with TemporaryDirectory() as folder:
        healthy = run_tests(copy_package(Path(folder)), tests, None)
    if healthy.returncode != 0:
        print(healthy.stdout, "the tests fail without a fault", sep="\n")
        return 1

    results = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for result in pool.map(try_fault, chosen):
            results.append(result)
            print(
                f"{result.verdict:8} {result.seconds:4.0f} s  {result.fault.function}:"
                f" {result.fault.sentence}" + (f"; {result.failed}" if result.failed else ""),
                flush=True,
            )
    survivors = [result for result in results if not result.killed]
    for result in survivors:
        print(f"\n{result.verdict}: {result.fault.sentence}\n{result.output}")
    print(f"\n{len(results) - len(survivors)} of {len(results)} faults killed")
    return 1 if survivors or not results else 0


def try_fault(fault: Fault | LuaFault) -> Result:
    """Run a fault's tests on a copy of the package that has it."""
    start = time.monotonic()
    with TemporaryDirectory() as folder:
        copy = copy_package(Path(folder))
        try:
            path, text = fault.apply(PACKAGE)
        except StaleFaultError as error:
            return Result(fault, "stale", 0, str(error))
        (copy / path.relative_to(PACKAGE)).write_text(text)
        try:
            run = run_tests(copy, fault.tests, SECONDS)
        except subprocess.TimeoutExpired:
            return Result(fault, "killed", time.monotonic() - start, "", "the run hung")
    verdict = {0: "survived", FAILED: "killed"}.get(run.returncode, "no tests")
    failed = failed_test(run.stdout) if run.returncode == FAILED else ""
    if failed and is_time_out(run.stdout) and not passes_without_fault(failed):
        verdict = "too slow without it"
    return Result(fault, verdict, time.monotonic() - start, run.stdout[-2000:], failed)


def failed_test(output: str) -> str:
    """Return the test that failed first, as pytest names it."""
    named = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", output, re.MULTILINE)
    return named[1] if named else ""


def is_time_out(output: str) -> bool:
    """Whether a test failed for lack of time."""
    return any(sign in output for sign in TIMED_OUT)


def passes_without_fault(test: str) -> bool:
    """Whether a test that took too long passes on this machine without the fault."""
    with TemporaryDirectory() as folder:
        return run_tests(copy_package(Path(folder)), (test,), None).returncode == 0


def copy_package(folder: Path) -> Path:
    """Copy the package into a folder."""
    return Path(
        shutil.copytree(
            PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__")
        )
    )


def run_tests(
    package: Path, tests: tuple[str, ...], seconds: float | None
) -> subprocess.CompletedProcess[str]:
    """Run tests against a copy of the package, for at most so many seconds."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(package.parent),
        # Neither this folder nor the checkout comes before the copy.
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        # A fault that one kind of Redis server shows is found on each of them.
        "TRIO_WATCHBUS_TEST_ONE_SERVER": "1",
    }
    environment.pop("TRIO_WATCHBUS_TEST_WHEEL", None)
    return subprocess.run(
        [*PYTEST, *tests],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )


if __name__ == "__main__":
    sys.exit(main())
