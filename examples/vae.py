"""Variational autoencoders of binarized MNIST in Pyro, with autoregressive parts.

    python examples/vae.py --data DIR      # the simplest: Normal prior and guide, Bernoulli pixels
    python examples/vae.py --data DIR --prior made --guide iaf --likelihood pixelcnn
    python examples/vae.py --data DIR --table       # all of TABLE; resumes after a stop

Prior, guide and likelihood are chosen independently, and each model is trained for the same CPU
time. Prints the ELBO, its KL divergence and the importance-weighted bound (Burda et al. 2016) of
test images, in nats, and plots samples. The training loop is Pyro's SVI, since the objective is an
ELBO. Needs matplotlib and tqdm.
"""

import argparse
import math
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from binarized_mnist import FILE, SIDE, load
from matplotlib.image import imsave
from pyro import poutine
from pyro.infer import SVI, TraceMeanField_ELBO
from torch import Tensor, nn
from tqdm import tqdm

import ardist as ad

LATENTS, HIDDEN, MAPS = 16, 200, 4
BATCH, LR = {"bernoulli": 100, "pixelcnn": 32}, 2e-3
IMAGES, SAMPLES = 1000, 64  # of the test set, and of the guide for each
TABLE = """normal normal bernoulli, normal autoregressive bernoulli, normal iaf bernoulli,
made normal bernoulli, rnn normal bernoulli, normal normal pixelcnn,
made autoregressive bernoulli, made autoregressive pixelcnn"""
HEAD = "prior", "guide", "likelihood", "minutes", "seed", "steps", "ELBO", "KL", "bound"
LINE = "{:8}{:16}{:11}{:>8}{:>6}{:>8}{:>10}{:>8}{:>10}"
LATENT = ad.Factorization((LATENTS,), ad.families.Normal())


