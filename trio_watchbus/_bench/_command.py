"""``watchbus bench``: how fast, on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import product
from typing import Any, TypeVar

import click
import trio

from .._cli._errors import MissingExtraError, blaming
from .._cli._stop import StopRequests
from .._errors import WatchBusError
from .._open import open_watchbus
from ._bus import measure_bus
from ._connections import BenchError, Opening, Server
from ._figures import Figures, Load, as_json, as_table
from ._processes import end_servers, redis_server, served_bus
from ._served import measure_publishing, measure_streams
from ._stamp import LEAST_SIZE

Progress = Callable[[int], None]
Measure = Callable[[Load, Progress], Figures]
_Command = TypeVar("_Command", bound=Callable[..., Any])

_AT_LEAST_1 = click.IntRange(min=1)
_server_option = click.option(
    "--bus", "bus_url", metavar="URL", help="A server that runs; otherwise one is started."
)
_publishers_option = click.option(
    "--publishers", type=_AT_LEAST_1, default=256, show_default=True, help="Tasks that publish."
)


def _load_options(clients: str, **defaults: int) -> Callable[[_Command], _Command]:
    """Return what adds the options that say how much; `clients` names what there are many of."""

    def count(name: str, default: int, text: str) -> Callable[[_Command], _Command]:
        return click.option(name, type=_AT_LEAST_1, default=default, show_default=True, help=text)

    options = [
        click.option(
            f"--{clients}",
            "clients",
            type=_AT_LEAST_1,
            default=defaults[clients],
            show_default=True,
            help=f"{clients.capitalize()} at the same time.",
        ),
        count("--keys", defaults["keys"], "Keys that they share, in turn."),
        count("--messages", defaults["messages"], "Messages to publish."),
        click.option(
            "--size",
            "sizes",
            type=click.IntRange(min=LEAST_SIZE),
            multiple=True,
            default=[LEAST_SIZE],
            show_default=True,
            help="Bytes of data in a message; may be given several times.",
        ),
        click.option(
            "--rate",
            "rates",
            type=click.FloatRange(min=0),
            multiple=True,
            default=[0],
            show_default=True,
            help="Messages published a second, 0 for full speed; may be given several times.",
        ),
        click.option(
            "--seconds",
            type=click.FloatRange(min=0, min_open=True),
            default=60,
            show_default=True,
            help="End a row then, whatever has come.",
        ),
        click.option("--json", "wants_json", is_flag=True, help="Print JSON instead of a table."),
    ]

    def add(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.group()
@click.pass_obj
def bench(stop: StopRequests | None) -> None:
    """Measure how fast a bus or a served bus is on this machine.

    Prints a row for each size and rate: what was delivered and what was lost, how much a second,
    how long it took from publish to delivery (sampled), and how much of one processor and of
    memory the process of the bus or server took. A - stands for what is not known: all of a
    process that it did not start, and the processor's share where a row took less than half a
    second.
    """
    if stop is not None:
        stop.on_leave(_restore)


def _restore() -> None:
    """Leave nothing of a bench that is interrupted; called in the thread that hears signals."""
    end_servers()
    if sys.stderr.isatty():
        # The progress bar hides the cursor.
        click.echo("\x1b[?25h", err=True)


@bench.command("memory")
@_load_options("watchers", watchers=1000, keys=1000, messages=200_000)
def bench_memory(**options: Any) -> None:
    """Watch and publish in this process, on a bus in memory."""
    _print_rows(_on_bus("memory", "memory://", publishers=1), **options)


@bench.command("redis")
@click.option("--bus", "bus_url", metavar="URL", help="One that runs; otherwise one is started.")
@_publishers_option
@_load_options("watchers", watchers=1000, keys=1000, messages=50_000)
def bench_redis(bus_url: str | None, publishers: int, **options: Any) -> None:
    """Watch and publish in this process, on a Redis bus."""

    def measure(load: Load, progress: Progress) -> Figures:
        if bus_url is not None:
            return _on_bus("redis", bus_url, publishers)(load, progress)
        with redis_server() as url:
            return _on_bus("redis", url, publishers)(load, progress)

    _print_rows(measure, **options)


@bench.command("sse")
@_server_option
@_load_options("watchers", watchers=200, keys=1, messages=1000)
def bench_sse(bus_url: str | None, **options: Any) -> None:
    """Hold SSE streams of a server, and publish to it."""
    _print_rows(_on_streams("sse", bus_url, Server.sse), **options)


@bench.command("ws")
@click.option("--raw", is_flag=True, help="A frame a message, instead of watchbus.v1.")
@_server_option
@_load_options("watchers", watchers=200, keys=1, messages=1000)
def bench_ws(raw: bool, bus_url: str | None, **options: Any) -> None:
    """Hold WebSockets of a server, and publish to it."""
    name, opening = ("ws raw", Server.websocket) if raw else ("ws v1", Server.watchbus_v1)
    _print_rows(_on_streams(name, bus_url, opening), **options)


@bench.command("publish")
@click.option(
    "--batch", type=_AT_LEAST_1, default=1, show_default=True, help="A request's messages."
)
@_server_option
@_load_options("connections", connections=32, keys=1000, messages=10_000)
def bench_publish(batch: int, bus_url: str | None, **options: Any) -> None:
    """Publish to a server, on connections that each wait for their answer."""

    def measure(load: Load, progress: Progress) -> Figures:
        with _server(bus_url) as (server, pid):
            return measure_publishing(server, pid, load, batch, progress)

    _print_rows(measure, **options)


def _on_bus(bench: str, url: str, publishers: int) -> Measure:
    async def run(load: Load, progress: Progress) -> Figures:
        with blaming("bus_url"):
            opening = open_watchbus(url)
        try:
            async with opening as bus:
                return await measure_bus(bench, bus, load, publishers, progress)
        except ExceptionGroup as group:
            failed, others = group.split((WatchBusError, OSError))
            if others is not None:
                raise
            raise BenchError(f"the bus failed: {_first(failed)}") from None

    return lambda load, progress: trio.run(run, load, progress)


def _first(error: BaseException | None) -> BaseException | None:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _on_streams(
    bench: str, bus_url: str | None, opening: Callable[[Server, str], Opening]
) -> Measure:
    def measure(load: Load, progress: Progress) -> Figures:
        with _server(bus_url) as (server, pid):
            return measure_streams(
                bench, server, pid, load, lambda key: opening(server, key), progress
            )

    return measure


@contextmanager
def _server(bus_url: str | None) -> Iterator[tuple[Server, int | None]]:
    """Give the server of that URL, or one of our own and its process."""
    if bus_url is not None:
        yield Server(bus_url), None
    else:
        # What is missing is said here; the other process would end with a traceback.
        import_module("trio_watchbus.web")
        with served_bus() as (url, pid):
            yield Server(url), pid


def _print_rows(
    measure: Measure,
    *,
    clients: int,
    keys: int,
    messages: int,
    sizes: tuple[int, ...],
    rates: tuple[float, ...],
    seconds: float,
    wants_json: bool,
) -> None:
    rows = []
    for size, rate in product(sizes, rates):
        load = Load(
            clients=clients, keys=keys, size=size, rate=rate, messages=messages, seconds=seconds
        )
        try:
            with _progress_bar(load.expected()) as progress:
                rows.append(measure(load, progress))
        except ImportError as error:
            raise MissingExtraError(str(error)) from None
        except (BenchError, WatchBusError, OSError) as error:
            raise click.ClickException(str(error)) from error
    click.echo(as_json(rows) if wants_json else as_table(rows))


@contextmanager
def _progress_bar(length: int) -> Iterator[Progress]:
    """Show on standard error, if that is a terminal, how far it is."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=length, file=sys.stderr) as bar:
        yield lambda count: bar.update(count - bar.pos)
