"""Binary tables: MADEs under several orderings, and their mixture, compared with published numbers.

It takes any table of 0 and 1. Options were chosen on six tables. Another table gets the options of
the table with the nearest size. The validation set selects the epoch of each network. The test set
is read once, at the end.
"""

import argparse
import math
import time
from pathlib import Path
from typing import NamedTuple

import table_files  # the module next to this one
import torch
from torch import Tensor

import ardist as ad

PATIENCE = 10  # epochs without a better validation score


class Preset(NamedTuple):
    """The size of a table and its options, which were chosen only on its validation set."""

    rows: int  # for training
    columns: int
    hidden: tuple[int, ...]  # () is a chain of logistic regressions
    lr: float
    decay: float  # AdamW's, on all but the direct connections
    l1: float  # on the direct connections, since most pairs of columns are independent
    batch: int
    orderings: int


PRESETS = {
    "nltcs": Preset(16181, 16, (200,), 5e-3, 0.1, 1e-4, 200, 4),
    "plants": Preset(17412, 69, (1000,), 2e-3, 0.1, 1e-4, 200, 4),
    "jester": Preset(9000, 100, (500,), 1e-3, 1.0, 1e-3, 100, 6),
    "dna": Preset(1600, 180, (), 1e-2, 0.0, 3e-3, 50, 16),
    "mushrooms": Preset(2000, 112, (300,), 1e-3, 0.03, 1e-4, 25, 4),
    "nips": Preset(400, 500, (), 5e-2, 0.0, 1.8e-2, 20, 4),
}
COLUMNS = ("nltcs", "plants", "jester", "dna 1400/600", "dna 1600/400", "mushrooms", "nips")
NO = math.nan
PUBLISHED = {  # by model and source: mean test log-likelihood in nats on each of COLUMNS
    ("independent columns", "own"): (-9.23, NO, NO, -100.39, -100.39, -34.23, -294.80),
    ("Chow-Liu tree", "own"): (-6.76, -16.52, -58.23, -87.76, -87.70, -20.98, -281.14),
    ("FVSBN, natural order", "own"): (-6.04, -13.16, -51.58, -83.43, -82.55, -10.16, -276.93),
    ("FVSBN, published", "M"): (NO, NO, NO, -83.64, NO, -10.27, -276.88),
    ("NADE, fixed order", "M"): (NO, NO, NO, -84.81, NO, -9.81, -273.08),
    ("EoNADE, 16 orders", "M"): (NO, NO, NO, -82.31, NO, -9.69, -272.39),
    ("DARN", "M"): (NO, NO, NO, -81.04, NO, -9.55, -274.68),
    ("MADE", "M"): (NO, NO, NO, -83.63, NO, -9.68, -280.25),
    ("MADE, mask sampling", "M"): (NO, NO, NO, -79.66, NO, -9.69, -277.28),
    ("best of five SPNs and trees", "M"): (-5.99, -12.54, -52.46, NO, -79.05, NO, NO),
}


def nearest(rows: int, columns: int) -> str:
    """The preset of the table with the nearest size, by ratios."""
    return min(
        PRESETS,
        key=lambda name: math.hypot(
            math.log(PRESETS[name].rows / rows), math.log(PRESETS[name].columns / columns)
        ),
    )


@torch.no_grad()
def score(network: torch.nn.Module, x: Tensor) -> Tensor:
    """log p of each row, in float64."""
    p = ad.AutoregressiveDistribution(network)
    return torch.cat([p.log_prob(rows).double() for rows in x.split(4096)])


def mix(scores: list[Tensor]) -> Tensor:
    """log of the mean of p(x). A mean of logits would not give a distribution."""
    return torch.stack(scores).logsumexp(0) - math.log(len(scores))


class Penalized(ad.LogLikelihood):
    """The log-likelihood, minus a penalty on the direct connections in training."""

    def __init__(self, network: ad.networks.MADE, l1: float) -> None:
        super().__init__(network)
        self.l1 = l1

    def forward(self, x: Tensor) -> Tensor:
        scores = super().forward(x)
        penalty = self.l1 * self.network.direct.weight.abs().sum()
        return scores - penalty if self.training else scores


