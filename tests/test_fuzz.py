"""Random models against their definition: a few checks of some models, and all checks of others.

`ARDIST_FUZZ_MODELS=5000 ARDIST_FUZZ_SEED=0 pytest -m slow tests/test_fuzz.py` checks more models.
`python tests/fuzz.py` does the same in several processes and counts failures by kind.
"""

import os
import random

import fuzz
import pytest

FIRST = int(os.environ.get("ARDIST_FUZZ_SEED", "0"))
MODELS = int(os.environ.get("ARDIST_FUZZ_MODELS", "60"))


def assert_no_failures(seed, kinds):
    failures = [
        f"python tests/fuzz.py --models 1 --seed {seed} --kind {kind}: {outcome}"
        for kind, outcome in fuzz.run(seed, kinds)
        if isinstance(outcome, str)
    ]
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("seed", range(40))
def test_some_checks_of_random_models(seed):
    assert_no_failures(seed, random.Random(seed).sample(list(fuzz.CHECKS), 5))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(FIRST, FIRST + MODELS))
def test_all_checks_of_random_models(seed):
    assert_no_failures(seed, list(fuzz.CHECKS))
