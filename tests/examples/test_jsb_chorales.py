"""The piano rolls of examples/jsb_chorales.py: their keys, and a short run."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"
RNG = np.random.default_rng(0)


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return import_module("jsb_chorales")


def test_a_transposed_roll_keeps_its_chords(example):
    roll = torch.zeros(2, 88)
    roll[0, [2, 40]] = roll[1, [30, 86]] = 1.0
    assert torch.equal(example.transposed(roll, 1)[:, 1:], roll[:, :-1])
    assert torch.equal(example.transposed(roll, 5)[:, 1:], roll[:, :-1])  # at the last key
    assert torch.equal(example.transposed(roll, -5)[:, :-2], roll[:, 2:])
    assert not example.transposed(torch.zeros(2, 88), 3).any()


@pytest.mark.slow
def test_a_run_on_short_rolls(example, monkeypatch, tmp_path, capsys):
    file = {}
    for part, count in (("train", 6), ("valid", 3), ("test", 3)):
        lengths = RNG.integers(5, 20, count)
        keys = RNG.random((lengths.sum(), 88)) < 0.05
        file |= {part: np.packbits(keys, axis=1), f"{part}_len": lengths}
    np.savez(tmp_path / "hymns.npz", **file)
    options = ["--rolls", tmp_path / "hymns.npz", "--epochs", 1, "--output", tmp_path]
    options += ["--threads", 1]
    monkeypatch.setattr(sys, "argv", ["jsb_chorales.py", *map(str, options)])
    threads = torch.get_num_threads()
    example.main()
    torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert "hymns: 6 train, 3 valid, 3 test rolls" in printed
    assert "RNN-NADE, transposed" in printed
    assert "[M]" not in printed
    assert (tmp_path / "hymns.png").stat().st_size > 10_000
    assert (tmp_path / "hymns.mid").stat().st_size > 100
