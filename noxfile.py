"""Sessions of nox: those that it runs alone, and others; `nox --list` names all."""

from __future__ import annotations

import shutil
from itertools import chain
from pathlib import Path

import nox
from packaging.requirements import Requirement
from python_discovery import get_interpreter

nox.needs_version = ">=2026.10"

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)
FOUND = [version for version in PYTHONS if get_interpreter(version)]

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
# A Python that is not there is skipped, on CI too; but a run with none of them tests nothing.
nox.options.error_on_missing_interpreters = not FOUND


# Libraries of which this package uses private parts, or behaviour that is not documented.
REACHED_INTO = {"trio", "quart", "quart-trio", "hypercorn", "trio-websocket", "redis"}


def direct_dependencies() -> list[str]:
    """Return the requirements of the package and of its extras."""
    project = PYPROJECT["project"]
    extras = chain.from_iterable(project["optional-dependencies"].values())
    return [*project["dependencies"], *extras]


def lower_bound(requirement: Requirement) -> str:
    """Return the oldest version that `requirement` allows, as it names it."""
    [bound] = [each.version for each in requirement.specifier if each.operator == ">="]
    return bound


def wheel_folder(session: nox.Session) -> Path:
    """Where the `wheel` session leaves the one wheel that the others install."""
    return session.cache_dir / "wheel"


def wheel_with(session: nox.Session, extra: str) -> str:
    """What to tell an installer to get the wheel with an extra."""
    [wheel] = wheel_folder(session).glob("*.whl")
    return f"{wheel}[{extra}]" if extra != "none" else str(wheel)


def install(session: nox.Session, *groups: str) -> None:
    """Install the wheel with every extra, and these dependency groups."""
    session.install(wheel_with(session, "all"), *nox.project.dependency_groups(PYPROJECT, *groups))


@nox.session(default=False)
def wheel(session: nox.Session) -> None:
    """Build the wheel that the other sessions install."""
    shutil.rmtree(wheel_folder(session), ignore_errors=True)
    session.install("build", *PYPROJECT["build-system"]["requires"])
    session.run(
        *("python", "-m", "build", "--wheel", "--no-isolation"),
        *("--outdir", wheel_folder(session)),
    )


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, common faults and formatting."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session(requires=["wheel"])
def types(session: nox.Session) -> None:
    """Check the types of package and tests, and that the public ones are complete."""
    install(session, "types")
    session.run("mypy")
    session.run("pyright", "--verifytypes", "trio_watchbus", "--ignoreexternal")


@nox.session(requires=["wheel"])
def docs(session: nox.Session) -> None:
    """Build the documentation, warnings being errors."""
    install(session, "docs")
    session.run("sphinx-build", "-n", "-W", "--keep-going", "-E", "docs", "docs/_build/html")


@nox.session(requires=["wheel"])
@nox.parametrize("extra", ["none", "server", "redis", "client"])
def extras(session: nox.Session, extra: str) -> None:
    """Try each extra in an environment where nothing else is; that of the server by uvx too."""
    session.install(wheel_with(session, extra))
    session.run("python", "tests/extras/run.py", extra)
    if extra == "server":
        session.install("uv")
        session.run(
            *("python", "tests/extras/run.py", "--served-by", "uvx", "--python", "python"),
            # Not one of an earlier build, which has the same name.
            *("--refresh-package", "trio-watchbus", "--from", wheel_with(session, extra)),
            "watchbus",
        )


@nox.session(default=False)
def diagrams(session: nox.Session) -> None:
    """Draw the documentation's diagrams anew, with npm and the Chromium that is installed."""
    session.install("playwright")
    folder = session.create_tmp()
    session.run("npm", "install", "--no-save", "--prefix", folder, "mermaid@11", external=True)
    mermaid = f"{folder}/node_modules/mermaid/dist/mermaid.min.js"
    session.run("python", "docs/diagrams/draw.py", mermaid)


@nox.session(python=PYTHONS, requires=["wheel"])
def tests(session: nox.Session) -> None:
    """Run the tests against the installed wheel.

    Those of the bus over Redis on every kind of server there is; with a Python between the oldest
    and the newest found on one kind, as what differs between servers does not between Pythons.
    """
    install(session, "test")
    one_server = {"TRIO_WATCHBUS_TEST_ONE_SERVER": "1"} if session.python in FOUND[1:-1] else {}
    session.run(
        *("pytest", "-n", "4", "--dist", "worksteal"),
        *session.posargs,
        env={
            "TRIO_WATCHBUS_TEST_WHEEL": "1",
            # `python -m` in a test's subprocess must not find the checkout either.
            "PYTHONSAFEPATH": "1",
            **one_server,
        },
    )


@nox.session(default=False, requires=["wheel"])
@nox.parametrize("end", ["oldest", "newest"])
def versions(session: nox.Session, end: str) -> None:
    """Run the tests that reach into other libraries on the oldest or newest versions allowed."""
    allowed = [Requirement(text) for text in direct_dependencies()]
    wanted = [each for each in allowed if each.name in REACHED_INTO]
    install(session, "test")
    if end == "oldest":
        session.install(*(f"{each.name}=={lower_bound(each)}" for each in wanted))
    else:
        session.install("--upgrade", *(f"{each.name}{each.specifier}" for each in wanted))
    session.run(
        *("pytest", "-n", "4", "--dist", "worksteal"),
        *(session.posargs or ("tests/e2e", "tests/redis_bus", "tests/remote", "tests/web")),
        env={"TRIO_WATCHBUS_TEST_WHEEL": "1", "PYTHONSAFEPATH": "1"},
    )


@nox.session(default=False, requires=["wheel"])
def benchmarks(session: nox.Session) -> None:
    """Measure speed and memory."""
    install(session, "benchmarks")
    session.run("python", "tests/benchmarks/run.py", *session.posargs)


@nox.session(default=False, requires=["wheel"])
def mutants(session: nox.Session) -> None:
    """Change core, protocol and encoders a thousand small ways; show what no test notices."""
    install(session, "test", "mutants")
    session.run("python", "tests/mutants/run.py", *session.posargs)


@nox.session(default=False, requires=["wheel"])
def faults(session: nox.Session) -> None:
    """Put known faults in, one at a time, and show that the tests fail for each."""
    install(session, "test")
    session.run("python", "tests/faults/run.py", *session.posargs)


@nox.session(default=False, requires=["wheel"])
def fuzz(session: nox.Session) -> None:
    """Feed the parsers what a coverage-guided fuzzer makes up."""
    install(session, "test", "fuzz")
    session.run("python", "tests/fuzz/run.py", *session.posargs)


@nox.session(default=False, requires=["wheel"])
def soak(session: nox.Session) -> None:
    """Open and close many watches and connections, and show that nothing is left."""
    install(session, "test", "benchmarks")
    session.run("python", "tests/soak/run.py", *session.posargs)


@nox.session(default=False, requires=["wheel"])
def load(session: nox.Session) -> None:
    """Serve a thousand clients of which some misbehave, and thousands that idle; measure it."""
    install(session)
    session.run("python", "tests/load/run.py")
