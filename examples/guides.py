"""Guides in Pyro: autoregressive posteriors of a funnel and eight schools, and Gaussian ones.

    python examples/guides.py

Neal's funnel and the eight schools (Rubin 1981), centred: the scale of some latents is a latent
too. Prints for each guide the ELBO and KL(guide, posterior) in nats, the Pareto k of importance
weights (reliable below 0.7: Yao et al. 2018) and KS, the largest Kolmogorov-Smirnov distance of a
latent's samples from the true ones: exact samples, or a long NUTS run for the schools. Gaussian
guides have cheaper steps and take three times as many. Plots all posteriors. The training loop is
Pyro's SVI, since the objective is an ELBO. Needs scipy, matplotlib and tqdm.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.infer.importance import psis_diagnostic, vectorized_importance_weights
from pyro.infer.reparam import LocScaleReparam
from scipy.stats import ks_2samp
from torch import Tensor
from tqdm import tqdm

from ardist.families import Mixture, Normal
from ardist.guides import AutoAutoregressive

EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
PARTICLES, LEARNING_RATE, DRAWS, SHOWN = 32, 0.03, 20_000, 2000
MIXTURE = Mixture(Normal(), 4)
GUIDES: dict[str, Callable] = {
    "AutoNormal": AutoNormal,
    "AutoMultivariateNormal": AutoMultivariateNormal,
    "AR, dense, Normal": AutoAutoregressive,
    "AR, model, Normal": lambda m: AutoAutoregressive(m, ordering="model"),
    "AR, model, Mixture": lambda m: AutoAutoregressive(m, MIXTURE, ordering="model"),
}
ORDER = "log_variance", "scale", "x", "theta", "mean"


def funnel() -> None:
    log_variance = pyro.sample("log_variance", dist.Normal(0.0, 3.0))
    with pyro.plate("nine", 9):
        pyro.sample("x", dist.Normal(0.0, (log_variance / 2).exp()))


def schools() -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
    scale = pyro.sample("scale", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(EFFECTS)):
        theta = pyro.sample("theta", dist.Normal(mean, scale))
        pyro.sample("effect", dist.Normal(theta, ERRORS), obs=EFFECTS)


def log_evidence_of_schools() -> float:
    """The log evidence, by quadrature over the log scale. Given the scale, all is Gaussian."""
    log_scale = torch.linspace(-20, 15, 20_001).double()
    scale, errors = log_scale.exp(), ERRORS.double()
    covariance = torch.diag_embed(scale[:, None] ** 2 + errors**2) + 5.0**2
    given_scale = dist.MultivariateNormal(torch.zeros(8).double(), covariance)
    joint = given_scale.log_prob(EFFECTS.double()) + dist.HalfCauchy(5.0).log_prob(scale)
    return torch.trapezoid((joint + log_scale).exp(), log_scale).log().item()


def nuts() -> dict[str, Tensor]:
    """Draws of the schools, by NUTS on the same model with theta = mean + scale * noise."""
    apart = pyro.poutine.reparam(schools, {"theta": LocScaleReparam(0.0)})
    kernel = NUTS(apart, jit_compile=True, ignore_jit_warnings=True)
    mcmc = MCMC(kernel, 4000, warmup_steps=500, disable_progbar=not sys.stderr.isatty())
    mcmc.run()
    draws = mcmc.get_samples()
    return {**draws, **Predictive(apart, draws, return_sites=["theta"])()}


def as_vectors(draws: dict[str, Tensor]) -> Tensor:
    """The latents as columns, with the logarithm of the scale: (N, 10)."""
    columns = [(name, draws[name].reshape(len(draws[name]), -1)) for name in ORDER if name in draws]
    return torch.cat([x.log() if name == "scale" else x for name, x in columns], -1)


def fit(model: Callable, guide: Callable, steps: int) -> None:
    adam = {"optimizer": torch.optim.Adam, "optim_args": {"lr": LEARNING_RATE}}
    plan = pyro.optim.CosineAnnealingLR({**adam, "T_max": steps})
    elbo = Trace_ELBO(num_particles=PARTICLES, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(model, guide, plan, elbo)
    for _ in tqdm(range(steps), leave=False, disable=None):
        svi.step()
        plan.step()


@torch.no_grad()
def judge(model: Callable, guide: Callable, truth: Tensor) -> tuple[Tensor, float, float, float]:
    """Draws of a guide, its ELBO, Pareto k, and largest distance from the truth."""
    sizes = {"num_samples": DRAWS, "max_plate_nesting": 1}
    weights, _, trace = vectorized_importance_weights(model, guide, **sizes)
    draws = as_vectors({name: trace.nodes[name]["value"] for name in ORDER if name in trace})
    k = psis_diagnostic(model, guide, num_particles=DRAWS, max_plate_nesting=1)
    pairs = zip(draws.T.numpy(), truth.T.numpy(), strict=True)
    return draws, weights.mean().item(), k, max(ks_2samp(*pair).statistic for pair in pairs)


def draw(panels: dict[str, dict[str, Tensor]], path: Path) -> None:
    """Plots the logarithm of the scale against one latent, with a row for each model."""
    figure = Figure((14, 5.6), layout="constrained")
    axes = figure.subplots(2, len(GUIDES) + 1, sharex="row", sharey="row")
    for row, (title, draws) in zip(axes, panels.items(), strict=True):
        for ax, (name, x) in zip(row, draws.items(), strict=True):
            ax.scatter(x[:SHOWN, 1], x[:SHOWN, 0], s=2, alpha=0.4, linewidths=0)
            ax.set_title(name, fontsize=9)
        low, high = draws["truth"][:, :2].quantile(torch.tensor([0.005, 0.995]), 0)
        row[0].set(xlim=(low[1], high[1]), ylim=(low[0] - 1, high[0] + 1), ylabel=title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500, help="of SVI")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("output"), help="for guides.png")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pyro.set_rng_seed(args.seed)
    start, panels, exact = time.process_time(), {}, Predictive(funnel, num_samples=DRAWS)
    for title, model, sampler, evidence in (
        ("funnel: log variance over x[0]", funnel, exact, 0.0),
        ("schools: log scale over theta[0]", schools, nuts, log_evidence_of_schools()),
    ):
        truth = as_vectors(sampler())
        panels[title] = {"truth": truth}
        print(f"{title.split(':')[0]:26}{'ELBO':>10}{'KL, nats':>10}{'Pareto k':>10}{'KS':>8}")
        for name, make in GUIDES.items():
            pyro.clear_param_store()
            guide = make(model)
            fit(model, guide, args.steps * (1 if name.startswith("AR") else 3))
            panels[title][name], elbo, k, distance = judge(model, guide, truth)
            print(f"  {name:24}{elbo:10.3f}{evidence - elbo:10.3f}{k:10.2f}{distance:8.3f}")
    draw(panels, args.output / "guides.png")
    print(f"{time.process_time() - start:.0f} s of CPU time")


if __name__ == "__main__":
    main()
