"""Sphinx's configuration."""

import os
import re
import runpy
import sys
from pathlib import Path

import ardist

sys.path.insert(0, str(Path(__file__).parent))

project = "ardist"
author = "The ardist authors"
copyright = "2026, The ardist authors"
release = version = ardist.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "notebooks",
]
exclude_patterns = ["_build"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "ardist"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_copy_source = False
pygments_style = "default"
pygments_dark_style = "github-dark"
# Doctests are copied without their prompts and outputs.
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

# Pages with code cells are executed, and again when their code changes or docs/_build is removed.
nb_execution_mode = "cache"
nb_execution_in_temp = True  # sbi and Lightning write logs into the working directory
nb_execution_timeout = 600  # seconds a cell
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "warn"
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
# The processes that execute them inherit the style of figures and a filter for a warning.
os.environ["MATPLOTLIBRC"] = str(Path(__file__).with_name("matplotlibrc"))
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"

# The contents list members without their modules and classes.
toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
# Docstrings use single backticks, as in Markdown.
default_role = "code"


def _escape_shapes(app, what, name, obj, options, lines):
    """Escapes the star in shapes such as (*lead, n), which would begin emphasis."""
    for number, line in enumerate(lines):
        if line.lstrip().startswith((">>>", "...")):
            continue
        parts = line.split("`")
        parts[::2] = [part.replace("*", r"\*") for part in parts[::2]]
        lines[number] = "`".join(parts)


def _trim_doctests(app, name, source):
    """Removes the blank line at the end of doctests in Markdown."""
    source[0] = re.sub(r"\n\n```$", "\n```", source[0], flags=re.MULTILINE)


# The page of errors is generated from the table of the tests.
runpy.run_path(str(Path(__file__).with_name("generate_errors.py")))


def setup(app):
    app.connect("source-read", _trim_doctests)
    # After napoleon, which adds markup of its own.
    app.connect("autodoc-process-docstring", _escape_shapes, priority=100)
