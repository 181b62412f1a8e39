"""The command `ardist`: fits a density to a table in a file, and answers by it in files."""

import argparse
import csv
import io
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pandas as pd

from ardist.tables import Schema, TableDensity
from ardist.tables.proposals import KINDS

MODEL = ".safetensors"


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are single lines."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command with arguments, by default those of the process.

    Returns:
        the exit status: 0, or 2 after an error, which is one line on standard error.
    """
    options = _parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module=r"ardist\.")
        warnings.showwarning = lambda message, *_: _say(f"warning: {message}")
        try:
            options.run(options)
        except (ValueError, OSError, ImportError) as error:
            _say(f"error: {error}")
            return 2
    return 0


def _say(text: str) -> None:
    """Writes one line to standard error."""
    print("ardist:", " ".join(text.split()), file=sys.stderr)


def _parser() -> _Parser:
    parser = _Parser(
        prog="ardist",
        description="Fits the joint density of the columns of a table, and answers by it.",
        epilog="Tables are .csv, .csv.gz or .parquet files, and models .safetensors files.",
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    fit = commands.add_parser("fit", help="fit a model to a table and save it")
    fit.add_argument("table", type=Path)
    fit.add_argument("-o", "--output", type=Path, required=True, help="the file of the model")
    fit.add_argument(
        *("-c", "--column"), action="append", default=[], metavar="NAME=KIND",
        help=f"what a column is, in place of what is proposed: {', '.join(KINDS)}",
    )  # fmt: skip
    fit.add_argument("--missing", choices=("marginalize", "model"), default="marginalize")
    fit.add_argument("--time-limit", type=float, metavar="SECONDS", help="of training at most")
    fit.add_argument("--max-epochs", type=int, metavar="N", help="passes over the table at most")
    fit.add_argument("--seed", type=int, default=0)
    fit.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    fit.set_defaults(run=_fit)

    describe = commands.add_parser("describe", help="show the columns of a table or model")
    describe.add_argument("file", type=Path)
    describe.set_defaults(run=_describe)

    sample = commands.add_parser("sample", help="draw synthetic rows")
    sample.add_argument("model", type=Path)
    sample.add_argument("-n", "--rows", type=int, default=1000, help="their number (1000)")
    sample.add_argument(
        *("-g", "--given"), action="append", default=[], metavar="NAME=VALUE",
        help="a cell that all rows have",
    )  # fmt: skip
    sample.add_argument("--seed", type=int, default=0)
    sample.set_defaults(run=_sample)

    score = commands.add_parser("score", help="the log-likelihood of each row in nats")
    score.add_argument("model", type=Path)
    score.add_argument("table", type=Path)
    score.add_argument("--cells", action="store_true", help="of each cell given those to its left")
    score.set_defaults(run=_score)

    impute = commands.add_parser("impute", help="fill in missing cells")
    impute.add_argument("model", type=Path)
    impute.add_argument("table", type=Path)
    impute.add_argument("--method", choices=("median", "mode", "draw"), default="median")
    impute.add_argument("--seed", type=int, default=0, help="of draws")
    impute.set_defaults(run=_impute)

    for command in (sample, score, impute):
        command.add_argument(
            "-o", "--output", type=Path, help="the table to write; standard output by default"
        )
    return parser


def _fit(options: argparse.Namespace) -> None:
    if options.output.suffix != MODEL or not options.output.parent.is_dir():
        raise ValueError(f"{options.output}: expected a {MODEL} file in a folder that exists")
    model = TableDensity(
        columns=_pairs(options.column, "--column"),
        missing=options.missing,
        max_epochs=options.max_epochs,
        time_limit=options.time_limit,
        random_state=options.seed,
        progress=not options.quiet,
    )
    model.fit(_read(options.table))
    model.save(options.output)
    print(model.schema_)
    print(model.history_)


def _describe(options: argparse.Namespace) -> None:
    if options.file.suffix != MODEL:
        print(Schema.of(_read(options.file)))
        return
    model = _load(options.file)
    count = sum(parameter.numel() for parameter in model.network_.parameters())
    print(model.schema_)
    print(f"{type(model.network_).__name__} with {count:,} parameters")


def _sample(options: argparse.Namespace) -> None:
    # Cells are read as those of a file are.
    pairs = _pairs(options.given, "--given")
    text = io.StringIO()
    csv.writer(text).writerows((pairs.keys(), pairs.values()))
    text.seek(0)
    given = pd.read_csv(text) if pairs else None
    model = _load(options.model)
    _write(model.sample(options.rows, given=given, random_state=options.seed), options.output)


def _score(options: argparse.Namespace) -> None:
    model, table = _load(options.model), _read(options.table)
    scores = model.score_samples(table)
    nats = pd.DataFrame({"nats": scores})
    _write(model.cell_scores(table) if options.cells else nats, options.output)
    _say(f"mean: {scores.mean():.4f} nats a row")


def _impute(options: argparse.Namespace) -> None:
    model, table = _load(options.model), _read(options.table)
    _write(model.impute(table, options.method, random_state=options.seed), options.output)


def _pairs(texts: Sequence[str], name: str) -> dict[str, str]:
    """Arguments NAME=VALUE."""
    for text in texts:
        if "=" not in text:
            raise ValueError(f"{name}: expected NAME=VALUE, got {text!r}")
    return dict(text.split("=", 1) for text in texts)


# Files.


def _load(path: Path) -> TableDensity:
    try:
        return TableDensity.load(path)
    except ValueError as error:
        reason = str(error).removeprefix("path: ")
        raise ValueError(f"{path}: {reason}") from error


def _read(path: Path) -> pd.DataFrame:
    """The table in a file."""
    kind = _kind(path)
    try:
        if kind == ".parquet":
            return pd.read_parquet(path)
        names = pd.read_csv(path, header=None, nrows=1, dtype=str).iloc[0].dropna()
        table = pd.read_csv(path)
    except (ValueError, pd.errors.ParserError) as error:
        raise ValueError(f"{path}: expected a table, got {error}") from error
    if twice := sorted(set(names[names.duplicated()])):  # pandas renames them
        raise ValueError(f"{path}: expected different names of columns, got {twice} twice")
    if table.shape[1] == 1 and any(mark in table.columns[0] for mark in ";\t|"):
        raise ValueError(
            f"{path}: expected columns separated by commas, got one named {table.columns[0]!r}; "
            f"pandas.read_csv with sep= reads others"
        )
    return table


def _write(table: pd.DataFrame, path: Path | None) -> None:
    if path is not None and _kind(path) == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(sys.stdout if path is None else path, index=False)


def _kind(path: Path) -> str:
    """The format of a table, by the name of its file."""
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if kind not in (".csv", ".parquet"):
        raise ValueError(f"{path}: expected a file named .csv, .csv.gz or .parquet")
    return kind
