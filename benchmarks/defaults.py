"""Networks of default sizes compared with a grid of sizes: `python benchmarks/defaults.py`.

On five small tables that ship with scikit-learn and statsmodels, each column has the family that
`families.auto` proposes, and all networks are trained alike. The numbers are mean nats per column
on a fifth of the rows, which also select the epoch, and how far the default is behind the best
network of the grid. Needs the extra `examples`.
"""

import time
from collections.abc import Callable
from itertools import product
from typing import Any

import pandas as pd
import statsmodels.api as sm
import torch
from sklearn import datasets

import ardist as ad
from ardist import families, networks

ROWS = 400  # of a table at most
TRAINING = {"batch_size": 32, "lr": 3e-3, "max_epochs": 40, "progress": False}
GRIDS: dict[Callable[..., networks.ConditionalNetwork], list[dict[str, Any]]] = {
    kind: [{"hidden_features": (width,) * depth} for width, depth in product((32, 256), (1, 3))]
    for kind in (networks.MADE, networks.Masked)
}
GRIDS[networks.Transformer] = [
    {"dim": dim, "depth": depth, "heads": 4} for dim, depth in ((32, 1), (128, 3))
]
GRIDS[networks.RNN] = [
    {"hidden_size": size, "num_layers": depth} for size, depth in ((32, 1), (256, 2))
]


def tables() -> dict[str, pd.DataFrame]:
    """Tables of numbers, without missing cells, in random order."""
    found = {
        name: getattr(datasets, f"load_{name}")(as_frame=True).frame
        for name in ("iris", "wine", "diabetes")
    }
    found["anes96"] = sm.datasets.anes96.load_pandas().data.drop(columns="logpopul")
    found["fair"] = sm.datasets.fair.load_pandas().data
    return {name: table.sample(frac=1, random_state=0)[:ROWS] for name, table in found.items()}


def nats(network: networks.ConditionalNetwork, train: torch.Tensor, valid: torch.Tensor) -> float:
    """The mean nats per column after training."""
    ad.training.fit(network, train, valid=valid, **TRAINING)
    with torch.no_grad():
        return -network.condition().log_prob(valid).mean().item() / train.shape[1]


def main() -> None:
    torch.set_num_threads(1)
    columns = f"{'default':>9}{'best':>9}{'behind':>9}{'seconds':>9}"
    print(f"{'table':<10}{'rows':>6}{'columns':>9}  {'network':<12}{columns}")
    for name, table in tables().items():
        proposed = {column: families.auto(table[column]) for column in table}
        factorization = ad.Factorization.columns(proposed)
        rows = factorization.pack(table)
        train, valid = rows.tensor_split([len(rows) * 4 // 5])
        for make, grid in GRIDS.items():
            start, scores = time.process_time(), []
            for sizes in ({}, *grid):
                torch.manual_seed(0)
                scores.append(nats(make(factorization, **sizes), train, valid))
            line = f"{name:<10}{len(rows):6}{rows.shape[1]:9}  {make.__name__:<12}{scores[0]:9.3f}"
            behind = f"{min(scores[1:]):9.3f}{scores[0] - min(scores[1:]):9.3f}"
            print(f"{line}{behind}{time.process_time() - start:9.1f}", flush=True)


if __name__ == "__main__":
    main()
