"""Writes errors.md, the page of errors, from the table of the tests, at every build of the docs."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from errors import ERRORS, Error  # noqa: E402

HEAD = """# Errors

Every text that ardist raises, with its cause and its cure. A text begins with what is off, mostly
an argument, and goes on with what was expected and what was given; names, shapes and values here
are examples. `ValueError` is for what was given, `NotImplementedError` for what there is no way to
compute, and `ardist.testing.CheckError` for what a check found in your own network or family.
"""

ENTRY = """
```{{code-block}} text
:class: error
{texts}
```

**Cause.** {cause}\\
**Cure.** {cure}
"""


def entry(error: Error) -> str:
    kind = error.kind.__qualname__
    texts = dict.fromkeys(f"{kind}: {case.text}" for case in error.cases)
    return ENTRY.format(texts="\n".join(texts), cause=error.cause, cure=error.cure)


sections = [f"\n## {subject}\n" + "".join(map(entry, errors)) for subject, errors in ERRORS.items()]
(HERE / "errors.md").write_text(HEAD + "".join(sections))
