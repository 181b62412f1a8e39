"""A table estimator and mostlyai-engine on Adult: `python benchmarks/tables.py --data DIR`.

The engine is not a dependency, and no part of an extra: `pip install mostlyai-engine==2.7.3` in an
environment of its own, and remove the torchvision and torchaudio that it installs, which need
another torch. Without it, only ardist runs. Both learn the training and validation rows and are
measured on the test rows, in turn. Times are seconds of CPU time of one thread.
"""

import argparse
import json
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ardist import Factorization, Ordering
from ardist.networks import Masked
from ardist.tables import Schema, TableDensity
from ardist.tables.reports import compare

HIDDEN = ("occupation", "relationship", "income", "age")
SIZES = (1000, 16_281)  # numbers of synthetic rows
TOLD = 5000  # synthetic rows that a classifier distinguishes from as many real rows
HOLES = 0.2  # the share of cells that are hidden, different in each row


def adult(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables "train", with the validation rows, and "test"."""
    data = np.load(folder / "adult_mixed.npz")
    levels = json.loads(str(data["categories_json"]))
    numeric = dict(zip(data["columns"].tolist(), data["is_numeric"].tolist(), strict=True))
    tables = {}
    for part in ("train", "valid", "test"):
        cells = {name: data[f"{part}/{name}"] for name in numeric}
        tables[part] = pd.DataFrame(
            {
                name: codes.astype(int) if numeric[name] else np.array(levels[name], object)[codes]
                for name, codes in cells.items()
            }
        )
    return {"train": pd.concat((tables["train"], tables["valid"]), ignore_index=True)} | {
        "test": tables["test"]
    }


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """The result of a call, and its seconds of CPU time."""
    start = time.process_time()
    return call(), time.process_time() - start


class Ours:
    name = "ardist"

    def fit(self, train: pd.DataFrame) -> None:
        self.model = TableDensity().fit(train)

    def nats(self, rows: pd.DataFrame) -> float:
        return -self.model.marginal(list(rows)).score(rows)

    def sample(self, count: int) -> pd.DataFrame:
        return self.model.sample(count)

    def guess(self, rows: pd.DataFrame, column: str) -> pd.Series:
        return self.model.impute(rows.drop(columns=column))[column]

    def guess_by_draws(self, rows: pd.DataFrame, column: str) -> pd.Series:
        """Guesses by draws, as the engine does, to measure the gain of exact conditionals."""
        hidden = rows.drop(columns=column)
        draws = [self.model.impute(hidden, "draw", random_state=i)[column] for i in range(15)]
        each = pd.concat(draws, axis=1)
        is_number = pd.api.types.is_numeric_dtype(rows[column])
        return each.median(axis=1) if is_number else each.mode(axis=1)[0]

    def impute(self, rows: pd.DataFrame) -> pd.DataFrame:
        return self.model.impute(rows)


class Engine:
    """The peer. Its `log_prob` takes whole rows, so a second model scores categorical columns."""

    name = "mostlyai-engine"

    def fit(self, train: pd.DataFrame) -> None:
        self.train, self.model = train, self._fitted(train)

    def _fitted(self, rows: pd.DataFrame) -> Any:
        from mostlyai.engine import TabularARGN

        return TabularARGN(workspace_dir=tempfile.mkdtemp(), random_state=0).fit(rows)

    def nats(self, rows: pd.DataFrame) -> float:
        is_whole = list(rows) == list(self.train)
        model = self.model if is_whole else self._fitted(self.train[list(rows)])
        return -float(np.mean(model.log_prob(rows)))

    def sample(self, count: int) -> pd.DataFrame:
        return self.model.sample(n_samples=count)

    def guess(self, rows: pd.DataFrame, column: str) -> pd.Series:
        is_number = pd.api.types.is_numeric_dtype(rows[column])
        hidden = rows.assign(**{column: np.nan if is_number else None})
        # Its own medians fail in the columns of text, and its own modes cut texts to one length.
        draws = self.model.impute(hidden, n_draws=15, agg_fn="list")[column]
        if is_number:
            return draws.map(lambda each: np.median(np.asarray(each, float)))
        return draws.map(lambda each: pd.Series(each).mode()[0])

    def impute(self, rows: pd.DataFrame) -> pd.DataFrame:
        return self.model.impute(rows, n_draws=15)


def judged(
    rows: pd.DataFrame, name: str, guess: Callable[[pd.DataFrame, str], pd.Series]
) -> tuple[str, float, float]:
    """The quality of guesses of a hidden column, in the form of `measurements`."""
    found, seconds = timed(lambda: guess(rows, name))
    truth, cells = rows[name].to_numpy(), found.to_numpy()
    if name == "age":
        return "age hidden, mean error", float(np.abs(cells - truth).mean()), seconds
    return f"{name} hidden, share right", float((cells == truth).mean()), seconds


def nats_of_orders(model: TableDensity, table: pd.DataFrame) -> list[float]:
    """Nats of the categorical columns of a row, in each of eight random orders."""
    rows = torch.from_numpy(model.schema_.encode(table)).float()
    rows[:, [pd.api.types.is_numeric_dtype(table[name]) for name in table]] = torch.nan
    p = model.network_.condition(nan_policy="marginalize")
    orders = [p.with_ordering(Ordering.random(seed)) for seed in range(8)]
    with torch.no_grad():
        return [
            -torch.cat([q.log_prob(part) for part in rows.split(4000)]).mean().item()
            for q in orders
        ]


def measurements(
    one: Any, train: pd.DataFrame, test: pd.DataFrame
) -> Iterator[tuple[str, float, float]]:
    """Yields the name of a measurement, its result and its seconds of CPU time."""
    _, seconds = timed(lambda: one.fit(train))
    yield "fit", float(len(train)), seconds
    categorical = [name for name in test if not pd.api.types.is_numeric_dtype(test[name])]
    for what, names in (("the categorical columns", categorical), ("all columns", list(test))):
        found, seconds = timed(lambda names=names: one.nats(test[names]))
        yield f"nats of a row, {what}", found, seconds
    for count in SIZES:
        _, seconds = timed(lambda count=count: one.sample(count))
        yield f"{count} synthetic rows", count / seconds, seconds
    drawn, seconds = timed(lambda: one.sample(TOLD))
    drawn = drawn[list(train)].astype(train.dtypes.to_dict())
    report = compare(Schema.of(train), train[:TOLD], drawn, None)
    yield f"{TOLD} rows told from real ones, share right", report.accuracy, seconds
    rows = test[:1000]
    for name in HIDDEN:
        yield judged(rows, name, one.guess)
    hidden = np.random.default_rng(0).random(rows[:100].shape) < HOLES
    full, seconds = timed(lambda: one.impute(rows[:100].mask(hidden)))
    yield "100 rows with holes of their own, cells left", float(full.isna().sum().sum()), seconds


def made(rows: int, columns: int) -> pd.DataFrame:
    """A table of columns of ten kinds, most with three common factors, and 3 % missing cells."""
    rng = np.random.default_rng(0)
    factors, made = rng.normal(size=(rows, 3)), {}
    letters, names = np.array(list("abcdefgh")), np.array([f"name {i}" for i in range(40)])
    for index in range(columns):
        x = factors[:, index % 3] + rng.normal(size=rows)
        days = pd.to_timedelta((500 * x).astype(int), "D")
        kinds = [
            *(x.round(3), np.exp(x), np.where(x < 0, 0, np.exp(x + 8)).round(2)),
            *((40 + 12 * x).clip(18, 90).astype(int), np.exp(x + 5).astype(int)),
            *(letters[((x + 3) * 1.2).clip(0, 7).astype(int)], rng.integers(0, 5, rows)),
            *(names[((x + 4) * 5).clip(0, 39).astype(int)], x > 0),
            pd.Timestamp("2020-01-01") + days,
        ]
        made[f"column {index}"] = kinds[index % 10]
    return pd.DataFrame(made).mask(rng.random((rows, columns)) < 0.03)


def parts_of_a_start(table: pd.DataFrame) -> Iterator[tuple[str, float]]:
    """Yields the parts of the work before the first training step, and their CPU seconds."""
    schema, seconds = timed(lambda: Schema.of(table))
    yield "kinds of the columns", seconds
    families = {column.name: column.family for column in schema.columns}
    network, seconds = timed(lambda: Masked(Factorization.columns(families)))
    yield "network", seconds
    rows = torch.from_numpy(schema.encode(table)).float()
    _, seconds = timed(lambda: network.start_at(rows))
    yield "start at the marginals", seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="the folder of adult_mixed.npz")
    source.add_argument("--made", type=int, nargs=2, metavar=("ROWS", "COLUMNS"))
    args = parser.parse_args()
    warnings.filterwarnings("ignore")  # the peer's warnings
    torch.set_num_threads(1)
    if args.made:
        table = made(*args.made)
        print(", ".join(f"{what} {seconds:.2f} s" for what, seconds in parts_of_a_start(table)))
        model, seconds = timed(lambda: TableDensity().fit(table))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print(f"{seconds:.0f} s, peak memory {peak:.0f} MiB; {model.history_}")
        return
    tables = adult(args.data)
    peers: list[Any] = [Ours()]
    try:
        import mostlyai.engine  # noqa: F401

        peers.append(Engine())
    except ImportError as error:
        print(f"mostlyai-engine is not installed: {error}")
    every = (measurements(one, tables["train"], tables["test"]) for one in peers)
    for rows in zip(*every, strict=True):
        for one, (what, value, seconds) in zip(peers, rows, strict=True):
            print(f"{one.name:16} {what:46} {value:10.3f} {seconds:9.3f} s", flush=True)
    ours, test = peers[0], tables["test"]
    nats = nats_of_orders(ours.model, test)
    print(
        f"ardist alone: the categorical columns in {len(nats)} random orders, mean "
        f"{np.mean(nats):.3f}, from {min(nats):.3f} to {max(nats):.3f} nats of a row"
    )
    print("The same 1,000 rows by 15 draws, and all test rows by the exact conditional:")
    for rows, guess in ((test[:1000], ours.guess_by_draws), (test, ours.guess)):
        for name in HIDDEN:
            what, value, seconds = judged(rows, name, guess)
            print(f"{len(rows):6} rows {what:46} {value:10.3f} {seconds:9.3f} s", flush=True)


if __name__ == "__main__":
    main()
