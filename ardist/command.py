"""The command `ardist`: fits a density to a table in a file, then samples, scores and imputes."""

import argparse
import csv
import io
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd

from ardist.tables import Schema, TableDensity
from ardist.tables.proposals import KINDS, propose

MODEL = ".safetensors"


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are single lines."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command with arguments, by default the arguments of the process.

    Returns:
        the exit status: 0, or 2 after an error, which is one line on standard error.
    """
    options = _parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module=r"ardist\.")
        warnings.showwarning = lambda message, *_: _say(f"warning: {message}")
        try:
            status: int | None = options.run(options)
        except (ValueError, OSError, ImportError) as error:
            _say(f"error: {error}")
            return 2
    return status or 0


def _say(text: str) -> None:
    """Writes one line to standard error."""
    print("ardist:", " ".join(text.split()), file=sys.stderr)


def _parser() -> _Parser:
    parser = _Parser(
        prog="ardist",
        description="Fits the joint density of a table, then samples, scores and imputes its rows.",
        epilog="Tables are .csv, .csv.gz or .parquet files, and models .safetensors files.",
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    fit = commands.add_parser("fit", help="fit a model to a table and save it")
    fit.add_argument("table", type=Path)
    fit.add_argument("-o", "--output", type=Path, required=True, help="the file of the model")
    fit.add_argument("--missing", choices=("marginalize", "model"), default="marginalize")
    fit.add_argument("--time-limit", type=float, metavar="SECONDS", help="maximum training time")
    fit.add_argument("--max-epochs", type=int, metavar="N", help="maximum passes over the table")
    fit.add_argument("--seed", type=int, default=0)
    fit.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    fit.set_defaults(run=_fit)

    describe = commands.add_parser("describe", help="show the columns of a table or model")
    describe.add_argument("file", type=Path)
    describe.set_defaults(run=_describe)

    for command in (fit, describe):
        command.add_argument(
            *("-c", "--column"), action="append", default=[], metavar="NAME=KIND",
            help=f"the kind of a column, instead of the proposed one: {', '.join(KINDS)}; or its "
            f"levels in their order: NAME=low,mid,high",
        )  # fmt: skip

    sample = commands.add_parser("sample", help="draw synthetic rows")
    sample.add_argument("model", type=Path)
    sample.add_argument("-n", "--rows", type=int, default=1000, help="the number of rows (1000)")
    sample.add_argument(
        *("-g", "--given"), action="append", default=[], metavar="NAME=VALUE",
        help="a cell that all rows have",
    )  # fmt: skip
    sample.add_argument("--seed", type=int, default=0)
    sample.set_defaults(run=_sample)

    score = commands.add_parser("score", help="the log-likelihood of each row in nats")
    score.add_argument("model", type=Path)
    score.add_argument("table", type=Path)
    score.add_argument("--cells", action="store_true", help="score cells, given the cells before")
    score.set_defaults(run=_score)

    impute = commands.add_parser("impute", help="fill in missing cells")
    impute.add_argument("model", type=Path)
    impute.add_argument("table", type=Path)
    impute.add_argument("--method", choices=("median", "mode", "draw"), default="median")
    impute.add_argument("--seed", type=int, default=0, help="the seed of draws")
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
        columns=_declared(options.column),
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


def _describe(options: argparse.Namespace) -> int | None:
    if options.file.suffix != MODEL:
        return _describe_table(_read(options.file), _declared(options.column))
    model = _load(options.file)
    count = sum(parameter.numel() for parameter in model.network_.parameters())
    print(model.schema_)
    print(f"{type(model.network_).__name__} with {count:,} parameters")
    return None


def _describe_table(table: pd.DataFrame, declared: dict[str, Any]) -> int | None:
    """Shows the columns of a table, and an error for each column that cannot be modeled."""
    errors = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `Schema.of` gives the same warnings
        for name in table.columns:
            try:
                propose(table[name], declared.get(name))
            except ValueError as error:
                errors[name] = f"error: {error}"
    schema = Schema((), {})
    if len(errors) < table.shape[1]:  # `Schema.of` needs a column that can be modeled
        schema = Schema.of(table, declared | dict.fromkeys(errors, "left out"))
    print(Schema(schema.columns, schema.left_out | errors))
    for text in errors.values():
        _say(text)
    return 2 if errors else None


def _sample(options: argparse.Namespace) -> None:
    pairs = _pairs(options.given, "--given")
    given = {name: _cells([text])[0] for name, text in pairs.items()}
    for name, cell in given.items():
        if pd.isna(cell):
            raise ValueError(f"--given: expected a value, got {name}={pairs[name]}")
    model = _load(options.model)
    for column in model.schema_.columns:  # a text such as 01 may be a level, and no number
        if pairs.get(column.name) in getattr(column, "levels", ()):
            given[column.name] = pairs[column.name]
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


def _declared(texts: Sequence[str]) -> dict[str, Any]:
    """The kinds of columns, or their levels in order, by name."""
    kinds = _pairs(texts, "--column").items()
    return {name: _cells(next(csv.reader([k]))) if "," in k else k for name, k in kinds}


def _cells(texts: Sequence[str]) -> list[Any]:
    """Texts, parsed as pandas parses the cells of a column in a file."""
    file = io.StringIO()
    csv.writer(file).writerows([text] for text in texts)
    file.seek(0)
    return pd.read_csv(file, header=None, skip_blank_lines=False)[0].tolist()


# Files.


def _load(path: Path) -> TableDensity:
    try:
        return TableDensity.load(path)
    except ValueError as error:
        reason = str(error).removeprefix("path: ")
        prefix = "" if reason.startswith(path.name) else f"{path}: "
        raise ValueError(f"{prefix}{reason}") from error


def _read(path: Path) -> pd.DataFrame:
    """The table in a file."""
    kind = _kind(path)
    try:
        if kind == ".parquet":
            return pd.read_parquet(path)
        names = pd.read_csv(path, header=None, nrows=1, dtype=str).iloc[0].dropna()
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(path, index_col=False)  # by default surplus cells shift the columns
    except pd.errors.ParserWarning as warning:
        raise ValueError(
            f"{path}: expected a name for each column, got rows with more cells than names; "
            f"pandas.read_csv with sep= or index_col= reads others"
        ) from warning
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: expected a table, got {str(error).strip()}; pandas.read_csv with sep=, "
            f"decimal= or encoding= reads others"
        ) from error
    except ValueError as error:
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
