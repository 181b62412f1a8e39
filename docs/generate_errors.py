"""Writes errors.md, the page of errors, from the table of the tests, at every build of the docs."""

import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from errors import ERRORS, Error  # noqa: E402

# Messages that begin with the name of a method or function, not of an argument.
METHODS = {
    "enumerate_support",
    "kl_divergence",
    "log_abs_det_jacobian",
    "log_prob",
    "mean",
    "mode",
    "rsample",
    "to_spec",
    "variance",
}

HEAD = """# Errors

This page lists every error that ardist raises, with its cause and how to fix it. Most messages
begin with the name of an argument and state the expected and the given value. Find the first word
of your message in the list below. Names, shapes and values on this page are examples.

- `ValueError`: an argument is invalid.
- `NotImplementedError`: there is no way to compute the result for this distribution.
- `ImportError`: an optional package is missing.
- `ardist.testing.CheckError`: a check found an error in your own network or family.
"""

ENTRY = """
```{{code-block}} text
:class: error
{texts}
```

**Cause.** {cause}\\
**Fix.** {cure}
"""


def subject(text: str) -> str:
    """The argument or method that a message begins with, or "" for other messages."""
    match = re.match(r"(\w+)(\[\d+\])?(, \w+)?: ", text)
    return match.group(1) if match else ""


def entry(error: Error, texts: Iterable[str]) -> str:
    kind = error.kind.__qualname__
    lines = dict.fromkeys(f"{kind}: {text}" for text in texts)
    return ENTRY.format(texts="\n".join(lines), cause=error.cause, cure=error.cure)


def entries(errors: Iterable[Error]) -> dict[str, str]:
    """The entries of each subject, in alphabetical order of the subjects."""
    found = defaultdict(list)
    for error in errors:
        texts = defaultdict(list)
        for case in error.cases:
            # Headings that differ only in case would have one anchor.
            texts[subject(case.text).lower()].append(case.text)
        for name, each in texts.items():
            found[name].append(entry(error, each))
    return {name: "".join(found[name]) for name in sorted(found)}


def index(names: Iterable[str]) -> str:
    return " ·\n".join(f"[`{name}`](#{name})" for name in names)


def section(title: str, names: Iterable[str], texts: dict[str, str]) -> str:
    return f"\n## {title}\n" + "".join(f"\n### `{name}`\n{texts[name]}" for name in names)


def page(errors: Iterable[Error]) -> str:
    texts = entries(errors)
    other = texts.pop("")
    methods = sorted(texts.keys() & METHODS)
    arguments = sorted(texts.keys() - METHODS)
    return "".join(
        (
            HEAD,
            f"\n**Arguments:** {index(arguments)}\n",
            f"\n**Methods:** {index(methods)}\n",
            "\n[Other messages](#other-messages)\n",
            section("Arguments", arguments, texts),
            section("Methods", methods, texts),
            f"\n## Other messages\n{other}",
        )
    )


(HERE / "errors.md").write_text(page(chain(*ERRORS.values())))
