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
HIDDEN, COMPONENTS, LR, DECAY, BATCH, PATIENCE = (100,), 10, 2e-3, 0.3, 50, 15
# A column has some tens of distinct values: without a floor on the scales a component that sits
# on one of them buys any density. In units of the column's deviation.
MIN_SCALE = 0.03
PUBLISHED = {  # mean test log density in nats; [R] reproduced on these files, [M] from memory
    "Gaussian, full covariance [R]": -13.18,
    "mixture of factor analysers [M]": -10.19,
    "RNADE, mixtures of Laplacians [M]": -9.46,
    "RNADE, mixtures of Gaussians [M]": -9.36,
}
COMPONENT = {
    "normal": ad.families.Normal,
    "laplace": ad.families.Laplace,
    "logistic": ad.families.Logistic,
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
            loss = -network.condition().log_prob(train[rows]).mean()
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
