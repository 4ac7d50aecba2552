"""Puts known faults in, one at a time, and shows that the tests fail for each.

A mutant that survives is a missing test. It takes some minutes for all: `--only PATTERN` runs those
that the pattern finds, in the file or in the sentence that names the fault.
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

from mutants import (
    bus_mutants,
    delivery_mutants,
    redis_mutants,
    remote_mutants,
    structure_mutants,
    testing_mutants,
    watch_mutants,
    web_mutants,
)
from mutants.mutant import Mutant

import trio_watchbus

PACKAGE = Path(trio_watchbus.__file__).parent
ROOT = Path(__file__).parents[2]

MUTANTS: list[Mutant] = [
    *structure_mutants.MUTANTS,
    *delivery_mutants.MUTANTS,
    *watch_mutants.MUTANTS,
    *bus_mutants.MUTANTS,
    *redis_mutants.MUTANTS,
    *web_mutants.MUTANTS,
    *remote_mutants.MUTANTS,
    *testing_mutants.MUTANTS,
]

SECONDS = 300
"""Until a run of tests is taken to hang, which is a failure too."""

PYTEST = [
    *(sys.executable, "-m", "pytest", "--exitfirst", "--quiet", "-p", "no:cacheprovider"),
    # Finding a failure is enough: it is not made small.
    *("--hypothesis-profile=mutants", "--timeout=20"),
]
FAILED = 1
"""What pytest exits with where tests were run and one failed."""

TIMED_OUT = ("from pytest-timeout", "TooSlowError")
"""What a test says that failed as something did not come in time."""


class Result(NamedTuple):
    """What became of a mutant, and which test failed."""

    mutant: Mutant
    verdict: str
    seconds: float
    output: str
    failed: str = ""

    @property
    def killed(self) -> bool:
        return self.verdict.startswith("killed")


def main() -> int:
    """Run the mutants, print a table, and return 0 if all were killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a regular expression")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if re.search(options.only, f"{m.file}: {m.fault}")]

    with TemporaryDirectory() as folder:
        tests = tuple(dict.fromkeys(test for mutant in chosen for test in mutant.tests))
        healthy = run_tests(copy_package(Path(folder)), tests, None)
        if healthy.returncode != 0:
            print(healthy.stdout, "the tests fail without a fault put in", sep="\n")
            return 1

    results = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for result in pool.map(try_mutant, chosen):
            results.append(result)
            print(
                f"{result.verdict:10} {result.seconds:4.0f} s  {result.mutant.file}:"
                f" {result.mutant.fault}" + (f"; {result.failed}" if result.failed else ""),
                flush=True,
            )
    survivors = [result for result in results if not result.killed]
    for result in survivors:
        print(f"\n{result.verdict}: {result.mutant.fault}\n{result.output}")
    print(f"\n{len(results) - len(survivors)} of {len(results)} mutants killed")
    return 1 if survivors or not results else 0


def try_mutant(mutant: Mutant) -> Result:
    """Run a mutant's tests on a copy of the package with its fault."""
    start = time.monotonic()
    with TemporaryDirectory() as folder:
        copy = copy_package(Path(folder))
        path = copy / mutant.file
        source = path.read_text()
        if source.count(mutant.text) != 1:
            return Result(mutant, "not found", 0, f"{mutant.text!r} stands there not once")
        path.write_text(source.replace(mutant.text, mutant.replacement))
        try:
            run = run_tests(copy, mutant.tests, SECONDS)
        except subprocess.TimeoutExpired:
            return Result(mutant, "killed (it hung)", time.monotonic() - start, "")
    verdict = {0: "survived", FAILED: "killed"}.get(run.returncode, "no tests")
    failed = failed_test(run.stdout) if run.returncode == FAILED else ""
    if failed and is_time_out(run.stdout) and not passes_without_fault(failed):
        verdict = "too slow without it, too"
    return Result(mutant, verdict, time.monotonic() - start, run.stdout[-2000:], failed)


def failed_test(output: str) -> str:
    """Return the test that failed first, as pytest names it."""
    named = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", output, re.MULTILINE)
    return named[1] if named else ""


def is_time_out(output: str) -> bool:
    """Whether a test failed as something did not come in time."""
    return any(said in output for said in TIMED_OUT)


def passes_without_fault(test: str) -> bool:
    """Whether a test that took too long passes on a busy machine, where there is no fault."""
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
    """Run tests against a copy of the package, for so long at most."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(package.parent),
        # Neither this folder nor the checkout comes before the copy.
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
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
