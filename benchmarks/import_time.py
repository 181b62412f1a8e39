"""The time of `import ardist` compared with `import torch, pyro`, in fresh processes."""

import subprocess
import sys
from collections.abc import Iterator

from harness import Call, Case


def importing(names: str) -> Call:
    program = [sys.executable, "-W", "ignore", "-c", f"import {names}"]
    return lambda: subprocess.run(program, check=True)


def import_time() -> Iterator[Case]:
    yield (
        "import ardist",
        importing("ardist"),
        {"import torch, pyro": importing("torch, pyro")},
        "at least 0.87, so that ardist takes at most 1.15 of their time",
    )
