"""What the stylesheet of the site does with drawings and wide tables, in a browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import in_browser, needs_chromium
from page_session import ROOT
from playwright.sync_api import Browser

STYLES = (ROOT / "docs/_static/site.css").read_text()

# As the theme names and wraps them.
CONTENT = (
    "<style>:root { --color-background-primary: white; --color-code-background: silver }</style>"
    "<div class='table-wrapper'><table><tr><td>" + "wide" * 200 + "</td></tr></table></div>"
    "<p><img src='drawing.svg' alt='a drawing'></p>"
)

LOOK = """() => {
  const drawing = document.querySelector("img"), table = document.querySelector(".table-wrapper");
  return [
    getComputedStyle(drawing).filter !== "none",
    table.scrollWidth > table.clientWidth && table.clientWidth <= innerWidth,
    getComputedStyle(table).backgroundImage.includes("gradient"),
    drawing.getBoundingClientRect().width,
  ];
}"""


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize(
    ("theme", "system", "dark"),
    [
        ("auto", "light", False),
        ("auto", "dark", True),
        ("light", "dark", False),
        ("dark", "light", True),
    ],
)
async def test_drawings_follow_the_theme_and_tables_scroll_with_a_cue(
    theme: str, system: str, dark: bool, width: int, tmp_path: Path
) -> None:
    """The theme that is chosen goes before the system's; nothing is too small to read."""
    drawing = "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 640 360'/>"
    (tmp_path / "drawing.svg").write_text(drawing)
    page = tmp_path / "page.html"
    page.write_text(f"<style>{STYLES}</style><body data-theme={theme}>{CONTENT}")

    def look(browser: Browser) -> None:
        tab = browser.new_page(color_scheme=system, viewport={"width": width, "height": 800})  # type: ignore[arg-type]
        tab.goto(page.as_uri())
        inverted, scrolls, has_cue, drawn = tab.evaluate(LOOK)
        assert inverted is dark
        assert scrolls
        assert has_cue
        assert drawn >= 500

    await in_browser(look)
