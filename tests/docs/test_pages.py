"""Every code example of the README and the documentation does what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest
from page_session import blocks, run_page

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted(
        page for page in (ROOT / "docs").rglob("*.md") if not page.is_relative_to("docs/_build")
    ),
]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page)], ids=lambda page: str(page.relative_to(ROOT))
)
async def test_what_a_page_shows_works(page: Path, tmp_path: Path) -> None:
    await run_page(page, tmp_path)
