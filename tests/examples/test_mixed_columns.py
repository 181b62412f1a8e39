"""Tables as people have them, read and described as examples/mixed_columns.py does."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
KINDS = {
    "city": "categorical",
    "age": "logistic",
    "kids": "integer",
    "height": "normal",
    "income": "lognormal",
}
ROWS = 200


@pytest.fixture
def columns(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return import_module("columns")


def survey() -> dict[str, list[str]]:
    rng = np.random.default_rng(0)
    return {
        "city": rng.choice(["Lyon", "Paris", '"Bern, CH; Europe"'], ROWS).tolist(),
        "age": [f"{age}" for age in rng.integers(20, 70, ROWS)],
        "kids": [f"{kids}" for kids in rng.integers(0, 4, ROWS)],
        "height": [f"{height:.1f}" for height in rng.normal(170, 9, ROWS)],
        "income": [f"{income:.0f}" for income in rng.lognormal(11, 1, ROWS)],
    }


def as_text(table: dict[str, list[str]], delimiter: str = ",") -> str:
    rows = [table, *zip(*table.values(), strict=True)]
    return "".join(delimiter.join(row) + "\n" for row in rows)


def read(columns, path: Path, content: str):
    path.write_text(content, encoding="utf-8")
    np.random.seed(0)
    cells, part = columns.read_csv(path)
    assert len(part) == ROWS
    return {name: columns.Column(each, part == 0) for name, each in cells.items()}


PLAIN = as_text(survey())


@pytest.mark.parametrize(
    "content",
    {
        "plain": PLAIN,
        "BOM": "\ufeff" + PLAIN,
        "semicolons": as_text(survey(), ";"),
        "tabs": as_text(survey(), "\t"),
        "spaces": as_text(survey(), ", "),
        "blank last lines": PLAIN + "\n\n",
        "a line of blanks": PLAIN + ",,,,\n",
        "a blank column": as_text({**survey(), "": [""] * ROWS}),
        "a constant column": as_text({**survey(), "country": ["CH"] * ROWS}),
        "a constant with blanks": as_text({**survey(), "on": ["1", ""] * (ROWS // 2)}),
    }.items(),
    ids=lambda item: item[0],
)
def test_however_it_is_written_it_is_one_table(columns, content, tmp_path):
    table = read(columns, tmp_path / "table.csv", content[1])
    assert {name: column.kind for name, column in table.items()} == KINDS
    assert set(table["city"].starts) == {"Lyon", "Paris", "Bern, CH; Europe"}
    for column in table.values():
        assert np.isfinite([column.codes, column.within, column.alone]).all()


@pytest.mark.parametrize("cell", ["", " ", "NA", "N/A", "null", "NaN", "inf", "-Infinity", "1e999"])
@pytest.mark.parametrize("name", KINDS)
def test_a_missing_cell_leaves_the_kind(columns, cell, name, tmp_path):
    cells = survey()
    cells[name][::10] = [cell] * (ROWS // 10)
    column = read(columns, tmp_path / "table.csv", as_text(cells))[name]
    assert column.kind == KINDS[name]
    missing = np.arange(ROWS) % 10 == 0
    np.testing.assert_array_equal(np.isnan(column.codes), missing)
    assert np.isfinite([column.within[~missing], column.alone[~missing]]).all()


def test_identifiers_take_every_numeric_kind(columns):
    cells, train = np.arange(1, ROWS + 1).astype(str), np.arange(ROWS) < 160
    assert columns.propose(cells) == "normal"
    for kind in columns.KINDS:
        column = columns.Column(cells, train, kind)
        assert column.decode(column.codes).astype(str).shape == (ROWS,)
        assert np.isfinite([column.codes, column.within, column.alone]).all()


@pytest.mark.parametrize(
    ("cells", "written"),
    [
        (["0.5", "1.25", "3", "2e-1"], ["0.5", "1.25", "3.0", "0.2"]),
        (["1e3", "2e3", "30", "4"], ["1000", "2000", "30", "4"]),
    ],
)
@pytest.mark.parametrize("kind", ["normal", "lognormal"])
def test_values_are_written_with_the_decimals_of_the_data(columns, cells, written, kind):
    column = columns.Column(np.array(cells), np.ones(4, bool), kind)
    assert column.decode(column.codes).astype(str).tolist() == written
    assert column.decode(column.codes + 1e-6).astype(str).tolist() == written


def test_a_lognormal_column_has_a_density_above_zero(columns):
    values = np.exp(np.linspace(-9, 9, 2001))
    column = columns.Column(values.astype(str), np.abs(np.log(values)) < 2, "lognormal")
    assert (column.decode(np.linspace(-9, 9, 100)) >= 0).all()
    mass = np.exp(column.alone[1:]) @ np.diff(values)
    assert mass == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("kind", "cells", "message"),
    [
        ("lognormal", ["1", "0", "2"], "lognormal: expected values above 0, got 0"),
        ("lognormal", ["1", "-3", ""], "lognormal: expected values above 0, got -3"),
        ("integer", ["1", "1.5", "2"], "integer: expected integers, got fractions"),
        ("normal", ["1", "Lyon", "2"], "could not convert string to float: .*Lyon"),
    ],
)
def test_a_kind_that_cannot_be(columns, kind, cells, message):
    with pytest.raises(ValueError, match=message):
        columns.Column(np.array(cells), np.ones(3, bool), kind)


LINES = PLAIN.splitlines(keepends=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"at least 10 rows, got \[\] and 0"),
        ("".join(LINES[:5]), "at least 10 rows, got .* and 4"),
        (PLAIN.replace("kids", "age", 1), "expected distinct names"),
        (
            "".join([*LINES[:123], "a,b\n", *LINES[123:]]),
            "line 124 has 2 cells, the first line has 5",
        ),
        ("a,b\n" + "1,\n" * 20, "expected a column of more than one value"),
    ],
)
def test_a_file_that_is_no_table(columns, content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read(columns, tmp_path / "table.csv", content)


def run(monkeypatch, folder: Path, content: str, *options: str) -> None:
    (folder / "table.csv").write_text(content, encoding="utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["mixed_columns.py", "--csv", "table.csv", *options])
    import_module("mixed_columns").main()


def test_twenty_steps_fill_a_table_and_draw_another(columns, monkeypatch, tmp_path):
    cells = {**survey(), "id": [f"{i}" for i in range(ROWS)], "blank": [""] * ROWS}
    cells["age"][::10] = ["NA"] * (ROWS // 10)
    run(monkeypatch, tmp_path, as_text(cells, ";"), "--steps", "20")
    for name in ("mixed_columns", "mixed_columns_filled"):
        table, _ = columns.read_csv(tmp_path / "output" / f"{name}.csv")
        assert [*table] == [*KINDS, "id"]
        assert all(len(column) == ROWS and (column != "").all() for column in table.values())
        assert table["income"].astype(int).min() >= 0
        assert {len(cell.partition(".")[2]) for cell in table["height"]} == {1}


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (PLAIN + "a,b\n", (), "table.csv: line 202 has 2 cells, the first line has 5"),
        (PLAIN, ("--family", "kids=lognormal"), "table.csv: column kids: lognormal: expected"),
        (PLAIN, ("--steps", "1"), "--steps: expected at least 2, got 1"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(
    columns, monkeypatch, tmp_path, capsys, content, options, message
):
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path, content, *options)
    assert message in capsys.readouterr().err
