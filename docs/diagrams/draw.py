"""Redraws each diagram of this folder, `NAME.svg` from `NAME.mmd`; `nox -s diagrams` runs it.

The pages show the drawings, so that reading them loads and runs nothing.
"""

from __future__ import annotations

import sys
from hashlib import sha256
from pathlib import Path

from playwright.sync_api import sync_playwright

CHROMIUM = "/usr/bin/chromium"

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]

INK, LINE, BOX = "#1f2933", "#5f6b76", "#eaf1f8"

CONFIGURATION = {
    "startOnLoad": False,
    "deterministicIds": True,
    # Text as text of the SVG: HTML in it is not drawn where a page shows it as an image.
    "htmlLabels": False,
    "flowchart": {"htmlLabels": False, "useMaxWidth": False, "rankSpacing": 36},
    "sequence": {"useMaxWidth": False, "mirrorActors": False},
    "fontFamily": "sans-serif",
    "theme": "base",
    # On white, like the charts; on dark pages `_static/site.css` inverts them.
    "themeVariables": {
        "fontSize": "16px",
        "primaryColor": BOX,
        "primaryBorderColor": LINE,
        "primaryTextColor": INK,
        "lineColor": LINE,
        "textColor": INK,
        "noteBkgColor": "#fff5d6",
        "noteBorderColor": LINE,
        "signalTextColor": INK,
    },
}


def main(mermaid: str) -> None:
    """Draw all of them with mermaid, whose JavaScript is in this file."""
    folder = Path(__file__).parent
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS) as browser,
    ):
        page = browser.new_page()
        page.add_script_tag(path=mermaid)
        page.evaluate("configuration => mermaid.initialize(configuration)", CONFIGURATION)
        for source in sorted(folder.glob("*.mmd")):
            text = source.read_text()
            svg = page.evaluate(
                """async ([name, text]) => {
                  const { svg } = await mermaid.render(name, text);
                  const drawing = new DOMParser().parseFromString(svg, "text/html").body.firstChild;
                  drawing.style.backgroundColor = "#fff";
                  return new XMLSerializer().serializeToString(drawing);
                }""",
                [source.stem, text],
            )
            digest = sha256(text.encode()).hexdigest()
            source.with_suffix(".svg").write_text(f"<!-- {source.name}: {digest} -->\n{svg}\n")


if __name__ == "__main__":
    main(sys.argv[1])
