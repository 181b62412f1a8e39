"""Mixtures and stacks of five transforms compared with zuko's flows of five, at equal CPU time.

`DATA=DIR python benchmarks/run.py flows` reads magic_gamma.npz in DIR. The tables and our models
come from examples/continuous_tables.py. All models of a table and a seed are trained in turn: the
model with the least CPU time so far trains for the next epoch. The validation rows select the
epoch. The test rows are read at the end. Errors are standard errors of the mean over seeds.
"""

import copy
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from harness import Case
from torch import Tensor, nn

import ardist as ad
from ardist import families as fam
from ardist.networks import MADE

sys.path.append(str(Path(__file__).parents[1] / "examples"))
from continuous_tables import DEPTH, HIDDEN, NORMALS, Stack, load

LR, SEEDS = 1e-3, 3
# Batch size, and seconds of each model and seed.
TABLES = {"star98": (32, 4.0), "breast_cancer": (32, 4.0), "magic_gamma": (256, 20.0)}


class Zuko(nn.Module):
    def __init__(self, flow: Callable[..., nn.Module], features: int) -> None:
        super().__init__()
        self.flow = flow(features, transforms=DEPTH, hidden_features=HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.flow().log_prob(x)
        return scores


def mixtures(train: Tensor) -> nn.Module:
    network = MADE(ad.Factorization(train.shape[1], NORMALS))
    network.start_at(train)  # as `fit` does
    return ad.LogLikelihood(network)


def models() -> dict[str, Callable[[Tensor], nn.Module]]:
    """Modules from training rows, whose `forward` is the log-likelihood of rows."""
    import zuko

    peer = f"zuko {version('zuko')}"
    return {
        "ardist, MADE of mixtures": mixtures,
        "ardist, stack of splines": lambda train: Stack(train.shape[1], fam.Spline(8)),
        f"{peer}, NSF": lambda train: Zuko(zuko.flows.NSF, train.shape[1]),
        f"{peer}, MAF": lambda train: Zuko(zuko.flows.MAF, train.shape[1]),
    }


class Training:
    """A model in training, and its best state so far."""

    def __init__(
        self, make: Callable[[Tensor], nn.Module], parts: list[Tensor], batch: int
    ) -> None:
        self.train, self.valid, self.test = parts
        self.model, self.batch = make(self.train), batch
        self.optimizer = torch.optim.Adam(self.model.parameters(), LR)
        self.seconds, self.steps, self.best, self.state = 0.0, 0, -math.inf, {}

    def epoch(self) -> None:
        start = time.process_time()
        for rows in torch.randperm(len(self.train)).split(self.batch):
            loss = -self.model(self.train[rows]).mean()
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
        return self.model(x).mean().item()

    def result(self) -> float:
        self.model.load_state_dict(self.state)
        return self.score(self.test)


def trained(parts: list[Tensor], seed: int, batch: int, seconds: float) -> dict[str, Training]:
    """Trains all models of a table in turn."""
    torch.manual_seed(seed)
    runs = {what: Training(make, parts, batch) for what, make in models().items()}
    while (least := min(runs.values(), key=lambda run: run.seconds)).seconds < seconds:
        least.epoch()
    return runs


def flows() -> Iterator[Case]:
    folder, threads = Path(os.environ.get("DATA", "data")), torch.get_num_threads()
    torch.set_num_threads(1)
    tables = load(folder)
    for name, (batch, seconds) in TABLES.items():
        print(f"\n{name}, {seconds:.0f} seconds of one thread each, {SEEDS} seeds")
        if name not in tables:
            print(f"  expected {name}.npz in {folder}; DATA=DIR says where it is")
            continue
        parts = [torch.from_numpy(part).float() for part in tables[name]]
        every = [trained(parts, seed, batch, seconds) for seed in range(SEEDS)]
        for what in every[0]:
            nats = [runs[what].result() for runs in every]
            error = np.std(nats, ddof=1) / SEEDS**0.5
            steps = np.mean([runs[what].steps for runs in every])
            text = f"{np.mean(nats):9.3f} +- {error:.3f} nats of a test row, {steps:.0f} steps"
            print(f"  {what:<26}{text}", flush=True)
    torch.set_num_threads(threads)
    yield from ()
