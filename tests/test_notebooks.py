"""The notebooks of the documentation's pages."""

import ast
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [
    page
    for folder in ("tutorials", "howto")
    for page in sorted((DOCS / folder).glob("*.md"))
    if page.stem != "index"
]
notebook = runpy.run_path(str(DOCS / "notebooks.py"))["notebook"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_becomes_a_notebook(page):
    text = page.read_text()
    cells = notebook(text, f"{page.parent.name}/{page.stem}")["cells"]
    code = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
    for source in code:
        ast.parse(source)
        assert ">>>" not in source
    assert len(code) >= text.count("```{code-cell}")
    prose = "\n".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown")
    assert prose.startswith("# ")
    assert ">>>" not in prose
    assert "](../" not in prose


def test_doctests_options_and_links():
    text = """---
kernel: x
---
# A page

[Other](../howto/train.md#resume) and [site](https://example.org).

```{code-cell} ipython3
:tags: [hide-input]

x = 1
```

```python
never(run)
```

```pycon
>>> def f():
...     return 2
>>> f()
2

```
"""
    made = notebook(text, "tutorials/page")
    kinds = [(cell["cell_type"], cell["source"]) for cell in made["cells"]]
    assert kinds == [
        (
            "markdown",
            "# A page\n\n[Other](https://github.com/ardist/ardist/blob/main/docs/howto/train.md"
            "#resume) and [site](https://example.org).",
        ),
        ("code", "x = 1"),
        ("markdown", "```python\nnever(run)\n```"),
        ("code", "def f():\n    return 2\nf()"),
    ]
