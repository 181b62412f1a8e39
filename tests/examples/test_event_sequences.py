"""The simulated process of examples/event_sequences.py, and a run on files of EasyTPP's format."""

import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return import_module("event_sequences")


def hawkes_nats(example, sequence):
    """Of a sequence without its ends, by the formula: the integral of all rates minus log rates."""
    times, marks = sequence[:, 0].cumsum(), sequence[:, 1].astype(int)
    jump, decay = example.JUMP, example.DECAY
    total = example.BASE.sum() * times[-1]
    total += (jump[:, marks].sum(0) * (1 - np.exp(-decay * (times[-1] - times)))).sum() / decay
    for i in range(1, len(times)):
        past = np.exp(-decay * (times[i] - times[:i]))
        total -= np.log(example.BASE[marks[i]] + (jump[marks[i], marks[:i]] * past).sum())
    return total


def test_the_nats_of_the_process_are_those_of_its_formula(example):
    sequences, (gap, mark, end) = example.simulate(20, seed=0)
    rows = [sequence.double().numpy() for sequence in sequences]
    count = sum(len(row) - 1 for row in rows)
    assert (gap + mark).item() == pytest.approx(
        sum(hawkes_nats(example, row) for row in rows) / count, rel=1e-4
    )
    ends = sum(row[-1, 2] for row in rows)
    share = example.END
    expected = -(ends * np.log(share) + (count - ends) * np.log(1 - share)) / count
    assert end.item() == pytest.approx(expected)


@pytest.mark.parametrize("network", ["rnn", "transformer"])
def test_a_run_on_files(example, monkeypatch, tmp_path, capsys, network):
    rng = np.random.default_rng(0)
    for name, count in (("train", 20), ("dev", 5), ("test", 5)):
        records = [
            {
                "dim_process": 4,
                "seq_len": int(length),
                "time_since_start": np.concatenate(([0.0, 0.0], gaps)).cumsum().tolist(),
                "type_event": rng.integers(4, size=length).tolist(),
            }
            for length in rng.integers(2, 12, count)
            for gaps in [rng.exponential(size=length - 2)]
        ]
        (tmp_path / f"{name}.json").write_text(json.dumps(records))
    options = ["--data", tmp_path, "--network", network, "--epochs", 1]
    monkeypatch.setattr(sys, "argv", ["event_sequences.py", *map(str, options)])
    monkeypatch.setattr(example, "LONGEST", 20)
    example.main()
    printed = capsys.readouterr().out
    assert f"{tmp_path}: 20 train, 5 valid, 5 test sequences, 4 marks" in printed
    assert f"\n{network} " in printed
    assert "the process itself" not in printed
    assert "events to the end" in printed
