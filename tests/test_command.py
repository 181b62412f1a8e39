"""The command reads and writes files, and reports an invalid file in one line."""

import shutil
import signal
import subprocess
import sys
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from files import edited, pickled, saved
from people import people, with_holes

from ardist.__main__ import main
from ardist.command import run
from ardist.tables import TableDensity

ROWS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table with missing cells, and a model of it."""
    folder = tmp_path_factory.mktemp("command")
    with_holes(people(ROWS)).to_csv(folder / "people.csv", index=False)
    people(ROWS).to_parquet(folder / "people.parquet")
    fit = ["fit", f"{folder}/people.csv", "-o", f"{folder}/people.safetensors"]
    assert run([*fit, "--max-epochs", "1", "--quiet"]) == 0
    return folder


@pytest.fixture
def ardist(folder, monkeypatch, capsys):
    """Runs the command in that folder: standard output and the lines of standard error."""
    monkeypatch.chdir(folder)

    def call(line):
        capsys.readouterr()
        try:
            status = run(line.split())
        except SystemExit as stop:
            status = stop.code
        out, err = capsys.readouterr()
        return status, out, err.splitlines()

    return call


def test_fit_shows_the_columns(ardist, folder):
    status, out, err = ardist(
        "fit people.parquet -o other.safetensors --max-epochs 1 --seed 3 -c age=real -q"
    )
    assert (status, err) == (0, [])
    model = TableDensity.load(folder / "other.safetensors")
    assert out.startswith(f"{model.schema_}\nepoch 1 of 1")
    kinds = {column.name: column.kind for column in model.schema_.columns}
    assert kinds["age"] == "real"


def test_fit_shows_its_progress_and_keeps_to_the_time(ardist):
    status, _, err = ardist("fit people.csv -o other.safetensors --time-limit 0.01")
    assert status == 0
    assert "training" in "".join(err)


def test_describe_shows_the_columns_of_a_table_or_a_model(ardist, folder):
    status, table, _ = ardist("describe people.csv")
    assert status == 0
    status, model, _ = ardist("describe people.safetensors")
    assert status == 0
    assert model.startswith(table)
    assert "Masked with " in model


def test_levels_and_kinds_can_be_declared(ardist):
    _, out, _ = ardist("describe people.csv -c size=S,M,L -c smokes=False,True -c age=count")
    kinds = [line.split()[:2] for line in out.splitlines()]
    for pair in (["size", "ordinal"], ["smokes", "ordinal"], ["age", "count"]):
        assert pair in kinds
    assert "S, M, L" in out


def test_describe_shows_what_cannot_be_modeled(ardist, folder):
    table = pd.read_csv(folder / "people.csv")
    table.assign(visits="1,5", born="31/12/2024").to_csv(folder / "bad.csv", index=False)
    status, out, err = ardist("describe bad.csv")
    assert status == 2
    assert [line.split()[0] for line in out.splitlines()] == ["column", *(
        name for name in table if name not in ("visits", "born")), "visits", "born"]  # fmt: skip
    assert "error: column 'born': expected dates such as 2024-12-31, got '31/12/2024'" in out
    assert [line.split(",")[0] for line in err] == [
        f"ardist: error: column '{name}': expected {kind}"
        for name, kind in (("visits", "numbers"), ("born", "dates such as 2024-12-31"))
    ]
    assert ardist("describe bad.csv -c visits=category -c born=category")[0] == 0
    (folder / "bad.csv").write_text('visits\n"1,5"\n"2,5"\n')
    status, out, err = ardist("describe bad.csv")  # no column is left
    assert (status, len(out.splitlines())) == (2, 2)
    assert err[0].startswith("ardist: error: column 'visits': expected numbers")


def test_a_reader_that_ends_early_ends_the_command(folder):
    line = ["sample", "people.safetensors", "-n", "20000"]
    command = subprocess.Popen([sys.executable, "-m", "ardist", *line], cwd=folder,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert command.stdout.readline().startswith(b"size,job")
    command.stdout.close()
    assert command.stderr.read() == b""
    command.stderr.close()
    assert command.wait() == -signal.SIGPIPE


def test_samples_follow_the_seed_and_what_is_given(ardist, folder):
    _, first, err = ardist("sample people.safetensors -n 5 --seed 1")
    assert err == []
    assert first.count("\n") == 6
    assert ardist("sample people.safetensors -n 5 --seed 1")[1] == first
    assert ardist("sample people.safetensors -n 5 --seed 2")[1] != first
    for name in ("rows.csv.gz", "rows.parquet"):
        line = f"sample people.safetensors -n 5 -g job=nurse -g born=1960-01-01 -o {name}"
        assert ardist(line) == (0, "", [])
    rows = pd.read_csv(folder / "rows.csv.gz")
    assert rows["job"].eq("nurse").all()
    assert rows["born"].eq("1960-01-01").all()
    same = pd.read_parquet(folder / "rows.parquet")
    pd.testing.assert_frame_equal(rows, same, check_dtype=False)


@pytest.mark.parametrize("level", ["01", "True", "x"])
def test_a_given_text_is_the_level_that_it_spells(ardist, folder, level):
    rows = pd.DataFrame({"code": ["01", "True", "x"] * 20, "size": [1, 2, 3, 4] * 15})
    TableDensity(max_epochs=1).fit(rows).save(folder / "codes.safetensors")
    status, out, err = ardist(f"sample codes.safetensors -n 2 -g code={level} -g size=2")
    assert (status, err) == (0, [])
    assert out.splitlines() == ["code,size", *[f"{level},2"] * 2]


def test_scores_are_those_of_the_model(ardist, folder):
    table = pd.read_csv(folder / "people.csv")
    expected = TableDensity.load(folder / "people.safetensors").score_samples(table)
    status, _, err = ardist("score people.safetensors people.csv -o scores.csv")
    assert (status, err) == (0, [f"ardist: mean: {expected.mean():.4f} nats a row"])
    # pandas 2 reads some numbers of a file one unit in the last place off.
    np.testing.assert_allclose(pd.read_csv(folder / "scores.csv")["nats"], expected, rtol=1e-15)
    ardist("score people.safetensors people.csv -o cells.parquet --cells")
    cells = pd.read_parquet(folder / "cells.parquet")
    np.testing.assert_allclose(cells.sum(axis=1), expected, rtol=1e-5)


def test_impute_fills_each_cell(ardist, folder):
    table = pd.read_csv(folder / "people.csv")
    for method in ("median", "draw"):
        line = f"impute people.safetensors people.csv -o full.csv --method {method}"
        assert ardist(line) == (0, "", [])
        full = pd.read_csv(folder / "full.csv")
        assert list(full) == list(table)
        assert not full.isna().any(axis=None)
        known = full.where(table.notna())
        pd.testing.assert_frame_equal(known, table, check_dtype=False, rtol=1e-15)


def test_a_new_process_gives_the_same_scores(folder):
    files = [folder / "people.safetensors", folder / "people.csv"]
    command = [sys.executable, "-m", "ardist", "score", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    table = pd.read_csv(folder / "people.csv")
    expected = TableDensity.load(folder / "people.safetensors").score_samples(table)
    np.testing.assert_array_equal(np.array(done.stdout.split()[1:], float), expected)


def test_a_missing_package_is_named(capsys):
    gone = {"ardist.command": None, "pandas": None}
    with mock.patch.dict(sys.modules, gone):
        assert main() == 2
    assert capsys.readouterr().err.startswith("ardist: error: ")


# Invalid files.

CELLS = {
    "empty": "",
    "no_rows": "a,b\n",
    "one_row": "a,b\n1,2\n",
    "twice": "a,b,a\n1,2,3\n4,5,6\n",
    "ragged": "a,b\n1,2\n3,4,5,6\n7,8\n",
    "surplus": "a,b\n0,1,2\n1,3,4\n",
    "semicolons": "a;b\n1;2\n3;4\n",
    "mixed": "a\n" + "x\n2.5\nTrue\n" * 20,
    "infinite": "a\n" + "1.5\ninf\n2.5\n" * 20,
    "decimals": 'a\n"1,5"\n"2,5"\n"3,25"\n' + '"4,5"\n' * 20,
    "thousands": 'a\n"1,500"\n"12,500"\n' + '"3,250"\n' * 20,
    "dates": "a\n" + "31/12/2024\n" * 20,
    "nothing": "a\n" + '""\n' * 20,
}
REFUSED = {
    "": "ardist: error: the following arguments are required: command",
    "fly": "ardist: error: argument command: invalid choice: 'fly'",
    "fit people.csv": "ardist fit: error: the following arguments are required: -o/--output",
    "fit people.csv -o people.pt": "people.pt: expected a .safetensors file in a folder that",
    "fit people.csv -o none/a.safetensors": "expected a .safetensors file in a folder that exists",
    "fit none.csv -o a.safetensors": "No such file or directory: 'none.csv'",
    "fit people.txt -o a.safetensors": "people.txt: expected a file named .csv, .csv.gz or .parq",
    "fit people.csv -o a.safetensors -c age": "--column: expected NAME=VALUE, got 'age'",
    "fit people.csv -o a.safetensors -c age=old": "columns: expected a kind of ",
    "fit people.csv -o a.safetensors -c old=real": "columns: expected names of ",
    "fit people.csv -o a.safetensors --time-limit -1": "time_limit: expected a positive number",
    "fit people.csv -o a.safetensors --max-epochs x": "argument --max-epochs: invalid int value",
    "describe picture.csv": "picture.csv: expected a table, got 'utf-8' codec can't decode",
    "describe picture.parquet": "picture.parquet: expected a table, got ",
    "fit empty.csv -o a.safetensors": "empty.csv: expected a table, got No columns to parse",
    "fit no_rows.csv -o a.safetensors": "X: expected at least 2 rows, got 0",
    "fit one_row.csv -o a.safetensors": "X: expected at least 2 rows, got 1",
    "fit twice.csv -o a.safetensors": "twice.csv: expected different names of columns, got ['a']",
    "fit ragged.csv -o a.safetensors": "in line 3, saw 4; pandas.read_csv with sep=, decimal= or",
    "fit surplus.csv -o a.safetensors": "surplus.csv: expected a name for each column, got rows wi",
    "fit semicolons.csv -o a.safetensors": "semicolons.csv: expected columns separated by commas",
    "fit infinite.csv -o a.safetensors": "column 'a': expected finite numbers, got infinity in 20",
    "fit decimals.csv -o a.safetensors": "column 'a': expected numbers, got text such as '1,5'",
    "fit thousands.csv -o a.safetensors": "column 'a': expected numbers, got text such as '1,500'",
    "fit dates.csv -o a.safetensors": "column 'a': expected dates such as 2024-12-31, got '31/12",
    "fit nothing.csv -o a.safetensors": "X: expected a column that can be modeled, got ",
    "score none.safetensors people.csv": "No such file or directory: 'none.safetensors'",
    "score people.csv people.csv": "people.csv: expected ",
    "score newer.safetensors people.csv": "newer.safetensors: expected format 1, got 2",
    "score pickle.safetensors people.csv": "pickle.safetensors: expected a file that ardist",
    "score cut.safetensors people.csv": "error: cut.safetensors is damaged: ",
    "score network.safetensors people.csv": "network.safetensors: expected a file that Tab",
    "score people.safetensors fewer.csv": "X: expected the columns ",
    "score people.safetensors more.csv": "X: expected columns of ",
    "sample people.safetensors -n 0": "n: expected a positive integer, got 0",
    "sample people.safetensors -g job": "--given: expected NAME=VALUE, got 'job'",
    "sample people.safetensors -g job=": "--given: expected a value, got job=",
    "sample people.safetensors -g job=cooc": "column 'job': expected one of ['cook', 'nurse', 'pi",
    "fit people.csv -o a.safetensors -c size=S,M": "column 'size': expected one of ['S', 'M'], go",
    "sample people.safetensors -g sex=f": "given: expected columns of ",
    "sample people.safetensors -g age=old": "column 'age': expected numbers, got 'old'",
    "sample people.safetensors -o rows.txt": "rows.txt: expected a file named .csv, .csv.gz or",
}


@pytest.fixture(scope="module")
def wrong(folder):
    for name, text in CELLS.items():
        (folder / f"{name}.csv").write_text(text)
    for name in ("picture.csv", "picture.parquet"):
        (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n" * 9)
    shutil.copy(edited(lambda spec, tensors, texts: texts.update({"ardist.format": "2"})),
                folder / "newer.safetensors")  # fmt: skip
    shutil.copy(pickled(), folder / "pickle.safetensors")
    shutil.copy(saved(), folder / "network.safetensors")
    (folder / "cut.safetensors").write_bytes(saved().read_bytes()[:-4])
    people(ROWS).drop(columns="job").to_csv(folder / "fewer.csv", index=False)
    people(ROWS).assign(sex="f").to_csv(folder / "more.csv", index=False)


@pytest.mark.usefixtures("wrong")
@pytest.mark.parametrize("line", REFUSED)
def test_an_error_is_one_line(line, ardist):
    status, out, err = ardist(line)
    assert (status, out) == (2, "")
    errors = [text for text in err if "warning:" not in text]
    assert len(errors) == 1
    assert errors[0].startswith("ardist")
    assert REFUSED[line] in errors[0]


def test_commas_at_the_ends_of_rows_shift_no_columns(ardist, folder):
    lines = (folder / "people.csv").read_text().splitlines()
    text = "\n".join([lines[0], *(f"{line}," for line in lines[1:])])
    (folder / "commas.csv").write_text(text)
    expected = ardist("score people.safetensors people.csv")
    assert ardist("score people.safetensors commas.csv") == expected


def test_a_warning_is_one_line(ardist, folder):
    table = people(ROWS)
    table.assign(id=range(ROWS), none=np.nan, one="x").to_csv(folder / "odd.csv", index=False)
    status, _, err = ardist("fit odd.csv -o odd.safetensors --max-epochs 1 -q")
    assert status == 0
    assert [text.split(",")[0] for text in err] == [
        "ardist: warning: column 'id': left out",
        "ardist: warning: column 'none': left out",
        "ardist: warning: column 'one': has one value",
    ]


def test_the_order_of_columns_and_new_levels_are_no_errors(ardist, folder):
    table = pd.read_csv(folder / "people.csv")
    table[table.columns[::-1]].to_csv(folder / "turned.csv", index=False)
    _, expected, _ = ardist("score people.safetensors people.csv")
    assert ardist("score people.safetensors turned.csv")[1] == expected
    table.assign(job="baker").to_csv(folder / "bakers.csv", index=False)
    status, _, err = ardist("score people.safetensors bakers.csv")
    assert status == 0
    assert "'baker' was not in the table of fit" in err[0]
