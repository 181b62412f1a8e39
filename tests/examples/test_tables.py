"""The examples that read a file, each on a small one of its format."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"
RNG = np.random.default_rng(0)


@pytest.fixture
def example(monkeypatch, capsys):
    """Runs an example with options, and returns what it printed."""
    monkeypatch.syspath_prepend(EXAMPLES)

    def run(name, *options):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", "--threads=1", *map(str, options)])
        threads = torch.get_num_threads()
        import_module(name).main()
        torch.set_num_threads(threads)
        return capsys.readouterr().out

    return run


def write(path, parts):
    """An .npz file of three parts, or a CSV file of all rows."""
    if path.suffix == ".npz":
        np.savez(path, **dict(zip(("train", "valid", "test"), parts, strict=True)))
    else:
        rows = np.concatenate(parts)
        header = ",".join(f"x{i}" for i in range(rows.shape[1]))
        np.savetxt(path, rows, fmt="%g", delimiter=",", header=header, comments="")
    return path


def parts_of(rows):
    return np.split(rows, [80, 90])


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return import_module("table_files")


@pytest.mark.parametrize("header", ["", "a,b\n", '"a b";"c"\n'])
def test_a_csv_file_is_split_in_random_order(tables, tmp_path, header):
    mark = ";" if ";" in header else ","
    rows = np.arange(200.0).reshape(100, 2)
    path = tmp_path / "rows.csv"
    path.write_text(header + "\n".join(f"{a}{mark}{b}" for a, b in rows))
    parts = tables.read(path)
    assert [len(part) for part in parts] == [80, 10, 10]
    assert not np.array_equal(parts[0], rows[:80])
    np.testing.assert_array_equal(np.sort(np.concatenate(parts), 0), rows)
    assert not np.array_equal(tables.read(path, seed=1)[0], parts[0])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rows.csv", "a,b\n1,x\n", "expected numbers, separated by commas"),
        ("rows.csv", "1,nan\n" * 10, "expected rows of finite numbers in each of"),
        ("rows.csv", None, "is missing: expected an .npz file with arrays train, valid and test"),
    ],
)
def test_what_cannot_be_read_is_explained(tables, tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit, match=message):
        tables.read(tmp_path / name)


@pytest.mark.parametrize("name", ["coins.npz", "coins.csv"])
def test_binary_tables(example, tmp_path, name):
    path = write(tmp_path / name, parts_of(RNG.integers(0, 2, (100, 5))))
    printed = example("binary_tables", "--table", path, "--orderings", 2)
    assert "coins: 80 train / 10 valid rows of 5 columns" in printed
    assert "options of mushrooms: Preset(rows=2000, columns=112" in printed
    assert "coins, mean test log-likelihood of 10 rows in nats" in printed
    assert "[M]" not in printed
    assert "sum of p over all 2^5 states: 1.00000" in printed


def test_a_table_that_was_used_to_choose_options_gets_its_own(example):
    module = import_module("binary_tables")
    for name, preset in module.PRESETS.items():
        assert module.nearest(preset.rows, preset.columns) == name
    assert module.nearest(12758, 111) == "jester"


@pytest.mark.parametrize("states", [2, 4])
def test_any_order(example, tmp_path, states):
    path = write(tmp_path / "dice.npz", parts_of(RNG.integers(0, states, (100, 3))))
    printed = example("any_order", "--table", path, "--epochs", 0.02)
    assert "dice: 80 training rows" in printed
    for line in ("one order", "causal", "masked", "  1 elements", "  3 elements"):
        assert line in printed


def test_red_wine(example, tmp_path):
    path = write(tmp_path / "heights.csv", parts_of(RNG.normal(170, 10, (100, 2))))
    printed = example("red_wine", "--table", path, "--orderings", 1)
    assert "heights, mean test log density of 1 fold(s) in nats" in printed
    assert "Gaussian" in printed
    assert "[M]" not in printed


def test_continuous_tables(example, tmp_path):
    write(tmp_path / "power.npz", parts_of(RNG.normal(size=(100, 6))))
    write(tmp_path / "magic_gamma.npz", parts_of(RNG.normal(170, 10, (100, 3))))
    options = ("--data", tmp_path, "--seconds", 0.1, "--seeds", 2)
    printed = example("continuous_tables", *options)
    assert "power: 80 / 10 / 10 rows of 6 columns" in printed
    assert "magic_gamma: 80 / 10 / 10 rows of 3 columns" in printed
    assert printed.count("of 2 seeds") == 6
    assert printed.count("Durkan et al. 2019") == 1
    (tmp_path / "power.npz").unlink()
    printed = example("continuous_tables", *options, "--tables", "star98")
    assert "star98: 242 / 30 / 31 rows of 12 columns" in printed
    assert "power" not in printed
