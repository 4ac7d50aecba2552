"""Changes the package a thousand small ways with mutmut, and shows which of them no test notices.

pyproject.toml says which modules are changed and which tests are run. `--sample N` tries N mutants
that `--seed` chooses; otherwise all are tried. Exits with 1 where fewer are killed than `--least`
asks for: some survivors are equivalent to the original, so not all can be.

mutmut leaves decorated functions alone, and what runs on import: `tests/faults` has those by hand.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
COPIED = ("trio_watchbus", "tests", "pyproject.toml", "README.md")

KILLED = ("killed", "timeout")


def main() -> int:
    """Try mutants; print the survivors and the score, and return 0 if that is high enough."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, metavar="N", help="try N mutants, not all")
    parser.add_argument("--seed", type=int, default=0, help="what a sample is chosen by")
    parser.add_argument("--least", type=float, default=90.0, help="per cent to be killed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="at a time")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        for name in COPIED:
            copy(ROOT / name, Path(folder, name))
        run = ["run", "--max-children", str(options.jobs)]
        if options.sample is None:
            output = mutmut(folder, *run)
            tried = results(folder)
        else:
            # A run of none, to have them all made and named.
            output = mutmut(folder, *run, "none")
            names = sorted(results(folder))
            chosen = random.Random(options.seed).sample(names, min(options.sample, len(names)))
            if chosen:
                output = mutmut(folder, *run, *chosen)
            found = results(folder)
            tried = {name: found[name] for name in chosen}
        if not tried or "not checked" in tried.values():
            # As where a test fails without any change.
            print(output, "mutmut did not come to its end", sep="\n")
            return 1
        return report(folder, tried, options.least)


def report(folder: str, tried: dict[str, str], least: float) -> int:
    """Print what became of mutants; return 0 if enough were killed."""
    for name, verdict in sorted(tried.items()):
        if verdict not in KILLED:
            print(mutmut(folder, "show", name).strip(), end="\n\n")
    counts = Counter(tried.values())
    killed = sum(counts[verdict] for verdict in KILLED)
    score = 100 * killed / max(1, len(tried))
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()))
    print(f"{killed} of {len(tried)} mutants killed: {score:.1f} % (at least {least:g} %)")
    return 0 if tried and score >= least else 1


def results(folder: str) -> dict[str, str]:
    """Return the verdict on each mutant, by its name."""
    lines = mutmut(folder, "results", "--all", "true").splitlines()
    pairs = (line.strip().rpartition(": ") for line in lines if "__mutmut_" in line)
    return {name: verdict for name, _, verdict in pairs}


def mutmut(folder: str, *arguments: str) -> str:
    """Run mutmut in a folder, and return what it prints."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    # The mutants come before the wheel.
    environment.pop("PYTHONSAFEPATH", None)
    environment.pop("TRIO_WATCHBUS_TEST_WHEEL", None)
    return subprocess.run(
        [Path(sys.executable).with_name("mutmut"), *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    ).stdout


def copy(source: Path, target: Path) -> None:
    """Copy a file or a folder."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


if __name__ == "__main__":
    sys.exit(main())
