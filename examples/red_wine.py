"""Red wine: MADE with mixtures of continuous components on RNADE's ten folds.

python examples/red_wine.py --data DIR

The validation part of a fold picks the epoch; its test part is read once, after that.
"""

import argparse
import copy
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

import ardist as ad

# Chosen on the validation parts alone.
HIDDEN, COMPONENTS, LR, DECAY, BATCH, PATIENCE = (200, 200), 10, 5e-3, 0.1, 50, 15
NOISE = 0.1  # added to training rows, fresh in each epoch: 1272 rows are few
# Columns have from 60 to 436 distinct values, most of them some 0.05 deviations apart: without a
# floor on the scales a component that sits on one of them can buy any density.
MIN_SCALE = 0.05
SPLITS = ("train", "valid", "test")
PUBLISHED = {  # mean test log density in nats; [R] reproduced on these files, [M] from memory
    "Gaussian, full covariance [R]": -13.18,
    "mixture of factor analysers [M]": -10.19,
    "RNADE, mixtures of Laplacians [M]": -9.46,
    "RNADE, mixtures of Gaussians [M]": -9.36,
}


@torch.no_grad()
def score(network: torch.nn.Module, x: Tensor) -> Tensor:
    """log density of every row, in float64."""
    return ad.AutoregressiveDistribution(network).log_prob(x).double()


def mix(scores: list[Tensor]) -> Tensor:
    """log of the mean of whole densities."""
    return torch.stack(scores).logsumexp(0) - math.log(len(scores))


def fit(network: ad.networks.MADE, train: Tensor, valid: Tensor) -> torch.nn.Module:
    with torch.no_grad():  # components spread over the column, and independent columns at first
        network.direct.weight.zero_()
        bias = network.output_bias.view(-1, 3 * COMPONENTS)
        bias[:, COMPONENTS::2] = torch.linspace(-2, 2, COMPONENTS)
    optimizer = torch.optim.AdamW(network.parameters(), LR, weight_decay=DECAY)
    plan = ReduceLROnPlateau(optimizer, "max", 0.5, patience=PATIENCE // 3)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.99))  # less noisy
    best, best_score, best_epoch = average.module, -math.inf, 0
    for epoch in range(400):
        for rows in torch.randperm(len(train)).split(BATCH):
            x = train[rows]
            loss = -network.condition().log_prob(x + NOISE * torch.randn_like(x)).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            average.update_parameters(network)
        now = score(average.module, valid).mean().item()
        plan.step(now)
        if now > best_score:
            best, best_score, best_epoch = copy.deepcopy(average.module), now, epoch
        elif epoch - best_epoch >= PATIENCE:
            break
    return best


def gaussian(train: Tensor, test: Tensor) -> Tensor:
    """log density under the full-covariance Gaussian of the training rows."""
    covariance = train.T.cov(correction=0)
    return torch.distributions.MultivariateNormal(train.mean(0), covariance).log_prob(test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="where the folds' npz file is")
    parser.add_argument("--folds", type=int, default=10, help="how many of the ten, from the first")
    parser.add_argument("--orderings", type=int, default=4, help="networks to fit and mix")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    path = args.data / "red_wine_rnade_folds.npz"
    if not path.is_file():
        parser.error(f"{path} is missing: an npz file of foldN_train, foldN_valid, foldN_test")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    start, data = time.perf_counter(), np.load(path)
    family = ad.families.Mixture(ad.families.Normal(min_scale=MIN_SCALE), COMPONENTS)
    orderings = [ad.Ordering.raster()]
    orderings += [ad.Ordering.random(args.seed + number) for number in range(1, args.orderings)]
    print(f"{family}, hidden {HIDDEN}, lr {LR}, decay {DECAY}, batch {BATCH}, noise {NOISE}")
    print(f"{len(orderings)} ordering(s), threads {args.threads}, seed {args.seed}")
    print(f"no scale is below {MIN_SCALE} deviations of its column: ties buy no more than that\n")
    print("fold   valid  one order  mean of orders  mixture   Gaussian  (test, in nats)")
    results = []
    for fold in range(1, args.folds + 1):
        parts = [torch.from_numpy(data[f"fold{fold}_{part}"]).double() for part in SPLITS]
        mean, deviation = parts[0].mean(0), parts[0].std(0, correction=0)
        train, valid, test = ((part - mean) / deviation for part in parts)
        networks = []
        for ordering in tqdm(orderings, desc=f"fold {fold}", leave=False, disable=None):
            fac = ad.Factorization(train.shape[1:], family, ordering=ordering)
            network = ad.networks.MADE(fac, hidden_features=HIDDEN)
            networks.append(fit(network, train.float(), valid.float()))
        scores = [score(network, test.float()) for network in networks]
        chosen = mix([score(network, valid.float()) for network in networks])
        each = (chosen, scores[0], torch.stack(scores), mix(scores), gaussian(train, test))
        results.append([values.mean().item() for values in each])
        print("{:4}{:8.3f}{:11.3f}{:16.3f}{:9.3f}{:11.3f}".format(fold, *results[-1]))
    means = np.mean(results, 0)
    print("mean{:8.3f}{:11.3f}{:16.3f}{:9.3f}{:11.3f}".format(*means))
    print(f"{time.perf_counter() - start:.0f} s\n")
    names = ("ardist MADE, natural order", "ardist MADE, mean of orders", "ardist MADE, mixture")
    rows = [(value, name, "") for name, value in PUBLISHED.items()]
    rows += [(v, n, " <<< this run") for n, v in zip(names, means[1:4], strict=True)]
    rows.append((means[4], "Gaussian, full covariance", " <<< this run"))
    print(f"mean test log density of {args.folds} fold(s) in nats, columns standardized, best last")
    for value, name, mark in sorted(rows):
        print(f"  {name:<36}{value:9.3f}{mark}" if mark else f"  {name:<36}{value:8.2f}")
    print("[R] reproduced on these files; [M] quoted from memory of the paper")


if __name__ == "__main__":
    main()