class Model(nn.Module):
    """p(z) p(x | z)."""

    def __init__(self, prior: str, likelihood: str) -> None:
        super().__init__()
        mixture = LATENT.with_families(ad.families.Mixture(ad.families.Normal(), 8))
        self.prior, self.pixels, shape = None, None, (SIDE, SIDE, 1)
        if prior == "made":
            self.prior = ad.networks.MADE(mixture, hidden_features=(128, 128))
        elif prior == "rnn":
            self.prior = ad.networks.RNN(mixture, hidden_size=64)
        if likelihood == "pixelcnn":
            shape = (SIDE, SIDE, MAPS)
            fac = ad.Factorization((SIDE, SIDE), ad.families.Bernoulli())
            given = {"context_shape": shape, "context_kind": "blocks"}
            self.pixels = ad.networks.PixelCNN(fac, channels=16, depth=4, **given)
        self.decoder = nn.Sequential(
            *(nn.Linear(LATENTS, HIDDEN), nn.ELU()),
            *(nn.Linear(HIDDEN, 32 * 49), nn.ELU(), nn.Unflatten(1, (32, 7, 7))),
            *(nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ELU()),
            nn.ConvTranspose2d(16, shape[-1], 4, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        pyro.module("model", self)
        p_z = dist.Normal(0.0, 1.0).expand((LATENTS,)).to_event(1)
        if self.prior is not None:
            p_z = self.prior.condition()
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", p_z)
            # Convolutions take one batch dimension and have channels first.
            maps = self.decoder(z.flatten(0, -2)).movedim(1, -1).unflatten(0, z.shape[:-1])
            if self.pixels is None:
                p_x = ad.families.Bernoulli()(maps).to_event(2)
            else:
                p_x = self.pixels.condition(maps)
            return pyro.sample("x", p_x, obs=x)


def independent_made(fac: ad.Factorization) -> ad.networks.MADE:
    """A MADE for latents that are independent of each other before training."""
    return ad.networks.MADE(fac, hidden_features=(128,), context_shape=(HIDDEN,))


class Guide(nn.Module):
    """q(z | x)."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.encoder = nn.Sequential(
            *(nn.Unflatten(1, (1, SIDE)), nn.Conv2d(1, 16, 4, 2, 1), nn.ELU()),
            *(nn.Conv2d(16, 32, 4, 2, 1), nn.ELU(), nn.Flatten()),
            *(nn.Linear(32 * 49, HIDDEN), nn.ELU()),
        )
        if kind == "autoregressive":
            self.network = independent_made(LATENT)
        else:
            self.normal = nn.Linear(HIDDEN, 2 * LATENTS)
        if kind == "iaf":
            reverse = LATENT.with_ordering(ad.Ordering.reverse())
            self.flow = nn.ModuleList([independent_made(LATENT), independent_made(reverse)])

    def forward(self, x: Tensor) -> None:
        pyro.module("guide", self)
        context = self.encoder(x)
        if self.kind == "autoregressive":
            q = self.network.condition(context)
        else:
            q = ad.families.Normal()(self.normal(context).unflatten(-1, (LATENTS, 2))).to_event(1)
        if self.kind == "iaf":  # the cache avoids the inverse, which goes latent by latent
            cached = partial(ad.transforms.AutoregressiveTransform, context=context, cache_size=1)
            q = dist.TransformedDistribution(q, [cached(network).inv for network in self.flow])
        with pyro.plate("images", len(x)):
            pyro.sample("z", q)


def learn(kinds: Sequence[str], images: Tensor, steps: int) -> tuple[Model, Guide, float]:
    """Maximizes the ELBO. Returns the model, its guide and the CPU seconds of the fastest step."""
    pyro.clear_param_store()
    model, guide, batch = Model(kinds[0], kinds[2]), Guide(kinds[1]), BATCH[kinds[2]]
    rate = {"lr_lambda": lambda step: math.cos(math.pi / 2 * step / steps) ** 2}
    adam = {"optimizer": torch.optim.Adam, "optim_args": {"lr": LR, "fused": True}}
    optimizer, fastest = pyro.optim.LambdaLR({**adam, **rate}), math.inf
    svi = SVI(model, guide, optimizer, TraceMeanField_ELBO())
    for step in (bar := tqdm(range(steps), leave=False, ncols=100)):
        start = time.process_time()
        loss = svi.step(images[torch.randint(len(images), (batch,))])
        optimizer.step()
        fastest = min(fastest, time.process_time() - start)
        if step % 20 == 0:
            bar.set_postfix_str(f"ELBO {-loss / batch:.1f} nats", refresh=False)
    return model, guide, fastest


@torch.no_grad()
def bounds(model: Model, guide: Guide, images: Tensor) -> list[float]:
    """ELBO, the KL divergence in it and importance-weighted bound: means, in nats."""
    parts = []
    for x in tqdm(images.split(5), "test images", leave=False, ncols=100):
        with pyro.plate("samples", SAMPLES, dim=-2):
            q = poutine.trace(guide).get_trace(x)
            p = poutine.trace(poutine.replay(model, trace=q)).get_trace(x)
        q.compute_log_prob()
        p.compute_log_prob()
        kl = q.nodes["z"]["log_prob"] - p.nodes["z"]["log_prob"]  # (SAMPLES, 5)
        weights = p.nodes["x"]["log_prob"] - kl
        weighted = weights.logsumexp(0) - math.log(SAMPLES)
        parts.append(torch.stack((weights.mean(0), kl.mean(0), weighted)))
    return torch.cat(parts, 1).double().mean(1).tolist()


@torch.no_grad()
def picture(model: Model, path: Path, rows: int = 3, columns: int = 12) -> None:
    """Digits drawn by the model."""
    digits = poutine.uncondition(model)(torch.empty(rows * columns, SIDE, SIDE))
    tiles = nn.functional.pad(digits, (1, 1, 1, 1), value=0.5).unflatten(0, (rows, columns))
    image = tiles.transpose(1, 2).flatten(2).flatten(0, 1)
    imsave(path, torch.kron(image, torch.ones(3, 3)).numpy(), cmap="gray")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help=f"folder of {FILE}")
    parser.add_argument("--prior", choices=["normal", "made", "rnn"], default="normal")
    parser.add_argument("--guide", choices=["normal", "iaf", "autoregressive"], default="normal")
    parser.add_argument("--likelihood", choices=["bernoulli", "pixelcnn"], default="bernoulli")
    parser.add_argument("--table", action="store_true", help="all of TABLE in place of these")
    parser.add_argument("--minutes", type=float, default=6.5, help="of CPU time to train each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("output"), help="folder to write to")
    args = parser.parse_args()
    if not (args.data / FILE).is_file():
        parser.error(f"{args.data / FILE} is missing: bits of `train`, `valid` and `test` images")
    torch.set_num_threads(args.threads)
    pyro.enable_validation(False)  # a run that diverges is a row of NaN
    args.output.mkdir(parents=True, exist_ok=True)
    train, _, test = load(args.data / FILE)
    images, path = test[:: len(test) // IMAGES], args.output / "vae.csv"
    lines = path.read_text().splitlines() if path.is_file() else [",".join(HEAD)]
    rows = {tuple(row[:5]): row for row in (line.split(",") for line in lines)}
    chosen = TABLE if args.table else f"{args.prior} {args.guide} {args.likelihood}"
    keys = [(*k.split(), f"{args.minutes:g}", f"{args.seed}") for k in chosen.split(",")]
    missing = [key for key in keys if key not in rows]
    # The costs of steps are measured in turn, so that other load on the machine affects all alike.
    rounds = [[learn(key, train, 6)[-1] for key in missing] for _ in range(10)]
    for key, cost in zip(missing, map(min, zip(*rounds, strict=True)), strict=True):
        rows[key] = [*key, f"{math.ceil(60 * args.minutes / cost)}"]
    print(f"nats of {IMAGES} test images; {SAMPLES} samples a bound; runs in {path} stay\n")
    print(LINE.format(*HEAD), flush=True)
    for key in keys:
        if len(row := rows[key]) < len(HEAD):  # planned, by this call or one that was stopped
            torch.manual_seed(args.seed)
            model, guide, _ = learn(key, train, int(row[-1]))
            picture(model, args.output / f"vae_{'_'.join(key[:3])}.png")
            row += [f"{nats:.2f}" for nats in bounds(model, guide, images)]
            path.write_text("".join(",".join(row) + "\n" for row in rows.values()))
        print(LINE.format(*row), flush=True)


if __name__ == "__main__":
    main()
