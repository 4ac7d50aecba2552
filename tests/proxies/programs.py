"""Proxies in front of a served bus, configured as the documentation says."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sysconfig
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trio
from page_blocks import blocks

PAGE = Path(__file__).parents[2] / "docs/how-to/proxies.md"

SECONDS = 30
"""How long a proxy may take to listen or to end: far longer than it does."""

# Debian has most of them where only root looks; Envoy comes as a wheel.
_PATH = os.pathsep.join(
    [os.environ.get("PATH", os.defpath), "/usr/sbin", sysconfig.get_path("scripts")]
)


@dataclass(frozen=True)
class Proxy:
    """A proxy that the page has a configuration for.

    Attributes:
        name: what the page marks its configuration with.
        program: what runs it.
        file: where its configuration goes.
        command: arguments of the program; `{folder}` and `{port}` are filled in.
        port: where the page has it listen.
        tls: whether it terminates TLS there.
        heartbeats: how many it has to pass on before it notices that a client left; none if it
            notices by itself.
        around: what makes the page's part a whole configuration.
    """

    name: str
    program: str
    file: str
    command: tuple[str, ...]
    port: int = 8443
    tls: bool = True
    heartbeats: int = 0
    around: Callable[[Path, str], str] = lambda folder, text: text

    @property
    def path(self) -> str | None:
        """Where the program is, if it is installed."""
        return shutil.which(self.program, path=_PATH)

    @property
    def configuration(self) -> str:
        """What the page says."""
        [text] = [b.text for b in blocks(PAGE) if (b.mark, b.detail) == ("proxy", self.name)]
        return text


def _nginx(folder: Path, text: str) -> str:
    folders = "".join(
        f"{kind}_temp_path {folder}/.nginx;"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # Started by root its workers would be nobody, whom `folder` does not let in.
    user = "user root;" if os.geteuid() == 0 else ""
    return (
        f"{user} daemon off; pid {folder}/.nginx.pid; error_log stderr; events {{}}"
        f" http {{ access_log off; {folders} {text} }}"
    )


def _haproxy(folder: Path, text: str) -> str:
    pem = (folder / "shop.example.crt").read_text() + (folder / "shop.example.key").read_text()
    (folder / "shop.example.pem").write_text(pem)
    return text


def _caddy(folder: Path, text: str) -> str:
    return (
        "{\nadmin off\nauto_https disable_redirects\n"
        f"storage file_system {folder}/.caddy\nskip_install_trust\n}}\n{text}"
    )


def _apache(folder: Path, text: str) -> str:
    modules = "/usr/lib/apache2/modules"
    loaded = ("mpm_event", "authz_core", "socache_shmcb", "ssl", "http2", "proxy", "proxy_http")
    lines = [
        *(f"LoadModule {name}_module {modules}/mod_{name}.so" for name in loaded),
        f"ServerRoot {folder}",
        f"DefaultRuntimeDir {folder}",
        f"PidFile {folder}/.apache.pid",
        "ServerName shop.example",
        "ErrorLog /dev/stderr",
        *(["User nobody", "Group nogroup"] if os.geteuid() == 0 else []),
    ]
    return "\n".join([*lines, text])


_PROXIES = (
    Proxy(
        "nginx",
        "nginx",
        "nginx.conf",
        ("-e", "stderr", "-p", "{folder}", "-c", "{folder}/nginx.conf"),
        around=_nginx,
    ),
    Proxy(
        "haproxy",
        "haproxy",
        "haproxy.cfg",
        ("-db", "-f", "haproxy.cfg"),
        around=_haproxy,
    ),
    Proxy("caddy", "caddy", "Caddyfile", ("run", "--config", "Caddyfile"), around=_caddy),
    Proxy(
        "apache",
        "apache2",
        "apache.conf",
        ("-D", "FOREGROUND", "-f", "{folder}/apache.conf"),
        heartbeats=2,
        around=_apache,
    ),
    Proxy(
        "envoy",
        "envoy",
        "envoy.yaml",
        ("-c", "envoy.yaml", "--log-level", "error", "--concurrency", "1", "--disable-hot-restart"),
    ),
    Proxy(
        "lighttpd",
        "lighttpd",
        "lighttpd.conf",
        ("-D", "-f", "lighttpd.conf"),
        port=8080,
        tls=False,
        heartbeats=1,
    ),
    Proxy(
        "varnish",
        "varnishd",
        "varnish.vcl",
        (
            *("-F", "-j", "none", "-n", "{folder}/.varnish", "-s", "malloc,16m"),
            *("-a", "127.0.0.1:{port}", "-f", "{folder}/varnish.vcl"),
            *("-p", "backend_idle_timeout=4"),
        ),
        port=8080,
        tls=False,
        heartbeats=3,
    ),
)

PROXIES = {proxy.name: proxy for proxy in _PROXIES}


@asynccontextmanager
async def running(proxy: Proxy, folder: Path, port: int, bus_port: int) -> AsyncIterator[None]:
    """Run `proxy` on `port` in front of the bus at `bus_port`; end it afterwards.

    Args:
        proxy: the proxy, which is installed.
        folder: an empty one, but for `shop.example.crt` and `shop.example.key`.
        port: where it listens, on 127.0.0.1.
        bus_port: where the bus is, on 127.0.0.1.
    """
    program = proxy.path
    assert program is not None
    text = proxy.configuration.replace(str(proxy.port), str(port)).replace("8000", str(bus_port))
    (folder / proxy.file).write_text(proxy.around(folder, text))
    output = folder / f".{proxy.name}.printed"
    with output.open("wb") as file:
        process = await trio.lowlevel.open_process(
            [program, *(part.format(folder=folder, port=port) for part in proxy.command)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=folder,
            # In a group of its own, with whatever it starts.
            start_new_session=True,
        )
    try:
        with trio.fail_after(SECONDS):
            while not await _listens(port):
                assert process.poll() is None, output.read_text(errors="replace")
                # A process tells nobody when it begins to listen.
                await trio.sleep(0.01)
        yield
        assert process.poll() is None, output.read_text(errors="replace")
    finally:
        with trio.CancelScope(shield=True):
            await _end(process)


async def _listens(port: int) -> bool:
    with suppress(OSError):
        await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
        return True
    return False


async def _end(process: trio.Process) -> None:
    """End a process and what it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with trio.move_on_after(SECONDS):
        await process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