def fit(network: ad.networks.MADE, preset: Preset, train: Tensor, valid: Tensor, seed: int) -> None:
    direct = network.direct.weight  # starts at zero, and stays there if the penalty is too high

    def optimizer(groups: list[dict], lr: float) -> torch.optim.Optimizer:
        others = [weight for weight in network.parameters() if weight is not direct]
        decayed = {"params": others, "weight_decay": preset.decay}
        return torch.optim.AdamW([decayed, {"params": [direct], "weight_decay": 0.0}], lr)

    options = {"lr": preset.lr, "batch_size": preset.batch, "optimizer": optimizer, "seed": seed}
    options |= {"average": 0.99, "clip": None, "warmup": 0, "patience": PATIENCE}
    ad.training.fit(Penalized(network, preset.l1), train, valid=valid, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, required=True, help=table_files.FORMATS)
    parser.add_argument("--suffix", default="", help="of the arrays train and valid in the .npz")
    parser.add_argument("--preset", choices=PRESETS, help="by default of the nearest size")
    parser.add_argument("--orderings", type=int, help="how many networks to fit and mix")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    parts = table_files.read(args.table, args.suffix, args.seed)
    if not all(((part == 0) | (part == 1)).all() for part in parts):
        parser.error(f"--table: {args.table} has other numbers than 0 and 1")
    train, valid, test = (torch.from_numpy(part).float() for part in parts)
    name = args.preset or nearest(*train.shape)
    preset, start = PRESETS[name], time.perf_counter()
    count = args.orderings or preset.orderings
    table = args.table.stem
    print(f"{table}: {len(train)} train / {len(valid)} valid rows of {train.shape[1]} columns")
    print(f"options of {name}: {preset}")
    print(f"fitting {count}, threads {args.threads}, seed {args.seed}")
    networks, scores = [], []
    for number in range(count):
        ordering = ad.Ordering.random(args.seed + number) if number else ad.Ordering.raster()
        fac = ad.Factorization(train.shape[1:], ad.families.Bernoulli(), ordering=ordering)
        network = ad.networks.MADE(fac, hidden_features=preset.hidden)
        fit(network, preset, train, valid, args.seed + number)
        networks.append(network)
        scores.append(score(network, valid))
        text = f"valid {scores[-1].mean():.3f}, mixture so far {mix(scores).mean():.3f}"
        print(f"{ordering!r}: {text}, {time.perf_counter() - start:.0f} s")
    print(f"parameters of one, masked included: {sum(p.numel() for p in network.parameters())}")
    scores = [score(network, test) for network in networks]
    own = {"natural order": scores[0]}
    if count > 1:
        own |= {f"mean of {count} orders": torch.stack(scores), f"mixture of {count}": mix(scores)}
    column = table.removeprefix("debd_") + f" {len(train)}/{len(valid)}" * (table == "debd_dna")
    rows = [
        (values[COLUMNS.index(column)], *key)
        for key, values in PUBLISHED.items()
        if column in COLUMNS
    ]
    rows += [(each.mean().item(), f"ardist MADE, {name}", "") for name, each in own.items()]
    print(f"\n{table}, mean test log-likelihood of {len(test)} rows in nats, best last")
    for value, model, source in sorted(row for row in rows if not math.isnan(row[0])):
        text = f"{value:8.2f}  [{source}]" if source else f"{value:9.3f} <<< this run"
        print(f"  {model:<32} {text}")
    if column in COLUMNS:
        print("[own] computed on this file, not published; [M] quoted from memory of the paper")
    if (width := train.shape[1]) <= 16:
        states = torch.arange(2**width).unsqueeze(-1) >> torch.arange(width) & 1
        total = mix([score(network, states.float()) for network in networks]).exp().sum()
        print(f"sum of p over all 2^{width} states: {total:.6f}")


if __name__ == "__main__":
    main()
