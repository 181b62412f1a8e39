"""Random models against their definition: few checks of some, or all of as many as asked for.

`ARDIST_FUZZ_MODELS=5000 ARDIST_FUZZ_SEED=0 pytest tests/test_fuzz.py` is the slow one of the two.
`python tests/fuzz.py` does the same in several processes and counts failures by kind.
"""

import os
import random

import fuzz
import pytest

FIRST, MODELS = int(os.environ.get("ARDIST_FUZZ_SEED", 0)), os.environ.get("ARDIST_FUZZ_MODELS")
SEEDS = range(FIRST, FIRST + int(MODELS or 60))


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[pytest.mark.slow] if MODELS else []) for seed in SEEDS]
)
def test_random_models(seed):
    kinds = list(fuzz.CHECKS) if MODELS else random.Random(seed).sample(list(fuzz.CHECKS), 5)
    failures = [
        f"python tests/fuzz.py --models 1 --seed {seed} --kind {kind}: {outcome}"
        for kind, outcome in fuzz.run(seed, kinds)
        if isinstance(outcome, str)
    ]
    assert not failures, "\n".join(failures)
