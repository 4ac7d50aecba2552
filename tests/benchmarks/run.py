"""Runs the benchmarks: `python tests/benchmarks/run.py --help` says how."""

import runpy
import sys
from pathlib import Path

# Modules of this folder are `benchmarks.…`: by their plain names they would hide other packages.
sys.path[0] = str(Path(__file__).resolve().parent.parent)
runpy.run_module("benchmarks", run_name="__main__")
