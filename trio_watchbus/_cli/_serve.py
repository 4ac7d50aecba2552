"""``watchbus serve``: a bus over HTTP."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import Any

import click

from .._open import open_watchbus
from ..web._hypercorn import make_config
from ..web._listen import Bind, open_socket, url_of
from ..web._options import ServerOptions
from ._errors import CommandError, blaming, one_line, say, shown_url, source_of
from ._settings import BusSettings, settings_options
from ._stop import StopRequests
from ._worker import log_server, report_stop, run_worker
from ._workers import run_workers

_DEFAULTS = ServerOptions()
_SETTINGS = {field.name for field in fields(ServerOptions)}


def _setting(name: str, **how: Any) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Return the option for one of the fields of `ServerOptions`."""
    flag = "--" + name.replace("_", "-")
    default = getattr(_DEFAULTS, name)
    return click.option(flag, name, default=default, show_default=default is not None, **how)


@click.command()
@click.option(
    "--bind", default="127.0.0.1:8000", show_default=True, help="Where to listen, host:port."
)
@click.option(
    "--bus", "bus_url", default="memory://", show_default=True, help="URL of the bus to serve."
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that serve. More than one needs a bus that they share.",
)
@_setting("certfile", type=click.Path(exists=True, dir_okay=False), help="TLS certificate, PEM.")
@_setting("keyfile", type=click.Path(exists=True, dir_okay=False), help="TLS key, PEM.")
@_setting(
    "allow_anonymous",
    is_flag=True,
    help="Listen where other machines reach it, though anybody may then watch and publish.",
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    help="A name by which requests may address it; repeatable.",
)
@click.option(
    "--allowed-origin",
    "allowed_origins",
    multiple=True,
    help="An origin whose pages may use it, as https://shop.example; repeatable.",
)
@_setting("heartbeat", type=float, help="Seconds of silence before a stream sends a heartbeat.")
@_setting("keep_alive", type=float, help="Seconds that a connection may idle between requests.")
@_setting(
    "write_timeout", type=float, help="Seconds after which a client that takes nothing is cut."
)
@_setting("grace", type=float, help="Seconds that clients have to leave when it stops.")
@_setting("max_connections", type=int, help="Connections at once, of each worker.")
@_setting("max_connections_per_address", type=int, help="Of these, from one address.")
@_setting("max_keys", type=int, help="Keys and prefixes of one watch.")
@_setting("max_watches", type=int, help="Watches of one watchbus.v1 connection.")
@_setting("max_inbound_size", type=int, help="Bytes of a WebSocket message from a client.")
@_setting("max_batch_size", type=int, help="Bytes of an NDJSON batch.")
@_setting("max_batch_messages", type=int, help="Messages of a batch.")
@_setting("max_in_flight_size", type=int, help="Bytes in flight, of each worker.")
@_setting("access_log", is_flag=True, help="Log each request.")
@settings_options
@click.pass_obj
def serve(
    stop: StopRequests,
    /,
    bind: str,
    bus_url: str,
    workers: int,
    settings: BusSettings,
    **server: Any,
) -> int:
    """Serve a bus over HTTP: Server-Sent Events, WebSocket, and publishing with POST.

    SIGTERM or Ctrl-C stops it: streams are told, and pending requests are answered, within the
    grace period. A second signal stops it at once.
    """
    try:
        options = ServerOptions(**server)
    except ValueError as error:
        raise click.UsageError(_by_source(error)) from None
    with blaming("bind"):
        place = Bind.parse(bind)
    check_bus_url(bus_url, workers, settings)
    check_tls(options)
    log_server(options)
    options = replace(options, allowed_hosts=(*options.allowed_hosts, place.host))
    with listen(place, options) as listening:
        announce = partial(_announce, bus_url, url_of(listening, tls=options.certfile is not None))
        if workers > 1:
            return run_workers(workers, listening, bus_url, settings, options, stop, announce)
        return run_worker(
            listening,
            bus_url,
            settings,
            options,
            stop,
            announce=announce,
            report_stop=partial(report_stop, options.grace),
        )


def check_bus_url(bus_url: str, workers: int, settings: BusSettings) -> None:
    """Return if that many workers can serve the bus of this URL."""
    with blaming("bus_url"):
        open_watchbus(bus_url, **settings)
    if workers > 1 and bus_url.lower().startswith("memory:"):
        raise click.UsageError(
            f"each of {workers} workers would have a memory:// bus of its own: give a --bus that"
            " they share, such as redis://127.0.0.1, or --workers 1"
        )


def listen(place: Bind, options: ServerOptions) -> socket.socket:
    """Return the socket that listens at `place`."""
    try:
        return open_socket(
            place, write_timeout=options.write_timeout, allow_anonymous=options.allow_anonymous
        )
    except OSError as error:
        reason = "" if error.strerror is None else error.strerror.lower()
        hint = "stop what listens there, or choose" if error.errno == errno.EADDRINUSE else "choose"
        source = source_of(click.get_current_context(), "bind")
        raise CommandError(
            f"cannot listen on {place.host}:{place.port}: {reason}; {hint} another with {source}"
        ) from None
    except UnicodeError:
        source = source_of(click.get_current_context(), "bind")
        raise click.UsageError(f"{source}: {place.host!r} is not a host name") from None
    except ValueError as error:
        raise click.UsageError(_by_source(error)) from None


def _by_source(error: ValueError) -> str:
    """Return the message of `error`, with settings named by their option or variable."""
    context = click.get_current_context()
    # One that names the option beside the setting.
    message = re.sub(r"\b(\w+) \(--[a-z-]+\)", r"\1", str(error))
    names = [param.name for param in context.command.params if param.name in _SETTINGS]
    return re.sub(
        rf"\b({'|'.join(map(str, names))})\b", lambda name: source_of(context, name[0]), message
    )


def check_tls(options: ServerOptions) -> None:
    """Return if the TLS files are what they should be."""
    try:
        make_config(options, 0).create_ssl_context()
    except OSError as error:
        if not isinstance(error, ssl.SSLError):
            reason = one_line(error)
        elif error.reason == "KEY_VALUES_MISMATCH":
            reason = "the key is not that of the certificate"
        else:
            # OpenSSL says "PEM lib" for either file.
            reason = "the first is not a PEM certificate, or the second is not a PEM key"
        raise CommandError(
            f"cannot serve TLS with {options.certfile} and {options.keyfile}: {reason}"
        ) from None


def _announce(bus_url: str, url: str) -> None:
    """Say where the server is, and how to try it."""
    say(f"{shown_url(bus_url)} served at {url}")
    click.echo(f"  try: curl -N '{url}/sse?key=hello'", err=True)
