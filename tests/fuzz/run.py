"""Feeds each target what a coverage-guided fuzzer makes up, for some time.

`--seconds` is for each target; `--only NAME` runs one.
"""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))

CHILD = "--fuzz"


def main() -> int:
    """Fuzz the targets, each in a process of its own; return 0 if all held."""
    targets = importlib.import_module("fuzz.targets")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--only", choices=targets.TARGETS, help="one target alone")
    options = parser.parse_args()
    failed = 0
    for name in [options.only] if options.only else targets.TARGETS:
        with TemporaryDirectory() as folder:
            corpus = Path(folder, "corpus")
            corpus.mkdir()
            for number, seed in enumerate(targets.SEEDS[name]):
                (corpus / str(number)).write_bytes(seed)
            run = subprocess.run(
                [
                    *(sys.executable, __file__, CHILD, name, str(corpus)),
                    *(f"-max_total_time={options.seconds}", f"-artifact_prefix={folder}/"),
                    *("-timeout=10", "-rss_limit_mb=1024", "-max_len=4096"),
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=options.seconds + 120,
                check=False,
            )
        done = re.search(r"Done (\d+) runs in (\d+) second", run.stdout)
        if run.returncode == 0 and done:
            print(f"{name}: held for {done[1]} inputs in {done[2]} s", flush=True)
        else:
            failed += 1
            print(f"{name}: FAILED\n{run.stdout[-4000:]}", flush=True)
    return 1 if failed else 0


def fuzz(name: str, arguments: list[str]) -> None:
    """Fuzz one target in this process, which ends with that."""
    # Here, as it looks at what is imported after it.
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["trio_watchbus"]):
        targets = importlib.import_module("fuzz.targets")
    atheris.Setup([__file__, *arguments], targets.TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        fuzz(sys.argv[2], sys.argv[3:])
    sys.exit(main())
