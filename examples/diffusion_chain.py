"""A diffusion model as an autoregressive chain from noise to data, with its bound in nats.

An event is a chain x_0, ..., x_T of points in the plane, which the model samples from the last to
the first, p(x_T) p(x_{T-1} | x_T) ... p(x_0 | x_1). It is a Markov network, whose module reads the
previous point and the step. Another Markov network adds noise, q(x_1, ..., x_T | x_0), in raster
order and with x_0 as its context. E_q[log q - log p] is an upper bound of -log p(x_0)
(Sohl-Dickstein et al. 2015). Its mean over the data is at least their entropy, which is known here,
since the data are samples of a density on a spiral. Needs matplotlib and tqdm.
"""

import argparse
import math
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import ardist as ad

T, BATCH, WIDTH, WAVES, LEARNING_RATE = 64, 128, 128, 32, 4e-3  # T steps of noise


def spiral(points: int = 80, width: float = 0.08) -> MixtureSameFamily:
    """The density of the data: normals along two arms, with a variance of about one."""
    angle = torch.linspace(0.2, 1.0, points).sqrt() * 3 * math.pi  # evenly along an arm
    arm = torch.stack((angle.cos(), angle.sin()), -1) * angle.unsqueeze(-1) * 0.2
    along = Independent(Normal(torch.cat((arm, -arm)), width), 1)
    return MixtureSameFamily(Categorical(torch.ones(2 * points)), along)


# q(x_t | x_0) is Normal(alpha_t x_0, sigma_t), q(x_t | x_{t-1}) Normal(keep_t x_{t-1}, added_t).
ALPHA = torch.cat((torch.ones(1), torch.linspace(6.5, -6.5, T).sigmoid().sqrt()))
SIGMA = (1 - ALPHA.square()).sqrt()
KEEP = ALPHA[1:] / ALPHA[:-1]
ADDED = (SIGMA[1:].square() - (KEEP * SIGMA[:-1]).square()).sqrt()


def as_params(mean: Tensor, scale: Tensor) -> Tensor:
    """The parameters of `Independent(Normal(), (2,))`, whose scale is log2(1 + 2 ** raw)."""
    return torch.stack((mean, (scale * math.log(2)).expm1().log2().expand_as(mean)), -1)


class Forward(nn.Module):
    """q(x_t | x_{t-1}), which has no parameters."""

    def forward(self, past: Tensor, step: Tensor, start: Tensor) -> Tensor:
        step = step.unsqueeze(-1)
        return as_params(KEEP[step] * torch.where(step == 0, start, past[:, 0]), ADDED[step])


class Reverse(nn.Module):
    """p(x_{t-1} | x_t): q(x_{t-1} | x_t, x_0) at a guess x_0 = alpha_t x_t + sigma_t f(x_t, t)."""

    def __init__(self) -> None:
        super().__init__()
        # For t = 1, ..., T: the weights of x_t and of the guess in the mean, and the scale.
        of_x = KEEP * (SIGMA[:-1] / SIGMA[1:]).square()
        of_guess = ALPHA[:-1] * (ADDED / SIGMA[1:]).square()
        scale = ADDED * SIGMA[:-1] / SIGMA[1:]
        scale[0] = SIGMA[1]  # of x_0, for which q has no scale
        table = torch.stack((ALPHA[1:], SIGMA[1:], of_x, of_guess, scale), -1).flip(0)
        prior = torch.eye(5)[-1:]  # of x_T, which is drawn first: mean zero and scale one
        self.register_buffer("table", torch.cat((prior, table)))
        self.register_buffer("waves", 4 * torch.randn(2, WAVES))  # as short as the arms are thin
        self.step, self.read = nn.Embedding(T + 1, WIDTH), nn.Linear(2 + 2 * WAVES, WIDTH)
        hidden = [nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH)]
        self.rest = nn.Sequential(*hidden, nn.SiLU(), nn.Linear(WIDTH, 4))

    def forward(self, past: Tensor, step: Tensor) -> Tensor:
        x = past[:, 0]
        alpha, sigma, of_x, of_guess, scale = self.table[step].unsqueeze(-1).unbind(1)
        features = torch.cat((x, (x @ self.waves).sin(), (x @ self.waves).cos()), -1)
        f, correction = self.rest(self.read(features) + self.step(step)).chunk(2, -1)
        mean = of_x * x + of_guess * (alpha * x + sigma * f)
        return as_params(mean, scale * correction.exp())


