"""A headless Chromium, where one is installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import trio
from playwright.sync_api import Browser, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
WITHOUT_CHROMIUM = f"there is no {CHROMIUM}"

needs_chromium = pytest.mark.skipif(not CHROMIUM.exists(), reason=WITHOUT_CHROMIUM)

_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

Result = TypeVar("Result")


async def in_browser(drive: Callable[[Browser], Result]) -> Result:
    """Call `drive` with a browser that has an empty profile, in a thread; return its result.

    Playwright knows asyncio and threads alone, and all calls have to come from one thread.
    """

    def start_and_drive() -> Result:
        with (
            sync_playwright() as playwright,
            playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS) as browser,
        ):
            return drive(browser)

    return await trio.to_thread.run_sync(start_and_drive)
