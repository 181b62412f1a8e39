"""Mutation tests: whether the tests notice that a line of the package is wrong.

    python tests/mutations.py [--only "a shift" ...] [--root CHECKOUT] [--tests FILE ...]

Each of twelve mutations is made in a temporary copy of the package, and test files are run until
one test fails. The table that is printed names that test; the exit status is the number of
mutations that no test found. A mutation whose line has been rewritten raises an error: give it
another line of the same kind.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Mutation:
    """A change of one line.

    Attributes:
        name: the kind of the mistake.
        file: in the package.
        old: a text that occurs once in the file.
        new: what it becomes.
        tests: the files that are run, those that should find it first.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTATIONS = (
    Mutation(
        "a mask",
        "networks/masking.py",
        "return (~outer).float() @ inner.float().T == 0",
        "return (~outer).float() @ inner.float().T <= 1",
        ("networks/test_base.py",),
    ),
    Mutation(
        "a shift",
        "networks/markov.py",
        "padded = torch.cat((start, blocks[:, :-1]), 1)",
        "padded = torch.cat((start, blocks[:, 1:]), 1)",
        ("networks/test_markov.py", "networks/test_base.py"),
    ),
    Mutation(
        "a cache index",
        "networks/wavenet.py",
        "self._spans[(start // dilation - number) % len(self._spans)]",
        "self._spans[(start // dilation - 1) % len(self._spans)]",
        ("networks/test_wavenet.py", "networks/test_base.py"),
    ),
    Mutation(
        "a broadcast of contexts",
        "rows.py",
        "return x.repeat(repeats)",
        "return x.repeat_interleave(num_rows // count, dim)",
        ("test_properties.py", "networks/test_base.py"),
    ),
    Mutation(
        "a permutation instead of its inverse",
        "drawing_order.py",
        "arrange(x, self.inverse, dim)",
        "arrange(x, self.order, dim)",
        ("networks/test_transformer.py", "networks/test_base.py"),
    ),
    Mutation(
        "a sign",
        "families/univariate.py",
        "return super().log_prob(params, value.log()) - value.log()",
        "return super().log_prob(params, value.log()) + value.log()",
        ("families/test_univariate.py", "families/test_base.py"),
    ),
    Mutation(
        "a normalizer",
        "families/composed.py",
        "logits.log_softmax(-1) + self.family.log_prob(each, self._for_each(value))",
        "logits + self.family.log_prob(each, self._for_each(value))",
        ("families/test_base.py", "families/test_composed.py"),
    ),
    Mutation(
        "a gather",
        "layout.py",
        "return together.index_select(-1, self._index(together.device, kind)[1])",
        "return together.index_select(-1, self._index(together.device, kind)[0])",
        ("networks/test_base.py", "test_properties.py"),
    ),
    Mutation(
        "an event put together in another order",
        "factorization.py",
        "self.blocks.elements.argsort().to(blocks.device)",
        "self.blocks.elements.to(blocks.device)",
        ("test_factorization.py", "test_properties.py"),
    ),
    Mutation(
        "a graph turned around",
        "conditioning.py",
        "lacking = (~whole).float() @ dependencies.T.float() > 0",
        "lacking = (~whole).float() @ dependencies.float() > 0",
        ("engine/test_conditioning.py", "test_properties.py"),
    ),
    Mutation(
        "a sum of which the last term is left",
        "constraints.py",
        "result = result + term.reshape(*x.shape[:-1], -1).sum(-1)",
        "result = term.reshape(*x.shape[:-1], -1).sum(-1)",
        ("test_factorization.py",),
    ),
    Mutation(
        "the score of padding",
        "families/restricted.py",
        "certain = torch.where(value == self.constant, 0.0, -torch.inf).to(scores)",
        "certain = torch.where(value == self.constant, -1.0, -torch.inf).to(scores)",
        ("engine/test_end.py", "test_properties.py"),
    ),
)


def mutated(text: str, mutation: Mutation) -> str:
    """The text of a file with the mutation in it."""
    count = text.count(mutation.old)
    if count != 1:
        raise ValueError(f"{mutation.file}: {mutation.old!r} occurs {count} times, expected once")
    return text.replace(mutation.old, mutation.new)


def caught_by(mutation: Mutation, root: Path, tests: list[str]) -> str | None:
    """The first test that fails under a mutation, if one does."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        for part in ("ardist", "tests", "examples"):
            shutil.copytree(root / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(root / "pyproject.toml", copy)
        file = copy / "ardist" / mutation.file
        file.write_text(mutated(file.read_text(), mutation))
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-rfE", "-p", "no:cacheprovider", *tests],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": name},
            capture_output=True,
            text=True,
        )
    if run.returncode == 0:
        return None
    found = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", run.stdout, flags=re.MULTILINE)
    if run.returncode != 1 or not found:
        raise RuntimeError(f"{mutation.name}: the tests could not run\n{run.stdout}{run.stderr}")
    return str(found[0])


def main() -> int:
    parser = argparse.ArgumentParser(description="Breaks one line at a time and runs the tests.")
    parser.add_argument("--only", nargs="+", default=[], help="names of mutations; all by default")
    parser.add_argument("--root", type=Path, default=ROOT, help="a checkout; this one by default")
    parser.add_argument("--tests", nargs="+", help="test files; by default those of the mutation")
    arguments = parser.parse_args()
    chosen = [each for each in MUTATIONS if not arguments.only or each.name in arguments.only]
    missed = 0
    for mutation in chosen:
        tests = arguments.tests or [f"tests/{file}" for file in mutation.tests]
        test = caught_by(mutation, arguments.root.resolve(), tests)
        missed += test is None
        print(f"{mutation.name} | {mutation.file} | {test or 'not found'}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} mutations were found")
    return missed


if __name__ == "__main__":
    sys.exit(main())
