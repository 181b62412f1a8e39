"""Random models against their definition.

    python tests/fuzz.py --models 5000 --seed 0 [--kind given --kind law] [--jobs 2]

A model is a random factorization, a random network for it, and a random context, made by
`fuzz_models.py` from a seed. `fuzz_checks.py` compares the package's results with the chain rule,
which `fuzz_definition.py` implements by definition. The seed reproduces a failure:

    python tests/fuzz.py --models 1 --seed 1234 --kind given
"""

import argparse
import multiprocessing
import random
import sys
import traceback
import warnings
import zlib
from collections import Counter

import torch
from fuzz_checks import CHECKS, NOT_APPLICABLE
from fuzz_models import Model
from tqdm import tqdm


def run(seed, kinds):
    """The outcomes of checks by name: True, None if not applicable, or the text of a failure."""
    found = []
    default = torch.get_default_dtype()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                model = Model(seed)
            except Exception:
                return [("construction", _added(None))]
            for kind in kinds:
                torch.manual_seed(zlib.crc32(f"{kind} {seed}".encode()))
                model.r = random.Random(f"{kind} {seed}")
                try:
                    result = CHECKS[kind](model)
                    found.append((kind, None if result is NOT_APPLICABLE else True))
                except Exception:
                    found.append((kind, _added(model)))
    finally:
        torch.set_default_dtype(default)
    return found


def _added(model):
    kind, error, trace = sys.exc_info()
    last = traceback.extract_tb(trace)[-1]
    inner = [f for f in traceback.extract_tb(trace) if "/ardist/" in f.filename]
    place = inner[-1] if inner and not issubclass(kind, AssertionError) else last
    where = f"{place.filename.split('/')[-1]}:{place.lineno}"
    return f"{kind.__name__} at {where}: {str(error)[:300]}\n      {model}"


def _task(arguments):
    torch.set_num_threads(1)
    return arguments[0], run(*arguments)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the first model")
    parser.add_argument("--kind", action="append", choices=list(CHECKS), help="all by default")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    kinds = options.kind or list(CHECKS)
    tasks = [(seed, kinds) for seed in range(options.seed, options.seed + options.models)]
    ran, failed = Counter(), Counter()
    with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
        for seed, found in tqdm(pool.imap(_task, tasks), total=len(tasks)):
            for kind, outcome in found:
                ran[kind] += outcome is not None
                if isinstance(outcome, str):
                    failed[kind] += 1
                    tqdm.write(f"--models 1 --seed {seed} --kind {kind}: {outcome}")
    print(f"{'kind':20} {'models':>7} {'failures':>9}")
    for kind in [*ran]:
        print(f"{kind:20} {ran[kind]:7} {failed[kind]:9}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
