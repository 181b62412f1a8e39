"""Draws by fixed-point iteration compared with draws step by step, on trained networks."""

from collections.abc import Iterator
from functools import partial

import torch
from harness import Case
from sklearn.datasets import load_digits

import ardist as ad
from ardist import families as fam
from ardist import networks
from ardist.sampling import fixed_point


def trained(network: networks.ConditionalNetwork, steps: int) -> ad.AutoregressiveDistribution:
    """Trains a network on scikit-learn's digits in black and white."""
    x = torch.from_numpy(load_digits().images > 7).float()
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(steps):
        loss = -network.condition().log_prob(x[torch.randint(len(x), (100,))]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.condition()


def fixed_points() -> Iterator[Case]:
    fac = ad.Factorization((8, 8), fam.Bernoulli())
    found = {
        "MADE 512x512": trained(networks.MADE(fac, hidden_features=(512, 512)), 400),
        "Transformer, 2 layers, 64 wide": trained(
            networks.Transformer(fac, dim=64, depth=2, heads=4), 400
        ),
    }
    for name, p in found.items():
        passes = [fixed_point(p, (64,))[1] for _ in range(20)]
        print(f"\n{name}: passes for 64 draws of 64 pixels: {min(passes)} to {max(passes)}")
        yield (
            f"{name}: fixed_point, 64 draws, compared with p.sample with its cache",
            partial(fixed_point, p, (64,)),
            {"p.sample": partial(p.sample, (64,))},
            "none",
        )
