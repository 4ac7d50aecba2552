"""Two processes and a database: one caches what it reads, the other says what it changed."""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import trio

from trio_watchbus import BusUnavailableError, Message, WatchLaggedError, open_watchbus
from trio_watchbus.abc import Watch

CHANGED = "changed/price/"


def write_price(file: Path, article: str, price: int) -> None:
    """Write a price into the database."""
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS prices (article PRIMARY KEY, price INTEGER)")
        database.execute("INSERT OR REPLACE INTO prices VALUES (?, ?)", [article, price])


def read_price(file: Path, article: str) -> int:
    """Read a price from the database."""
    with closing(sqlite3.connect(file)) as database:
        [price] = database.execute(
            "SELECT price FROM prices WHERE article = ?", [article]
        ).fetchone()
        return int(price)


class PriceCache:
    """Prices that were read, until somebody says that they changed.

    Attributes:
        changed: set once a price changed.
    """

    def __init__(self, file: Path) -> None:
        self.changed = trio.Event()
        self._file = file
        self._prices: dict[str, int] = {}

    def get(self, article: str) -> tuple[int, str]:
        """Return a price, and where it is from.

        Synchronous, so that no change comes between reading a price and keeping it.
        """
        if article in self._prices:
            return self._prices[article], "the cache"
        self._prices[article] = read_price(self._file, article)
        return self._prices[article], "the database"

    async def forget_changes(self, changes: Watch) -> None:
        """Forget each price that changes, for ever."""
        while True:
            try:
                self._forget(await changes.receive())
            except WatchLaggedError:
                # Nobody knows which changes were lost: any cached price may be wrong.
                self._prices.clear()
            self.changed.set()

    def _forget(self, message: Message) -> None:
        if message.is_prefix:
            # It says so of every key that starts with its own.
            for article in list(self._prices):
                if f"{CHANGED}{article}".startswith(message.key):
                    del self._prices[article]
        else:
            self._prices.pop(message.key.removeprefix(CHANGED), None)


async def serve(url: str) -> None:
    """Say the price of tea, and have another process change it in the meantime."""
    with tempfile.TemporaryDirectory() as folder:
        await serve_from(Path(folder, "prices.sqlite"), url)


async def serve_from(file: Path, url: str) -> None:
    # Watched before anything is read, so that no change is missed.
    async with (
        open_watchbus(url) as bus,
        bus.subscribe_prefix(CHANGED) as changes,
        trio.open_nursery() as nursery,
    ):
        cache = PriceCache(file)
        nursery.start_soon(cache.forget_changes, changes)
        write_price(file, "tea", 3)
        say_price(cache)
        say_price(cache)
        await trio.run_process([sys.executable, __file__, url, "4", str(file)])
        await cache.changed.wait()
        say_price(cache)
        say_price(cache)
        nursery.cancel_scope.cancel()


def say_price(cache: PriceCache) -> None:
    price, source = cache.get("tea")
    print(f"tea costs {price}, says {source}", flush=True)


async def change(url: str, price: str, file: str) -> None:
    """Change the price of tea, then say so: the other way round, the old one could be read."""
    write_price(Path(file), "tea", int(price))
    print(f"tea will cost {price}, says another process", flush=True)
    async with open_watchbus(url) as bus:
        await bus.publish(f"{CHANGED}tea", b"")


if __name__ == "__main__":
    try:
        match sys.argv[1:]:
            case []:
                trio.run(serve, "redis://127.0.0.1:6379")
            case [url]:
                trio.run(serve, url)
            case [url, price, file]:
                trio.run(change, url, price, file)
    except BusUnavailableError as error:
        sys.exit(f"{error}")
