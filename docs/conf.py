"""How Sphinx builds these pages."""

from importlib import metadata

project = "trio-watchbus"
author = "The trio-watchbus authors"
copyright = "The trio-watchbus authors"
release = metadata.version(project)

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib.mermaid",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"{project} {release}"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Names in single backticks are looked up, and stay code when they are nobody's.
default_role = "py:obj"
autodoc_typehints = "description"
autodoc_member_order = "bysource"
# Only names of this package are resolved: the pages are built without a network.
nitpick_ignore_regex = [("py:.*", r"(?!trio_watchbus\b).*")]
