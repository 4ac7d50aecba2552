"""Every code example of the README and the documentation does what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest
from page_blocks import blocks
from page_session import ROOT, run_page

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page)], ids=lambda page: str(page.relative_to(ROOT))
)
async def test_what_a_page_shows_works(page: Path, tmp_path: Path) -> None:
    await run_page(page, tmp_path)