def build() -> tuple[ad.networks.Markov, ad.networks.Markov]:
    """The model's chain x_T, ..., x_0, and the chain x_1, ..., x_T of noise."""
    family, along = ad.families.Independent(ad.families.Normal(), (2,)), ad.Partition.along(0)
    down = ad.Factorization((T + 1, 2), family, partition=along, ordering=ad.Ordering.reverse())
    up = ad.Factorization((T, 2), family, partition=along)
    p = ad.networks.Markov(down, window=1, module=Reverse())
    return p, ad.networks.Markov(up, window=1, module=Forward(), context_shape=(2,))


def bound(p: nn.Module, q: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """log q - log p of a chain for each point, whose mean is at least -log p(x), and the chains."""
    up = ad.AutoregressiveDistribution(q, x)
    noised = up.sample()
    chain = torch.cat((x.unsqueeze(1), noised), 1)
    return up.log_prob(noised) - ad.AutoregressiveDistribution(p).log_prob(chain), chain


class Bound(nn.Module):
    """Minus the bound, which is lower than log p(x) on average: (N,)."""

    def __init__(self, p: nn.Module, q: nn.Module) -> None:
        super().__init__()
        self.p, self.q = p, q

    def forward(self, x: Tensor) -> Tensor:
        return -bound(self.p, self.q, x)[0]


def fit(p: nn.Module, q: nn.Module, data: MixtureSameFamily, steps: int, seed: int) -> None:
    every = min(100, steps)
    x = data.sample((BATCH * steps,))
    options = {"valid": None, "batch_size": BATCH, "warmup": 0, "clip": 10.0, "seed": seed}
    options |= {"max_epochs": math.ceil(steps / every), "steps_per_epoch": every}
    ad.training.fit(Bound(p, q), x, lr=LEARNING_RATE, **options)


def picture(chains: dict[str, Tensor], path: Path, times: tuple[int, ...]) -> None:
    """Plots chains (N, T + 1, 2) by name, at these times."""
    figure = Figure(figsize=(2 * len(times), 4.4), layout="constrained")
    rows = zip(figure.subplots(2, len(times)), chains.items(), ("white", "#ffa62b"), strict=True)
    for axes, (name, chain), color in rows:
        for axis, t in zip(axes, times, strict=True):
            axis.scatter(*chain[:, t].T, s=0.9, c=color, linewidths=0)
            axis.set(xlim=(-2.9, 2.9), ylim=(-2.9, 2.9), aspect="equal", facecolor="#14141c")
            axis.set(xticks=[], yticks=[], xlabel=f"t = {t}")
        axes[0].set_ylabel(name)
    figure.savefig(path, dpi=150, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000, help="of training")
    parser.add_argument("--threads", type=int, default=1, help="more are slower on a busy machine")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("output"), help="for the picture")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    data, (p, q), start = spiral(), build(), time.perf_counter()
    fit(p, q, data, args.steps, args.seed)
    print(f"{time.perf_counter() - start:.0f} s on {args.threads} thread(s), seed {args.seed}")
    with torch.no_grad():
        found, chains = zip(*(bound(p, q, data.sample((2000,))) for _ in range(20)), strict=True)
    surprise = -data.log_prob(data.sample((200_000,)))
    for name, nats in {"entropy of the data": surprise, "bound": torch.cat(found)}.items():
        print(f"{name}: {nats.mean():.3f} +- {nats.std() / len(nats) ** 0.5:.3f} nats")
    print("Expected: a bound of 1.70 nats, plus or minus 0.02 between seeds.")
    drawn = ad.AutoregressiveDistribution(p).sample((2000,))
    named = {"noise added to data": chains[0], "sampled from the model": drawn}
    picture(named, args.output / "diffusion_chain.png", (T, 36, 28, 22, 16, 8, 0))
    print(f"picture: {args.output / 'diffusion_chain.png'}")


if __name__ == "__main__":
    main()
