"""A server, watchers and publishers, each a process of its own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import trio
from command import SECONDS, Running, command, running
from redis_bus.servers import binaries

from trio_watchbus import open_watchbus


async def url_of(server: Running) -> str:
    """Return where a server says it is."""
    line = await server.error_line()
    return line.rpartition(" ")[2]


async def test_two_shells() -> None:
    """Serve and watch in one, publish in the other; the server is killed and started again."""
    async with running("serve", "--bind", "127.0.0.1:0") as server:
        url = await url_of(server)
        async with running("watch", "--prefix", "orders/", "--bus", url) as watch:
            # Nothing says that it watches, so that it is published to until it has come.
            with trio.fail_after(30):
                while True:
                    published = await command("publish", "orders/1", "hello", "--bus", url)
                    assert published.status == 0
                    with trio.move_on_after(0.5):
                        assert await watch.line() == b"hello"
                        break
            server.process.kill()
            assert "lost the connection" in await watch.error_line()
            address = url.removeprefix("http://")
            async with running("serve", "--bind", address) as again:
                assert await url_of(again) == url
                assert "connected" in await watch.error_line()
                # What the first one held is gone with it.
                assert "lost an unknown number" in await watch.error_line()
                await command("publish", "orders/2", "again", "--bus", url)
                # It may have been greeted twice.
                while (line := await watch.line()) != b"again":
                    assert line == b"hello"


async def test_a_remote_bus_is_left_without_its_server_that_is_stopped() -> None:
    """It takes none of the minutes for which a publish waits."""
    async with running("serve", "--bind", "127.0.0.1:0") as server:
        url = await url_of(server)
        async with open_watchbus(url, timeout=60) as bus, bus.watch("k"):
            server.process.send_signal(signal.SIGSTOP)
            with trio.move_on_after(0.1):
                await bus.publish("k", b"")
            began = trio.current_time()
        assert trio.current_time() - began < 5
        server.process.send_signal(signal.SIGCONT)


def folders(place: Path) -> list[str]:
    return [path.name for path in place.iterdir()]


async def test_a_bench_ends_the_redis_server_that_it_started(tmp_path: Path) -> None:
    """Though the command blocks the signals that end such a server, which inherits that."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "redis-server").symlink_to(binaries()["valkey"])
    few = ("--messages", "20", "--size", "16", "--watchers", "1", "--keys", "1", "--seconds", "0.1")
    with trio.fail_after(SECONDS):
        ended = await command(
            *("bench", "redis", *few),
            environment={"PATH": f"{folder}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)},
        )
    assert ended.status == 0, ended.err
    assert folders(tmp_path) == ["bin"]
