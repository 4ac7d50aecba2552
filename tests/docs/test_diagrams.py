"""The diagrams of the documentation are drawn from their sources, and stand alone."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

import pytest
from page_session import ROOT

SOURCES = sorted((ROOT / "docs/diagrams").glob("*.mmd"))
IMAGE = re.compile(r"!\[(?P<text>[^\]]*)\]\((?P<place>[^)]+)\)")
DRAWN_ANEW = "nox -s diagrams draws it anew"


def images() -> dict[Path, str]:
    """The file of each image that a page shows, and the text for whoever does not see it."""
    shown = {}
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for match in IMAGE.finditer(page.read_text()):
            shown[(page.parent / match["place"]).resolve()] = match["text"]
    return shown


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_diagram_is_drawn_from_its_source_as_it_is_now(source: Path) -> None:
    drawing = source.with_suffix(".svg").read_text()
    digest = sha256(source.read_bytes()).hexdigest()
    assert drawing.startswith(f"<!-- {source.name}: {digest} -->"), DRAWN_ANEW


def test_each_drawing_has_a_source_and_a_page_that_shows_it() -> None:
    drawings = set((ROOT / "docs/diagrams").glob("*.svg"))
    assert drawings == {source.with_suffix(".svg") for source in SOURCES}
    assert drawings <= images().keys()


def test_each_image_is_a_file_of_the_project_and_is_described() -> None:
    """Nothing is loaded from elsewhere to see a page."""
    shown = images()
    assert len(shown) > 5
    for path, text in shown.items():
        assert path.is_file(), path
        assert len(text) > 10, path


def test_a_drawing_needs_nothing_else_to_be_seen() -> None:
    """No HTML, which an image may not hold, and nothing to be loaded."""
    for path in (ROOT / "docs").rglob("*.svg"):
        drawing = path.read_text()
        assert "foreignObject" not in drawing, path
        assert not re.search(r"""(?:href|src)=["'](?!\#)|url\((?!["']?\#)|@import""", drawing), path
