"""Continuous tables: MADE with mixtures of normals, compared with a Gaussian.

It takes any table of numbers, and RNADE's ten folds of the red wine data, for which there are
published numbers. The options were chosen on these folds. A CSV file is split again for each fold.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import table_files  # the module next to this one
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.utils.data import DataLoader
from tqdm import tqdm

import ardist as ad

# Chosen only on the validation parts, as is each network's epoch.
HIDDEN, COMPONENTS, LR, DECAY, BATCH, PATIENCE = (200, 200), 10, 1e-2, 0.1, 50, 15
NOISE = 0.1  # added to the training rows, resampled in each epoch, since 1272 rows are few
# Columns have 60 to 436 distinct values, most of them about 0.05 deviations apart. Without a lower
# bound on the scales, the density of a component at one of them is unbounded.
MIN_SCALE = 0.05
OWN = ("ardist MADE, natural order", "ardist MADE, mixture of orders", "Gaussian, full covariance")
# "new" are the test rows without a copy in the training set. Copies can be memorized.
HEAD = """fold  mixture    natural order     mixture of orders   Gaussian           share
        valid    test     new      test     new      test     new      new"""
LINE = "{:<4}" + 4 * "{:9.3f}{:9.3f}"
WINE = "red_wine_rnade_folds.npz"  # with arrays fold1_train, fold1_valid, fold1_test, ...
PUBLISHED = {  # mean test log density in nats; [R] reproduced on these files, [M] from memory
    "Gaussian, full covariance [R]": -13.18,
    "mixture of factor analysers [M]": -10.19,
    "RNADE, mixtures of Laplacians [M]": -9.46,
    "RNADE, mixtures of Gaussians [M]": -9.36,
}


def read(path: Path, fold: int) -> list[np.ndarray]:
    """Training, validation and test rows of a fold, from 1."""
    if path.name != WINE:
        return table_files.read(path, seed=fold)
    with np.load(path) as data:
        return [data[f"fold{fold}_{part}"] for part in table_files.PARTS]


@torch.no_grad()
def score(network: torch.nn.Module, x: Tensor) -> Tensor:
    p = ad.AutoregressiveDistribution(network)
    return torch.cat([p.log_prob(rows).double() for rows in x.split(4096)])


def mix(scores: list[Tensor]) -> Tensor:
    return torch.stack(scores).logsumexp(0) - math.log(len(scores))


def fit(network: ad.networks.MADE, train: Tensor, valid: Tensor, seed: int) -> None:
    noisy = DataLoader(train, BATCH, shuffle=True, collate_fn=with_noise)
    options = {"weight_decay": DECAY, "average": 0.99, "clip": 5.0, "warmup": 0}
    options |= {"patience": PATIENCE, "seed": seed, "progress": False}
    ad.training.fit(network, noisy, valid=valid, lr=LR, **options)


def with_noise(rows: list[Tensor]) -> Tensor:
    x = torch.stack(rows)
    return x + NOISE * torch.randn_like(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, required=True, help=table_files.FORMATS)
    parser.add_argument("--folds", type=int, help="10 of the wine, and otherwise 1 by default")
    parser.add_argument("--orderings", type=int, default=4, help="networks to fit and mix")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    is_wine = args.table.name == WINE
    folds = args.folds or (10 if is_wine else 1)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    start = time.perf_counter()
    family = ad.families.Mixture(ad.families.Normal(min_scale=MIN_SCALE), COMPONENTS)
    orderings = [ad.Ordering.raster(), *map(ad.Ordering.random, range(1, args.orderings))]
    print(f"{family}, hidden {HIDDEN}, lr {LR}, decay {DECAY}, batch {BATCH}, noise {NOISE}")
    print(f"no scale below {MIN_SCALE} deviations of its column, against ties in the data")
    print(f"{len(orderings)} ordering(s), threads {args.threads}, seed {args.seed}\n")
    print(HEAD)
    results = []
    for fold in range(1, folds + 1):
        parts = read(args.table, fold)
        mean, deviation = parts[0].mean(0, np.float64), parts[0].std(0, np.float64)
        train, valid, test = (torch.from_numpy((x - mean) / deviation).float() for x in parts)
        networks = []
        bar = tqdm(orderings, desc=f"fold {fold}", leave=False, disable=None)
        for number, ordering in enumerate(bar):
            fac = ad.Factorization(train.shape[1:], family, ordering=ordering)
            networks.append(ad.networks.MADE(fac, hidden_features=HIDDEN))
            fit(networks[-1], train, valid, args.seed + number)
        chosen, scores = ([score(network, x) for network in networks] for x in (valid, test))
        covariance = train.T.cov(correction=0) + 1e-6 * torch.eye(train.shape[1])
        gaussian = MultivariateNormal(train.mean(0), covariance).log_prob(test)
        known = {row.tobytes() for row in train.numpy()}
        new = torch.tensor([row.tobytes() not in known for row in test.numpy()])
        pairs = [(each, each[new]) for each in (scores[0], mix(scores), gaussian)]
        results.append([x.mean().item() for x in (mix(chosen), *sum(pairs, ()), new.double())])
        print(LINE.format(fold, *results[-1]))
    means = np.mean(results, 0)
    print(LINE.format("mean", *means), f" ({time.perf_counter() - start:.0f} s)\n")
    rows = [(value, f"{name} <<< this run") for name, value in zip(OWN, means[1:7:2], strict=True)]
    rows += [(value, name) for name, value in PUBLISHED.items() if is_wine]
    print(f"{args.table.stem}, mean test log density of {folds} fold(s) in nats, best last")
    for value, name in sorted(rows):
        print(f"  {value:7.2f}  {name}")
    print("columns standardized by the training rows")
    if is_wine:
        print("[R] reproduced on these files; [M] quoted from memory of the paper")


if __name__ == "__main__":
    main()
