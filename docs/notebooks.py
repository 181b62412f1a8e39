"""A Sphinx extension: each tutorial and how-to guide downloads as a notebook.

The notebook of a page lies next to it. Code cells and doctests become code, all else is Markdown.
"""

import doctest
import json
import posixpath
import re
from pathlib import Path

SOURCES = "https://github.com/ardist/ardist/blob/main/docs"
BLOCK = re.compile(
    r"^```(\{code-cell\} ipython3|python|pycon)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"\]\((?!\w+:|#)([^)\s]+)\)")


def notebook(text, name):
    """The notebook of a page as JSON values.

    Args:
        text: the page in MyST Markdown.
        name: of the page, such as "howto/train", which relative links start from.
    """
    folder = posixpath.dirname(name)

    def absolute(link):
        return f"]({SOURCES}/{posixpath.normpath(posixpath.join(folder, link[1]))})"

    cells = []

    def add(kind, source):
        code = {"execution_count": None, "outputs": []} if kind == "code" else {}
        number = f"cell{len(cells)}"
        if source := source.strip():
            cells.append(
                {"cell_type": kind, "id": number, "metadata": {}, "source": source, **code}
            )

    text = re.sub(r"\A---\n.*?^---\n", "", text, flags=re.MULTILINE | re.DOTALL)
    end = 0
    for block in BLOCK.finditer(text):
        if (code := _code(*block.groups())) is not None:
            add("markdown", LINK.sub(absolute, text[end : block.start()]))
            add("code", code)
            end = block.end()
    add("markdown", LINK.sub(absolute, text[end:]))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"kernelspec": kernel}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _code(kind, text):
    """The code of a block that runs, or None if it does not run."""
    if kind.startswith("{"):
        return re.sub(r"\A(:.*\n)+", "", text)
    examples = doctest.DocTestParser().get_examples(text)
    return "".join(example.source for example in examples) or None


def _write(app, pagename, templatename, context, doctree):
    """Writes the notebook of a page, and links it under the title."""
    folder, _, name = pagename.rpartition("/")
    if folder not in ("tutorials", "howto") or name == "index":
        return
    made = notebook(Path(app.env.doc2path(pagename)).read_text(), pagename)
    path = Path(app.outdir, f"{pagename}.ipynb")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made, indent=1))
    link = f'<p class="notebook"><a href="{name}.ipynb" download>Download as a notebook</a></p>'
    context["body"] = context["body"].replace("</h1>", f"</h1>\n{link}", 1)


def setup(app):
    app.connect("html-page-context", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
