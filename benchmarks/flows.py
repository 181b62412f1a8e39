"""Stacks of five transforms beside zuko's flows of five, trained for equal seconds of one core.

`DATA=DIR python benchmarks/run.py flows` reads the tables in DIR. All models of a table take turns,
an epoch each, and the one that had the least CPU time so far goes next. The validation rows pick
the epoch; the test rows are read at the end.
"""

import copy
import math
import os
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import torch
from harness import Case
from torch import Tensor, nn

import ardist as ad
from ardist import families as fam
from ardist import networks

DEPTH, HIDDEN, LR = 5, (64, 64), 1e-3
# File, keys of the training, validation and test rows, batch size and seconds of each model.
TABLES = {
    "MAGIC gamma": ("magic_gamma.npz", ("train", "valid", "test"), 256, 40.0),
    "red wine, fold 1": (
        "red_wine_rnade_folds.npz",
        ("fold1_train", "fold1_valid", "fold1_test"),
        64,
        15.0,
    ),
}
Tables = tuple[Tensor, Tensor, Tensor]


class Stack(nn.Module):
    """A stack as users make it: noise through transforms, whose orders take turns."""

    def __init__(self, features: int, family: fam.Family) -> None:
        super().__init__()
        orderings = (ad.Ordering.raster(), ad.Ordering.reverse())
        factorizations = [ad.Factorization(features, family, ordering=o) for o in orderings]
        self.layers = nn.ModuleList(
            ad.transforms.AutoregressiveTransform(
                networks.MADE(factorizations[layer % 2], hidden_features=HIDDEN)
            )
            for layer in range(DEPTH)
        )
        self.noise = dist.Normal(torch.zeros(features), 1.0).to_event(1)

    def log_prob(self, x: Tensor) -> Tensor:
        scores: Tensor = dist.TransformedDistribution(self.noise, [*self.layers]).log_prob(x)
        return scores


class Zuko(nn.Module):
    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.flow = flow

    def log_prob(self, x: Tensor) -> Tensor:
        scores: Tensor = self.flow().log_prob(x)
        return scores


class Training:
    """A model in training, and its best state so far."""

    def __init__(self, make: Callable[[int], nn.Module], tables: Tables, batch: int) -> None:
        torch.manual_seed(0)
        self.train, self.valid, self.test = tables
        self.model, self.batch = make(self.train.shape[1]), batch
        self.optimizer = torch.optim.Adam(self.model.parameters(), LR)
        self.seconds, self.steps, self.best, self.state = 0.0, 0, -math.inf, {}

    def epoch(self) -> None:
        start = time.process_time()
        for rows in torch.randperm(len(self.train)).split(self.batch):
            loss = -self.model.log_prob(self.train[rows]).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.steps += 1
        score = self.score(self.valid)
        if score > self.best:
            self.best, self.state = score, copy.deepcopy(self.model.state_dict())
        self.seconds += time.process_time() - start

    @torch.no_grad()
    def score(self, x: Tensor) -> float:
        return self.model.log_prob(x).mean().item()

    def result(self) -> float:
        self.model.load_state_dict(self.state)
        return self.score(self.test)


def models() -> dict[str, Callable[[int], nn.Module]]:
    import zuko

    peer = f"zuko {version('zuko')}"
    options = {"transforms": DEPTH, "hidden_features": HIDDEN}
    return {
        "ardist, splines": lambda features: Stack(features, fam.Spline(8)),
        f"{peer}, NSF": lambda features: Zuko(zuko.flows.NSF(features, **options)),
        "ardist, Normals": lambda features: Stack(features, fam.Normal(min_scale=1e-3)),
        f"{peer}, MAF": lambda features: Zuko(zuko.flows.MAF(features, **options)),
    }


def standardized(path: Path, keys: tuple[str, ...]) -> Tables:
    with np.load(path) as arrays:
        train, valid, test = (torch.tensor(arrays[key]).double() for key in keys)
    mean, deviation = train.mean(0), train.std(0)
    train, valid, test = (((x - mean) / deviation).float() for x in (train, valid, test))
    return train, valid, test


def flows() -> Iterator[Case]:
    folder, threads = Path(os.environ.get("DATA", "data")), torch.get_num_threads()
    torch.set_num_threads(1)
    for name, (file, keys, batch, seconds) in TABLES.items():
        print(f"\nstacks of {DEPTH}, {name}, one thread; aim: test nats no worse than zuko's")
        if not (folder / file).exists():
            print(f"  expected {file} in {folder}; DATA=DIR says where it is")
            continue
        tables = standardized(folder / file, keys)
        runs = {what: Training(make, tables, batch) for what, make in models().items()}
        while (least := min(runs.values(), key=lambda run: run.seconds)).seconds < seconds:
            least.epoch()
        for what, run in runs.items():
            nats = f"{run.result():8.3f} nats of a test row"
            print(f"  {what:<18}{nats}, {run.seconds:6.1f} s, {run.steps:6d} steps", flush=True)
    torch.set_num_threads(threads)
    yield from ()
