"""Sphinx's configuration."""

import ardist

project = "ardist"
author = "The ardist authors"
copyright = "2026, The ardist authors"
release = version = ardist.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "ardist"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
# Docstrings are written in Markdown's single backticks.
default_role = "code"


def _escape_shapes(app, what, name, obj, options, lines):
    """Docstrings write shapes as (*lead, n); outside backticks a star would begin emphasis."""
    for number, line in enumerate(lines):
        parts = line.split("`")
        parts[::2] = [part.replace("*", r"\*") for part in parts[::2]]
        lines[number] = "`".join(parts)


def setup(app):
    # After napoleon, which adds markup of its own.
    app.connect("autodoc-process-docstring", _escape_shapes, priority=100)
