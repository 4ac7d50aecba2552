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
# Written so that sites which show Markdown draw them too.
myst_fence_as_directive = ["mermaid"]

# Names in single backticks are looked up, and stay code when they are nobody's.
default_role = "py:obj"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
# Docstrings name what their readers import, without the module that it is in.
OWN_MODULES = ("trio_watchbus", "trio_watchbus.abc", "trio_watchbus.web", "trio_watchbus.testing")
# Only names of this package are resolved: the pages are built without a network.
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


def setup(app):
    """Have names that nobody knows looked up here."""
    app.connect("missing-reference", resolve_own_name)
