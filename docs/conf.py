"""How Sphinx builds these pages."""

import re
from importlib import metadata
from pathlib import Path

from sphinx.errors import ExtensionError

project = "trio-watchbus"
author = "The trio-watchbus authors"
copyright = "The trio-watchbus authors"
release = metadata.version(project)

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Names in single backticks are looked up; those that are not found stay plain code.
default_role = "py:obj"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
# Docstrings use public names without their module.
OWN_MODULES = ("trio_watchbus", "trio_watchbus.abc", "trio_watchbus.web", "trio_watchbus.testing")
# Only names of this package are resolved: the build uses no network.
nitpick_ignore_regex = [("py:.*", r"(?!trio_watchbus\b).*")]


def resolve_own_name(app, env, node, contnode):
    """Link `Retention`, as docstrings say it, to the one of the package."""
    for module in OWN_MODULES:
        name = f"{module}.{node['reftarget']}"
        if name in env.domains["py"].objects:
            return env.domains["py"].resolve_xref(
                env, node["refdoc"], app.builder, "obj", name, node, contnode
            )
    return None


# What a browser loads by itself, unlike a link.
LOADED = re.compile(
    r"""<(?:script|img|link|iframe|source)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//|"""
    r"""\b(?:import|from)\s*\(?["']https?://|url\(["']?(?:https?:)?//"""
)


def check_that_nothing_is_loaded_from_elsewhere(app, exception):
    """Reading the pages makes no request to other sites."""
    if exception is None and app.builder.format == "html":
        for path in Path(app.outdir).rglob("*"):
            if path.suffix in (".html", ".css", ".js"):
                found = LOADED.search(path.read_text())
                if found is not None:
                    raise ExtensionError(f"{path} loads something from elsewhere: {found[0]}")


def setup(app):
    """Resolve names of this package, and check the built pages."""
    app.connect("missing-reference", resolve_own_name)
    app.connect("build-finished", check_that_nothing_is_loaded_from_elsewhere)
