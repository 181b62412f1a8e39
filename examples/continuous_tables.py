"""Continuous tables: mixtures in one order and in any order, and a stack of spline transforms.

`--data DIR` has any of power.npz, gas.npz, hepmass.npz, miniboone.npz and bsds300.npz, with arrays
train, valid and test that the classes of MAF's repository (gpapamak/maf) preprocess:
`data = datasets.POWER(); numpy.savez("power.npz", train=data.trn.x, valid=data.val.x,
test=data.tst.x)`. It also reads magic_gamma.npz if DIR has it. Without the other five it adds two
small tables that ship with packages. Needs scikit-learn and statsmodels.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import statsmodels.api as sm
import table_files  # the module next to this one
import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

import ardist as ad
from ardist import families as fam
from ardist.networks import MADE, Masked
from ardist.transforms import AutoregressiveTransform

UCI = ("power", "gas", "hepmass", "miniboone", "bsds300")
PUBLISHED = {  # mean test log-likelihood in nats on each of UCI, from memory of the papers
    "Gaussian, Papamakarios et al. 2017": (-7.74, -3.58, -27.93, -37.24, 96.67),
    "MADE, mixtures, the same": (0.40, 8.47, -15.15, -12.27, 153.71),
    "MAF of 10, the same": (0.24, 10.08, -17.73, -12.24, 154.93),
    "MAF of 5, mixtures, the same": (0.30, 9.59, -17.39, -11.68, 156.36),
    "RQ-NSF (AR), Durkan et al. 2019": (0.66, 13.09, -14.01, -9.22, 157.31),
}
DEPTH, HIDDEN, LR = 5, (64, 64), 1e-3
NORMALS = fam.Mixture(fam.Normal(min_scale=0.01), 10)  # a bound, since data may be rounded


class Stack(nn.Module):
    """Noise through transforms of alternating orders. `forward` is the log-likelihood of rows."""

    def __init__(self, features: int, family: fam.Family) -> None:
        super().__init__()
        orderings = [ad.Ordering.raster(), ad.Ordering.reverse()] * DEPTH
        factorizations = [ad.Factorization(features, family, ordering=o) for o in orderings[:DEPTH]]
        nets = [MADE(factorization, hidden_features=HIDDEN) for factorization in factorizations]
        self.layers = nn.ModuleList(map(AutoregressiveTransform, nets))
        self.noise = dist.Normal(torch.zeros(features), 1.0).to_event(1)

    def forward(self, x: Tensor) -> Tensor:
        return dist.TransformedDistribution(self.noise, [*self.layers]).log_prob(x)


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "MADE, mixtures": lambda features: MADE(ad.Factorization(features, NORMALS)),
    "Masked, mixtures, any order": lambda features: Masked(ad.Factorization(features, NORMALS)),
    f"stack of {DEPTH} splines": lambda features: Stack(features, fam.Spline(8)),
}


def load(folder: Path) -> dict[str, list[np.ndarray]]:
    """Training, validation and test rows by name. The UCI tables have the units of MAF."""
    paths = {name: folder / f"{name}.npz" for name in (*UCI, "magic_gamma")}
    found = {name: table_files.read(path) for name, path in paths.items() if path.is_file()}
    if not set(UCI) & set(found):
        found["breast_cancer"] = table_files.split(load_breast_cancer().data)
        schools = sm.datasets.star98.load_pandas().data.to_numpy(float)
        found["star98"] = table_files.split(schools[:, :12])  # the others are products of these
    for name in set(found) - set(UCI):
        mean, deviation = found[name][0].mean(0), found[name][0].std(0)
        found[name] = [(part - mean) / deviation for part in found[name]]
    return found


@torch.no_grad()
def score(model: nn.Module, x: Tensor) -> float:
    """The mean log-likelihood of rows."""
    if isinstance(model, ad.networks.ConditionalNetwork):
        model = ad.LogLikelihood(model)
    return torch.cat([model(rows).double() for rows in x.split(2048)]).mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="see the top of the file")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training, of each model")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tables", nargs="*", help="by their names; all by default")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name, parts in load(args.data).items():
        if args.tables and name not in args.tables:
            continue
        train, valid, test = (torch.from_numpy(part).float() for part in parts)
        sizes = " / ".join(str(len(part)) for part in parts)
        print(f"\n{name}: {sizes} rows of {train.shape[1]} columns, test nats, higher is better")
        covariance = train.T.cov() + 1e-6 * torch.eye(train.shape[1])
        gaussian = MultivariateNormal(train.mean(0), covariance).log_prob(test).mean()
        print(f"  {'Gaussian':<36}{gaussian:9.3f}")
        for title, make in MODELS.items():
            scores, start = [], time.perf_counter()
            for seed in range(args.seeds):
                torch.manual_seed(seed)
                model, batch = make(train.shape[1]), min(max(len(train) // 32, 32), 256)
                options = {"batch_size": batch, "time_limit": args.seconds, "patience": None}
                options |= {"lr": LR, "weight_decay": 1e-2, "seed": seed, "progress": False}
                ad.training.fit(model, train, valid=valid, **options)
                scores.append(score(model, test))
            error = np.std(scores, ddof=1) / len(scores) ** 0.5 if len(scores) > 1 else np.nan
            text = f"{np.mean(scores):9.3f} +- {error:.3f} of {args.seeds} seeds"
            print(f"  {title:<36}{text}, {time.perf_counter() - start:.0f} s", flush=True)
        for title, values in PUBLISHED.items() if name in UCI else ():
            print(f"  {title:<36}{values[UCI.index(name)]:9.2f}  from memory of the paper")


if __name__ == "__main__":
    main()
