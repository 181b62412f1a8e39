"""Batches of sequences in examples/batches.py."""

from importlib import import_module
from itertools import chain
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("jitter", [0.0, 0.5])
def test_batches_have_similar_lengths(monkeypatch, jitter):
    monkeypatch.syspath_prepend(EXAMPLES)
    batches = import_module("batches")
    torch.manual_seed(0)
    sequences = [torch.full((int(length),), 3.0) for length in 1 + torch.randperm(100)]
    loader = batches.loader(sequences, 8, jitter)
    assert sorted(chain(*loader.batch_sampler)) == list(range(100))
    padded = list(loader)
    assert len(padded) == len(loader) == 13
    assert sum(x.sum() for x, _ in padded) == 3 * sum(range(101))
    assert all(torch.equal(x > 0, real) for x, real in padded)
    assert sum(x.numel() for x, _ in padded) < (1.1 + jitter) * sum(range(101))
    once, again = (list(loader.batch_sampler) for _ in range(2))
    assert once != again
    assert (sorted(once) == sorted(again)) == (jitter == 0)
