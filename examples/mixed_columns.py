"""Mixed columns: a table as one distribution, scored by column, imputed, and sampled.

    python examples/mixed_columns.py --data DIR    # with adult_mixed.npz, UCI's Adult, in it
    python examples/mixed_columns.py --csv FILE --family zip=categorical --family age=logistic

One Transformer learns the natural order, with categorical columns first, and random orders. It
scores and samples in the natural order, and imputes missing cells in an order in which the observed
ones come first. The validation rows select the epoch. The test rows are read at the end.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from columns import KINDS, Column, read_adult, read_csv, write_csv
from torch import Tensor

import ardist as ad

DIM, DEPTH, HEADS, DROPOUT = 64, 3, 4, 0.05
BATCH, LR, DECAY = 256, 3e-3, 0.1
HIDDEN, ROWS, DRAWS = 0.2, 2000, 25  # cells to hide, in how many test rows, and draws of each
Network = torch.nn.Module


@torch.no_grad()
def score(network: Network, x: Tensor, ranks: Tensor) -> np.ndarray:
    """log p of each cell; missing ones, NaN, are integrated out and have 0."""
    p = network.condition(nan_policy="marginalize")
    parts = zip(x.split(1000), ranks.split(1000), strict=True)
    scores = [p.with_ordering(order).log_prob_blocks(rows) for rows, order in parts]
    return torch.cat(scores).double().numpy()


def fill(network: Network, x: Tensor, draws: int) -> np.ndarray:
    """Draws (draws, *x.shape) of whole rows, given their cells that are not missing."""
    p = network.condition()
    parts = [p.given(rows, ~rows.isnan()).sample((draws,)) for rows in x.split(100)]
    return torch.cat(parts, 1).double().numpy()


def fit(network: Network, train: Tensor, valid: Tensor, steps: int, seed: int) -> None:
    every = max(steps // 40, 1)
    ad.training.fit(
        network,
        train,
        valid=valid,
        orderings="row",
        in_order=0.5,
        nan_policy="marginalize",
        batch_size=BATCH,
        lr=LR,
        weight_decay=DECAY,
        warmup=steps // 20,
        average=0.997,
        max_epochs=math.ceil(steps / every),
        steps_per_epoch=every,
        patience=None,
        seed=seed,
    )


def report(network: Network, table: dict[str, Column], x: Tensor, rows: np.ndarray) -> None:
    test, columns = x[rows], list(table.values())
    known, natural = ~test.isnan(), torch.arange(len(columns)).expand(test.shape)
    alone, within = (
        np.stack([getattr(column, key)[rows] for column in columns], 1) * known.numpy()
        for key in ("alone", "within")
    )
    hidden = known & (torch.rand(test.shape) < HIDDEN)
    seen = test.masked_fill(hidden, math.nan)
    draws = fill(network, seen[:ROWS], DRAWS)
    nats = [-alone, -within - score(network, test, natural)]
    print(f"\n{'nats of a test cell':>36}{f'{HIDDEN:.0%} of test cells filled in':>29}")
    print(f"{'':16}{'alone':>10}{'network':>10}{'usual value':>14}{'network':>10}")
    for i, (name, column) in enumerate(table.items()):
        where = hidden[:ROWS, i].numpy()
        truth, guesses = column.values[rows][:ROWS][where], column.guess(draws[:, where, i])
        each = [part[:, i].sum() / known[:, i].sum().item() for part in nats]
        each += [column.compare(guess, truth) for guess in (column.usual, guesses)]
        print("{:16.16}{:10.3f}{:10.3f}{:14.3f}{:10.3f}".format(name, *each), column.measure)
    first = sum(column.kind == "categorical" for column in columns)
    for name, count in ((f"{first} categorical", first), (f"all {len(columns)}", len(columns))):
        print("{:16.16}{:10.3f}{:10.3f}".format(name, *(x[:, :count].sum(1).mean() for x in nats)))
    parts = alone, score(network, seen, natural) + within
    shares = [-(part * (known & ~hidden).numpy()).sum(1).mean() for part in parts]
    print("{:16.16}{:10.3f}{:10.3f}".format("cells not hidden", *shares))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="the folder of adult_mixed.npz")
    source.add_argument("--csv", type=Path, help="a table whose first line has the names")
    parser.add_argument("--family", action="append", default=[], help=f"NAME=KIND, of {KINDS}")
    parser.add_argument("--steps", type=int, default=3000, help="fewer will do for a small table")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    path = args.csv or args.data / "adult_mixed.npz"
    if not path.is_file():
        parser.error(f"{path} is missing")
    if args.steps < 2:
        parser.error(f"--steps: expected at least 2, got {args.steps}")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    np.random.seed(args.seed)
    try:
        cells, part = read_csv(path) if args.csv else read_adult(path)
    except ValueError as error:
        parser.error(f"{path}: {error}")
    kinds = dict(pair.rpartition("=")[::2] for pair in args.family)
    if odd := {n: kind for n, kind in kinds.items() if n not in cells or kind not in KINDS}:
        parser.error(f"--family: expected NAME=KIND, of {list(cells)} and {KINDS}, got {odd}")
    table = {}
    for name, text in cells.items():
        try:
            table[name] = Column(text, part == 0, kinds.get(name))
        except ValueError as error:
            parser.error(f"{path}: column {name}: {error}")
    table = dict(sorted(table.items(), key=lambda item: item[1].kind != "categorical"))
    print(f"{path.name}: {np.bincount(part)} rows to train, validate and test")
    for name, column in table.items():
        print(f"  {name:20.20} {column.kind:12} {column.family}")
    fac = ad.Factorization.columns({name: column.family for name, column in table.items()})
    x = torch.from_numpy(np.stack([column.codes for column in table.values()], 1)).float()
    network = ad.networks.Transformer(fac, dim=DIM, depth=DEPTH, heads=HEADS, dropout=DROPOUT)
    fit(network, x[part == 0], x[part == 1], args.steps, args.seed)
    print(f"{args.steps} steps, threads {args.threads}, seed {args.seed}")
    report(network, table, x, part == 2)
    drawn = fac.unpack(network.condition().sample((len(x),)))
    write_csv("mixed_columns", {name: table[name].decode(drawn[name].numpy()) for name in cells})
    if x.isnan().any():
        full = fac.unpack(torch.from_numpy(fill(network, x, 1)[0]))
        for name, text in cells.items():
            cells[name] = np.where(text == "", table[name].decode(full[name].numpy()), text)
        write_csv("mixed_columns_filled", cells)
    print(f"{time.process_time():.0f} s of CPU time")


if __name__ == "__main__":
    main()
