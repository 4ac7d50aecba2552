"""Does one piece of work and prints its figure: `python -m benchmarks.work MODULE FUNCTION a=1`."""

import sys
from importlib import import_module


def main(module: str, function: str, *arguments: str) -> None:
    """Call the function, with numbers as such."""
    named = dict(argument.split("=", 1) for argument in arguments)
    values = {name: int(value) if value.isdecimal() else value for name, value in named.items()}
    figure = getattr(import_module(f"benchmarks.{module}"), function)(**values)
    sys.stdout.write(f"{figure}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
