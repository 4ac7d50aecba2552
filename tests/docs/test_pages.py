"""Every code example of the README and the documentation does what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from page_blocks import blocks
from page_session import ROOT, run_page

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_what_a_page_shows_works(page: Path, tmp_path: Path) -> None:
    # Not as an async test: pytest-trio would lose the reason.
    not_done = trio.run(run_page, page, tmp_path)
    if not_done:
        pytest.skip(not_done)
